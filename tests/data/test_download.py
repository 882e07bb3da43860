"""Downloads with pooch, from a server on this machine that serves right and wrong files."""

import hashlib
import http.server
import io
import socket
import threading

import pytest

from data import DatasetError, download

NAME = "file.gz"
RIGHT = bytes(range(256)) * 40


class Server(http.server.ThreadingHTTPServer):
    """Keeps the mirrors that were requested, in order."""

    requests: list[str]


class Handler(http.server.BaseHTTPRequestHandler):
    """Each folder is a mirror, named by its behaviour."""

    def do_GET(self):
        mirror = self.path.removesuffix(NAME)
        assert isinstance(self.server, Server)
        self.server.requests.append(mirror)
        status, body = {
            "/right/": (200, RIGHT),
            "/wrong/": (200, RIGHT[::-1]),
            "/cut/": (200, RIGHT[:5000]),
            "/short/": (200, RIGHT[:5000]),
            "/empty/": (200, b""),
            "/html/": (200, b"<!DOCTYPE html><html>Log in to the network</html>"),
            "/broken/": (503, b"later"),
        }.get(mirror, (404, b"<html>Not found</html>"))
        # "cut": the connection breaks. "short": the copy of the mirror is truncated.
        length = len(RIGHT) if mirror == "/cut/" else len(body)
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        del arguments  # the default writes to stderr


