"""Files of the data sets: from the cache, a mirror or their publisher, checked by sha256.

`data/sources.csv` lists them. A file is looked for in the writable cache (environment variable
TISM_DATA_DIR, by default the operating system's cache folder), then in the read-only mirror
TISM_DATA_MIRROR, which has the same relative paths, and is otherwise downloaded into the cache.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from filelock import FileLock
from tqdm.auto import tqdm

from tism.score.files import file_sha256, is_full_disk, write_text

ATTEMPTS = 4
WAIT_SECONDS = 1.0
TIMEOUT_SECONDS = (10, 60)
CHUNK_BYTES = 1 << 16  # at most so much is lost where a connection breaks


class DownloadError(OSError):
    """A file that could not be had, or not in the form that its checksum demands."""


@dataclass(frozen=True)
class Source:
    """A row of `data/sources.csv`; bytes and sha256 are empty where the publisher gives none."""

    path: str
    bytes: str
    sha256: str
    url: str
    licence: str
    citation: str


def data_root() -> Path:
    """The `data` folder of the repository that the package was installed from.

    Raises
    ------
    FileNotFoundError
        When the package was installed without its repository.
    """
    import tism

    root = Path(tism.__file__).resolve().parents[1] / "data"
    if not (root / "sources.csv").is_file():
        raise FileNotFoundError(
            f"{root / 'sources.csv'} is missing: the data sets need the repository, not only the "
            "package; clone it and install it there with `pip install -e .`"
        )
    return root


def cache_root() -> Path:
    """The writable cache: TISM_DATA_DIR, or the operating system's cache folder for tism."""
    named = os.environ.get("TISM_DATA_DIR")
    return Path(named).expanduser() if named else Path(pooch.os_cache("tism"))


def sources(prefix: str = "") -> list[Source]:
    """Rows of `data/sources.csv` whose path starts with `prefix`, in file order."""
    with open(data_root() / "sources.csv", newline="", encoding="utf-8") as file:
        rows = [Source(**row) for row in csv.DictReader(file)]
    chosen = [row for row in rows if row.path.startswith(prefix)]
    if not chosen:
        near = difflib.get_close_matches(prefix, [row.path for row in rows], n=3)
        hint = f"; close to it: {', '.join(near)}" if near else ""
        raise ValueError(f"data/sources.csv lists no file that starts with {prefix!r}{hint}")
    return chosen


def checksum_of(prefixes: str | Iterable[str]) -> str:
    """sha256 over the paths and published checksums of the files that start with any prefix.

    It says which data a result stands on without having them.
    """
    prefixes = [prefixes] if isinstance(prefixes, str) else prefixes
    rows = {(row.path, row.sha256) for prefix in prefixes for row in sources(prefix)}
    lines = "".join(f"{path}\t{sha256}\n" for path, sha256 in sorted(rows))
    return hashlib.sha256(lines.encode()).hexdigest()


def fetch(path: str | Path, *, progress: bool = True) -> Path:
    """Local path of a file listed in `data/sources.csv`, downloaded if it is not there yet.

    A file with the right checksum is not downloaded again. An interrupted download is continued.
    Where the publisher gives no checksum, that of the first copy is recorded in a JSON file beside
    the cached one and holds from then on.

    path : relative, as in `data/sources.csv`
    progress : show a bar for a download

    Raises
    ------
    ValueError
        The path is not listed.
    DownloadError
        No connection, a refusal of the server, or a download whose checksum is wrong; what was in
        the cache before stays as it was.
    """
    source = next((row for row in sources(Path(path).as_posix()) if row.path == str(path)), None)
    if source is None:
        raise ValueError(f"data/sources.csv lists no file {str(path)!r}, only paths that start so")
    return _local_copy(source) or _download(source, progress)


def _local_copy(source: Source) -> Path | None:
    """The file in the cache or the mirror, if it is there with the right checksum."""
    expected = _expected_sha256(source)
    for path in _places(source):
        if not path.is_file():
            continue
        got = file_sha256(path)
        if expected is None:
            _record_sha256(source, got)
        if expected in (None, got):
            return path
        warnings.warn(
            f"{path} is not used: sha256 {got}, expected {expected}; replace or delete it",
            stacklevel=3,
        )
    return None


def _places(source: Source) -> list[Path]:
    mirror = os.environ.get("TISM_DATA_MIRROR")
    roots = [cache_root(), Path(mirror).expanduser()] if mirror else [cache_root()]
    return [root / source.path for root in roots]


def _record_path(source: Source) -> Path:
    return cache_root() / f"{source.path}.json"


def _expected_sha256(source: Source) -> str | None:
    """The published checksum, else that of the first copy, else None."""
    if source.sha256:
        return source.sha256
    record = _record_path(source)
    if not record.is_file():
        return None
    try:
        return json.loads(record.read_text())["sha256"]
    except (ValueError, KeyError, TypeError):
        raise DownloadError(f"{record} is damaged; delete it") from None


