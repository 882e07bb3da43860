"""Published files, from the user's own folder, the cache, or a mirror; always with a checksum."""

import os
from pathlib import Path
from typing import Any

import pooch
import requests

from ._base import DatasetError
from ._source import Source

TIMEOUT = 15.0  # seconds, to connect and between two parts of a response

# By default pooch writes every download to stderr, in the middle of the command's own output.
pooch.get_logger().setLevel("WARNING")


def fetch(source: Source, name: str, *, cache: Path | None = None) -> Path:
    """The path of a file with the right checksum, downloaded if it is not here yet.

    The order is: `$CURVATURE_DATA`, if set; the cache; the mirrors. A download gets its name only
    when it is complete and its checksum is right.

    **Arguments:**

    - `source`: where the file is published.
    - `name`: the name of the file, one of `source.sha256`.
    - `cache`: the folder in which to keep `source.folder`, by default the user's cache.

    **Raises:** `DatasetError` if `$CURVATURE_DATA` is not a folder or holds this file with the
    wrong checksum, if the cache cannot be written, or if no mirror has the file.
    """
    provided = _user_file(source, name)
    if provided is not None:
        return provided
    folder = (pooch.os_cache("curvature") if cache is None else cache) / source.folder
    # `Any`: the type that pooch declares for downloaders does not accept pooch's own.
    downloader: Any = pooch.HTTPDownloader(timeout=TIMEOUT, chunk_size=2**16)
    failures = []
    for mirror in source.mirrors:
        try:
            return Path(
                pooch.retrieve(
                    mirror + name,
                    known_hash=source.sha256[name],
                    fname=name,
                    path=folder,
                    downloader=downloader,
                )
            )
        except requests.HTTPError as error:
            failures.append(str(error))
        except requests.RequestException as error:
            # Only the type: the text of the exception repeats the address three times.
            failures.append(f"{type(error).__name__} for url: {mirror}{name}")
        except OSError as error:
            raise DatasetError(
                f"Cannot store `{name}` in the cache `{folder}`: {error}. Make the folder "
                "writable, or set `CURVATURE_DATA` to a folder that has "
                f"`{source.folder}/{name}`."
            ) from error
        except ValueError:  # pooch raises it for a wrong checksum
            failures.append(f"wrong checksum for url: {mirror}{name}")
    raise DatasetError(
        f"Cannot download `{name}`: {', '.join(failures)}. Check the network, or set "
        f"`CURVATURE_DATA` to a folder that has `{source.folder}/{name}`."
    )


def _user_file(source: Source, name: str) -> Path | None:
    root = os.environ.get("CURVATURE_DATA")
    if not root:
        return None
    if not Path(root).is_dir():
        raise DatasetError(f"`CURVATURE_DATA` must name an existing folder, got `{root}`.")
    path = Path(root) / source.folder / name
    if not path.exists():
        return None
    try:
        found = pooch.file_hash(path)
    except OSError as error:
        raise DatasetError(f"Cannot read `{path}`: {error}.") from error
    if found != source.sha256[name]:
        raise DatasetError(
            f"`{path}` must have the SHA-256 checksum {source.sha256[name]}, got {found}. "
            "Replace the file, or remove it to download it again."
        )
    return path