@pytest.fixture(scope="module")
def server():
    with Server(("127.0.0.1", 0), Handler) as server:
        server.requests = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def mirrors(server, monkeypatch):
    """`mirrors(*names)`: the addresses of mirrors, which are named by their behaviour."""
    monkeypatch.delenv("CURVATURE_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server.requests.clear()
    return lambda *names: tuple(f"http://127.0.0.1:{server.server_port}/{n}/" for n in names)


@pytest.fixture
def unused_port():
    with socket.socket() as bound:  # not listening, so connections are refused
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def source(mirrors, content=RIGHT):
    return download.Source("tiny", tuple(mirrors), {NAME: hashlib.sha256(content).hexdigest()})


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def refuses(published, cache, match):
    with pytest.raises(DatasetError, match=match) as caught:
        download.fetch(published, NAME, cache=cache)
    assert NAME in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_download_is_kept_and_not_repeated(mirrors, server, tmp_path):
    published = source(mirrors("right"))
    path = download.fetch(published, NAME, cache=tmp_path)
    assert path == tmp_path / "tiny" / NAME
    assert path.read_bytes() == RIGHT
    assert download.fetch(published, NAME, cache=tmp_path) == path
    assert server.requests == ["/right/"]
    assert len(files(tmp_path)) == 1


def test_a_download_is_quiet(mirrors, tmp_path, monkeypatch):
    heard = io.StringIO()
    for handler in download.pooch.get_logger().handlers:
        monkeypatch.setattr(handler, "stream", heard)
    download.fetch(source(mirrors("wrong", "right")), NAME, cache=tmp_path)
    assert heard.getvalue() == ""


def test_by_default_files_are_kept_in_the_cache_of_the_user(mirrors, tmp_path, monkeypatch):
    monkeypatch.setattr(download.pooch, "os_cache", lambda project: tmp_path / project)
    path = download.fetch(source(mirrors("right")), NAME)
    assert path == tmp_path / "curvature" / "tiny" / NAME


BAD = {
    "wrong": "wrong checksum",
    "cut": "ChunkedEncodingError",
    "short": "wrong checksum",
    "empty": "wrong checksum",
    "html": "wrong checksum",
    "absent": "404 Client Error: Not Found",
    "broken": "503 Server Error: Service Unavailable",
}


@pytest.mark.parametrize("behaviour", BAD)
def test_a_bad_mirror_leaves_nothing_behind(mirrors, tmp_path, behaviour):
    message = refuses(source(mirrors(behaviour)), tmp_path, "Check the network")
    assert f"{BAD[behaviour]} for url: {mirrors(behaviour)[0]}{NAME}" in message
    assert "set `CURVATURE_DATA`" in message
    assert f"tiny/{NAME}" in message
    assert files(tmp_path) == []


@pytest.mark.parametrize("behaviour", BAD)
def test_the_next_mirror_is_tried(mirrors, server, tmp_path, behaviour):
    path = download.fetch(source(mirrors(behaviour, "right")), NAME, cache=tmp_path)
    assert path.read_bytes() == RIGHT
    assert server.requests == [f"/{behaviour}/", "/right/"]
    assert files(tmp_path) == [path.relative_to(tmp_path)]


def test_mirrors_are_tried_in_order_and_all_are_named(mirrors, server, tmp_path):
    message = refuses(source(mirrors("html", "absent", "wrong")), tmp_path, r"html.*absent.*wrong")
    assert server.requests == ["/html/", "/absent/", "/wrong/"]
    assert message.count("http://") == 3


def test_after_a_refused_connection_the_next_mirror_is_tried(mirrors, tmp_path, unused_port):
    dead = f"http://127.0.0.1:{unused_port}/"
    refuses(source([dead]), tmp_path, r"ConnectionError.*Check the network")
    assert files(tmp_path) == []
    path = download.fetch(source([dead, *mirrors("right")]), NAME, cache=tmp_path)
    assert path.read_bytes() == RIGHT


def test_a_mirror_that_never_answers_is_given_up(mirrors, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, but sends nothing
        dead = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        refuses(source([dead]), tmp_path, "ReadTimeout")
    assert files(tmp_path) == []


def test_an_interrupted_download_leaves_nothing_behind(mirrors, tmp_path, monkeypatch):
    class Interrupted(download.pooch.HTTPDownloader):
        def __call__(self, url, output_file, pooch, check_only=False):
            super().__call__(url, output_file, pooch, check_only)
            assert files(tmp_path) != []
            raise KeyboardInterrupt

    monkeypatch.setattr(download.pooch, "HTTPDownloader", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        download.fetch(source(mirrors("right")), NAME, cache=tmp_path)
    assert files(tmp_path) == []


def test_a_corrupted_file_in_the_cache_is_replaced(mirrors, server, tmp_path):
    published = source(mirrors("right"))
    path = download.fetch(published, NAME, cache=tmp_path)
    path.write_bytes(RIGHT[:-1])
    assert download.fetch(published, NAME, cache=tmp_path).read_bytes() == RIGHT
    assert server.requests == ["/right/", "/right/"]
    assert len(files(tmp_path)) == 1


def test_a_corrupted_file_in_the_cache_is_never_used(mirrors, tmp_path):
    path = download.fetch(source(mirrors("right")), NAME, cache=tmp_path)
    path.write_bytes(RIGHT[:-1])
    refuses(source(mirrors("absent")), tmp_path, "Check the network")


def test_a_cache_that_cannot_be_written_is_an_error(mirrors, tmp_path):
    (tmp_path / "tiny").write_text("a file where the folder should be")
    refuses(source(mirrors("right")), tmp_path, r"Cannot store .* in the cache")


@pytest.fixture
def own_folder(tmp_path, monkeypatch, mirrors):
    del mirrors  # this fixture clears the variable, so it must run first
    monkeypatch.setenv("CURVATURE_DATA", str(tmp_path / "own"))
    (tmp_path / "own" / "tiny").mkdir(parents=True)
    return tmp_path / "own" / "tiny"


def test_a_file_in_the_own_folder_is_not_downloaded(mirrors, server, tmp_path, own_folder):
    (own_folder / NAME).write_bytes(RIGHT)
    path = download.fetch(source(mirrors("right")), NAME, cache=tmp_path / "cache")
    assert path == own_folder / NAME
    assert server.requests == []


def test_a_file_that_is_not_in_the_own_folder_is_downloaded(mirrors, tmp_path, own_folder):
    path = download.fetch(source(mirrors("right")), NAME, cache=tmp_path / "cache")
    assert path == tmp_path / "cache" / "tiny" / NAME
    assert files(own_folder) == []


def test_a_wrong_file_in_the_own_folder_is_an_error(mirrors, server, tmp_path, own_folder):
    (own_folder / NAME).write_bytes(RIGHT[:-1])
    published = source(mirrors("right"))
    message = refuses(
        published, tmp_path / "cache", r"must have the SHA-256 checksum.*Replace the file"
    )
    assert str(own_folder / NAME) in message
    assert server.requests == []
    assert (own_folder / NAME).read_bytes() == RIGHT[:-1]


def test_a_folder_in_place_of_the_file_is_an_error(mirrors, tmp_path, own_folder):
    (own_folder / NAME).mkdir()
    refuses(source(mirrors("right")), tmp_path / "cache", "Cannot read")


def test_an_own_folder_that_does_not_exist_is_an_error(mirrors, tmp_path, monkeypatch):
    monkeypatch.setenv("CURVATURE_DATA", str(tmp_path / "typo"))
    with pytest.raises(DatasetError, match=r"`CURVATURE_DATA` must name an existing folder.*typo"):
        download.fetch(source(mirrors("right")), NAME, cache=tmp_path / "cache")
