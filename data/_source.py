from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Where the files of one dataset are published.

    **Arguments:**

    - `folder`: the name of their folder, in `$CURVATURE_DATA` and in the cache.
    - `mirrors`: addresses that end in `/`, in the order to try.
    - `sha256`: the checksum of each file by its name.
    """

    folder: str
    mirrors: tuple[str, ...]
    sha256: Mapping[str, str]
