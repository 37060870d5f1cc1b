"""Downloads: checksums, the order of search, resumption, and what stays when one fails."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tism.study.data import download
from tism.study.data.download import DownloadError, checksum_of, data_root, fetch

CONTENT = bytes(range(256)) * 400
GOOD = hashlib.sha256(CONTENT).hexdigest()
PATH = "set/file.bin"
NO_SERVER = "http://127.0.0.1:9/file.bin"


@dataclass
class Server:
    """What the server under test holds and does, and the requests it got."""

    content: bytes = CONTENT
    etag: str | None = '"v1"'
    ranges: bool = True
    content_type: str = "application/octet-stream"
    status: list[int] = field(default_factory=list)  # answered first, one a request
    break_after: list[int] = field(default_factory=list)  # bytes sent before the line breaks
    ranges_asked: list[str | None] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers["Range"]
        self.ranges_asked.append(asked)
        if self.status:
            handler.send_error(self.status.pop(0))
            return
        start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked else 0
        partial = asked and self.ranges and handler.headers["If-Range"] == self.etag
        if partial and start >= len(self.content):
            handler.send_error(416)
            return
        body = self.content[start:] if partial else self.content
        handler.send_response(206 if partial else 200)
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("Content-Type", self.content_type)
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.end_headers()
        handler.wfile.write(body[: self.break_after.pop(0)] if self.break_after else body)


@pytest.fixture
def server():
    with serving(Server()) as state:
        yield state


@contextmanager
def serving(state: Server):
    """The server at `state.url` while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.answer(self)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=[0.01])
        thread.start()
        state.url = f"http://127.0.0.1:{httpd.server_port}/file.bin"
        yield state
        httpd.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TISM_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TISM_DATA_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "WAIT_SECONDS", 0)
    monkeypatch.setattr(download, "CHUNK_BYTES", 500)
    return tmp_path / "cache"


@pytest.fixture
def listed(tmp_path, monkeypatch, cache):
    """Lists files of a made-up sources.csv: called with (path, sha256, url) of each."""

    def write(*rows: tuple[str, str, str]) -> None:
        root = tmp_path / "repository"
        root.mkdir(exist_ok=True)
        with open(root / "sources.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "bytes", "sha256", "url", "licence", "citation"])
            writer.writerows([path, "", sha256, url, "MIT", ""] for path, sha256, url in rows)
        monkeypatch.setattr(download, "data_root", lambda: root)

    return write


@pytest.fixture
def put(cache):
    """Writes a file of the cache: called with its path and content."""

    def write(path: str, content: bytes | str) -> None:
        target = cache / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def leftovers(cache) -> list[str]:
    """Files of the cache that are neither data nor locks."""
    names = [path.name for path in cache.rglob("*") if path.is_file()]
    return sorted(name for name in names if not name.endswith((".lock", "file.bin")))


def test_downloads_once_and_shows_it(server, listed, cache, capsys):
    listed((PATH, GOOD, server.url))
    assert fetch(PATH) == cache / PATH
    assert "file.bin" in capsys.readouterr().err
    assert fetch(PATH).read_bytes() == CONTENT
    assert len(server.ranges_asked) == 1
    assert leftovers(cache) == []


def test_broken_connection_is_continued(server, listed):
    listed((PATH, GOOD, server.url))
    server.break_after = [1000, 5000]
    assert fetch(PATH).read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=1000-", "bytes=6000-"]


def test_killed_download_is_continued(server, listed, cache, monkeypatch):
    listed((PATH, GOOD, server.url))
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.break_after = [1000]
    with pytest.raises(DownloadError, match="try again"):
        fetch(PATH)
    assert leftovers(cache) == ["file.bin.part", "file.bin.part.validator"]
    assert fetch(PATH).read_bytes() == CONTENT
    assert server.ranges_asked[-1] == "bytes=1000-"


@pytest.mark.parametrize("change", [{"ranges": False}, {"etag": '"v2"'}, {"etag": None}])
def test_download_starts_again_where_it_cannot_continue(server, listed, monkeypatch, change):
    """A server without ranges or validators, or with another version of the file by now."""
    listed((PATH, "", server.url))
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.content, server.break_after = CONTENT[::-1], [1000]
    if change == {"etag": None}:
        server.etag = None
    with pytest.raises(DownloadError):
        fetch(PATH)
    server.content = CONTENT
    for name, value in change.items():
        setattr(server, name, value)
    assert fetch(PATH).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("published", "asked"), [(GOOD, []), ("", [f"bytes={len(CONTENT)}-", None])]
)
def test_part_that_is_already_complete(server, listed, put, published, asked):
    listed((PATH, published, server.url))
    put(f"{PATH}.part", CONTENT)
    put(f"{PATH}.part.validator", server.etag)
    assert fetch(PATH).read_bytes() == CONTENT
    assert server.ranges_asked == asked