def _record_sha256(source: Source, sha256: str) -> None:
    record = _record_path(source)
    _make_folder(record.parent)
    write_text(record, json.dumps({"url": source.url, "sha256": sha256}, indent=2) + "\n")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK) else "no permission"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise DownloadError(
            f"cannot write to {folder} ({reason}); set TISM_DATA_DIR to a writable folder"
        )


def _download(source: Source, progress: bool) -> Path:
    """Download into the cache, one process at a time for each file."""
    target = cache_root() / source.path
    _make_folder(target.parent)
    with FileLock(f"{target}.lock"):
        return _local_copy(source) or _retrieve(source, target, progress)


def _retrieve(source: Source, target: Path, progress: bool) -> Path:
    """Download beside the target and move it there once its checksum is right."""
    expected, download = _expected_sha256(source), ResumableDownload(target, progress=progress)
    try:
        if not download.holds(expected):
            download.run(source.url)
    except requests.RequestException as error:
        raise DownloadError(
            f"{source.path}: cannot be downloaded from {source.url}: {error}; try again, set "
            f"TISM_DATA_MIRROR to a folder that holds it, or put the file at {target}"
        ) from error
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise DownloadError(
            f"{source.path}: no space left for {target}; free some, or set TISM_DATA_DIR to a "
            "folder on another disk, and run again: it goes on with what arrived"
        ) from error
    got = file_sha256(download.part)
    if expected not in (None, got):
        download.discard()
        raise DownloadError(_damage(source, got, expected))
    if expected is None:
        _record_sha256(source, got)
    download.move()
    return target


def _damage(source: Source, got: str, expected: str) -> str:
    remedy = "try again"
    if not source.sha256:
        remedy += f", or delete {_record_path(source)} if the publisher has replaced the file"
    return (
        f"{source.path} from {source.url}: sha256 {got}, expected {expected}. What was cached "
        f"before is kept; {remedy}."
    )


class ResumableDownload:
    """A download that keeps what arrived, also when it is killed, and continues there.

    target : what the file is called in the end. Until then the bytes are in <target>.part, beside
        which stands the validator (ETag or date) of the version begun, so that a file which changed
        at the publisher, or a server without ranges, is downloaded from its start.
    """

    def __init__(self, target: Path, *, progress: bool) -> None:
        self.target = target
        self.part = Path(f"{target}.part")
        self.validator = Path(f"{self.part}.validator")
        self.progress = progress

    def holds(self, sha256: str | None) -> bool:
        """Whether all of the file arrived before; False where its checksum is not known."""
        return self.part.is_file() and sha256 == file_sha256(self.part)

    def discard(self) -> None:
        """Delete what arrived."""
        self.part.unlink(missing_ok=True)
        self.validator.unlink(missing_ok=True)

    def move(self) -> None:
        """Give the complete file its name; killed midway, it is known by its checksum (`holds`)."""
        self.validator.unlink(missing_ok=True)
        os.replace(self.part, self.target)

    def run(self, url: str) -> None:
        """Download what is missing, again where that may help; requests' errors otherwise."""
        for attempt in range(ATTEMPTS):
            try:
                self._continue(url)
                break
            except requests.RequestException as error:
                if attempt == ATTEMPTS - 1 or not _may_pass(error):
                    raise
                time.sleep(WAIT_SECONDS * 2**attempt)

    def _continue(self, url: str) -> None:
        headers = {"Accept-Encoding": "identity"}
        if self.part.exists() and self.validator.exists():
            headers["Range"] = f"bytes={self.part.stat().st_size}-"
            headers["If-Range"] = self.validator.read_text()
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                self.validator.unlink()
            response.raise_for_status()
            if "text/html" in response.headers.get("Content-Type", ""):
                raise requests.RequestException("the server sent a web page instead of the file")
            self._append(response)

    def _append(self, response: requests.Response) -> None:
        resumed = response.status_code == requests.codes.partial_content
        if not resumed:
            self._begin(response)
        done = self.part.stat().st_size
        total = done + int(response.headers.get("Content-Length", 0)) or None
        with (
            open(self.part, "ab") as file,
            tqdm(
                desc=self.part.stem,
                initial=done,
                total=total,
                unit="B",
                unit_scale=True,
                leave=False,
                disable=not self.progress,
            ) as bar,
        ):
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))

    def _begin(self, response: requests.Response) -> None:
        """Empty the part file; a validator must never stand beside the bytes of another version."""
        self.validator.unlink(missing_ok=True)
        self.part.write_bytes(b"")
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if validator:
            self.validator.write_text(validator)


def _may_pass(error: requests.RequestException) -> bool:
    """Whether trying again may help: a broken connection, a busy server, a range out of date."""
    if error.response is not None:
        return error.response.status_code in (408, 416, 429) or error.response.status_code >= 500
    broken = requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError
    return isinstance(error, broken)