def test_damaged_download_is_refused_and_the_old_file_stays(server, listed, cache, put):
    listed((PATH, GOOD, server.url))
    put(PATH, b"old version")
    server.content = b"damaged"
    with (
        pytest.warns(UserWarning, match="file.bin is not used"),
        pytest.raises(DownloadError, match="cached before is kept; try again") as error,
    ):
        fetch(PATH)
    for word in (PATH, server.url, GOOD, hashlib.sha256(b"damaged").hexdigest()):
        assert word in str(error.value)
    assert (cache / PATH).read_bytes() == b"old version"
    assert leftovers(cache) == []
    server.content = CONTENT
    with pytest.warns(UserWarning, match=GOOD):
        assert fetch(PATH).read_bytes() == CONTENT


def test_mirror_is_used_in_place_but_not_a_damaged_file(server, listed, cache, put, monkeypatch):
    listed((PATH, GOOD, server.url))
    put(f"../mirror/{PATH}", CONTENT)
    mirror = cache.parent / "mirror"
    monkeypatch.setenv("TISM_DATA_MIRROR", str(mirror))
    assert fetch(PATH) == mirror / PATH
    assert server.ranges_asked == []
    put(f"../mirror/{PATH}", b"damaged")
    with pytest.warns(UserWarning, match="mirror"):
        assert fetch(PATH) == cache / PATH
    assert (mirror / PATH).read_bytes() == b"damaged"


def test_first_checksum_holds_where_none_is_published(server, listed, cache):
    listed((PATH, "", server.url))
    fetch(PATH)
    record = cache / f"{PATH}.json"
    assert json.loads(record.read_text())["sha256"] == GOOD
    (cache / PATH).unlink()
    server.content = b"replaced"
    with pytest.raises(DownloadError, match=re.escape(str(record))):
        fetch(PATH)
    record.unlink()
    assert fetch(PATH).read_bytes() == b"replaced"


def test_file_laid_into_the_cache_by_hand_is_recorded(listed, cache, put):
    listed((PATH, "", NO_SERVER))
    put(PATH, CONTENT)
    assert fetch(PATH) == cache / PATH
    assert json.loads((cache / f"{PATH}.json").read_text())["sha256"] == GOOD
    put(f"{PATH}.json", "{")
    with pytest.raises(DownloadError, match=r"file\.bin\.json is damaged; delete it"):
        fetch(PATH)


def test_web_page_instead_of_the_file_is_refused(server, listed, cache):
    listed((PATH, "", server.url))
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="web page"):
        fetch(PATH)
    assert not (cache / PATH).exists()


def test_busy_server_is_asked_again_but_a_missing_file_is_not(server, listed):
    listed((PATH, GOOD, server.url))
    server.status = [404]
    with pytest.raises(DownloadError, match="404"):
        fetch(PATH)
    assert len(server.ranges_asked) == 1
    server.status = [503]
    assert fetch(PATH).read_bytes() == CONTENT


def test_offline(listed, cache):
    listed((PATH, GOOD, NO_SERVER))
    with pytest.raises(DownloadError, match="TISM_DATA_MIRROR") as error:
        fetch(PATH)
    assert PATH in str(error.value)
    assert not (cache / PATH).exists()


def test_cache_that_cannot_be_written(listed, cache):
    listed((PATH, GOOD, NO_SERVER))
    cache.write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match="set TISM_DATA_DIR"):
        fetch(PATH)


def test_unlisted_file_is_refused_with_what_is_close(listed):
    listed((PATH, GOOD, ""))
    with pytest.raises(ValueError, match=r"close to it: set/file\.bin"):
        fetch("set/flie.bin")
    with pytest.raises(ValueError, match="set/fil"):
        fetch("set/fil")


def test_checksum_of_needs_no_data_and_ignores_the_order(listed):
    listed(("a/1", "1", ""), ("a/2", "2", ""), ("b/1", "3", ""))
    both = checksum_of(["a/", "b/"])
    assert both == checksum_of(["b/", "a/", "a/1"])
    assert len({both, checksum_of(["a/"]), checksum_of(["b/"])}) == 3
    listed(("a/1", "1", ""), ("a/2", "9", ""), ("b/1", "3", ""))
    assert checksum_of(["a/", "b/"]) != both


def test_package_without_repository(monkeypatch, tmp_path):
    monkeypatch.setattr("tism.__file__", str(tmp_path / "tism" / "__init__.py"))
    with pytest.raises(FileNotFoundError, match="clone it"):
        data_root()
