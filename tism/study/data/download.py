"""Files of the data sets: from the cache, a mirror or their publisher, checked by sha256.

`data/sources.csv` lists them. A file is looked for in the writable cache (environment variable
TISM_DATA_DIR, by default `tism` in the user's cache folder), then in the read-only mirror
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

import requests
from filelock import FileLock
from tqdm.auto import tqdm

from tism.score.files import data_folder, disk_errors_named, file_sha256, write_text

ATTEMPTS = 4
WAIT_SECONDS = 1.0
TIMEOUT_SECONDS = (10, 60)
CHUNK_BYTES = 1 << 16  # a broken connection loses at most this much


class DownloadError(OSError):
    """A file cannot be downloaded, or has another checksum than the expected one."""


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

    Raises FileNotFoundError if the package was installed without its repository.
    """
    import tism

    root = Path(tism.__file__).resolve().parents[1] / "data"
    if not (root / "sources.csv").is_file():
        raise FileNotFoundError(
            f"{root / 'sources.csv'} is missing: the data sets need the repository, not only the "
            "package; clone it and install it there with `pip install -e .`"
        )
    return root


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


def checksum_of(prefixes: Iterable[str]) -> str:
    """sha256 over the paths and published checksums of the files that start with any prefix.

    It identifies the data of a result without reading them.
    """
    rows = {(row.path, row.sha256) for prefix in prefixes for row in sources(prefix)}
    lines = "".join(f"{path}\t{sha256}\n" for path, sha256 in sorted(rows))
    return hashlib.sha256(lines.encode()).hexdigest()


def fetch(path: str | Path) -> Path:
    """Local path of a file listed in `data/sources.csv`, downloaded if it is not there yet.

    A file with the right checksum is not downloaded again, and an interrupted download continues.
    Where the publisher gives no checksum, that of the first copy is recorded in a JSON file beside
    the cached one and holds from then on.

    path : relative, as in `data/sources.csv`

    Raises ValueError if the path is not listed, and DownloadError if there is no connection, the
    server refuses, or the checksum is wrong; what was in the cache before stays as it was.
    """
    source = next((row for row in sources(Path(path).as_posix()) if row.path == str(path)), None)
    if source is None:
        raise ValueError(f"data/sources.csv lists no file {str(path)!r}, only paths that start so")
    return _local_copy(source) or _download(source)


def _local_copy(source: Source) -> Path | None:
    """The file in the cache or the mirror, if it is there with the right checksum."""
    expected = _expected_sha256(source)
    mirror = os.environ.get("TISM_DATA_MIRROR")
    for root in [data_folder(), Path(mirror).expanduser()] if mirror else [data_folder()]:
        path = root / source.path
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


def _record_path(source: Source) -> Path:
    return data_folder() / f"{source.path}.json"


def _expected_sha256(source: Source) -> str | None:
    """The published checksum, else that of the first copy, else None."""
    record = _record_path(source)
    if source.sha256 or not record.is_file():
        return source.sha256 or None
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
        if not os.access(folder, os.W_OK):
            raise PermissionError("no permission")
    except OSError as error:
        raise DownloadError(
            f"cannot write to {folder} ({error}); set TISM_DATA_DIR to a writable folder"
        ) from None


def _download(source: Source) -> Path:
    """Download into the cache, one process at a time for each file."""
    target = data_folder() / source.path
    _make_folder(target.parent)
    with FileLock(f"{target}.lock"):
        return _local_copy(source) or _retrieve(source, target)


def _retrieve(source: Source, target: Path) -> Path:
    """Download to `target`.part, then move it to `target` if its checksum is right."""
    part, expected = Path(f"{target}.part"), _expected_sha256(source)
    try:
        with disk_errors_named(target, lambda: "what has arrived is kept"):
            if not part.exists() or file_sha256(part) != expected:  # a kill may leave it whole
                _complete(part, source.url)
    except requests.RequestException as error:
        raise DownloadError(
            f"{source.path}: cannot be downloaded from {source.url}: {error}; try again, set "
            f"TISM_DATA_MIRROR to a folder that holds it, or put the file at {target}"
        ) from error
    got = file_sha256(part)
    _validator(part).unlink(missing_ok=True)
    if expected is None:
        _record_sha256(source, got)
    elif got != expected:
        part.unlink()
        replaced = f", or delete {_record_path(source)} if the publisher has replaced the file"
        raise DownloadError(
            f"{source.path} from {source.url}: sha256 {got}, expected {expected}. What was cached "
            f"before is kept; try again{'' if source.sha256 else replaced}."
        )
    os.replace(part, target)
    return target


def _complete(part: Path, url: str) -> None:
    """Download what `part` lacks of a file; try again after errors that may pass."""
    for attempt in range(ATTEMPTS):
        try:
            return _continue(part, url)
        except requests.RequestException as error:
            if attempt == ATTEMPTS - 1 or not _may_pass(error):
                raise
            time.sleep(WAIT_SECONDS * 2**attempt)


def _may_pass(error: requests.RequestException) -> bool:
    """True if trying again may help: no answer, a busy server, a range that is out of date."""
    code = getattr(error.response, "status_code", None)
    return code is None or code in (408, 416, 429) or code >= 500


def _validator(part: Path) -> Path:
    """The file with the ETag or date of the version that `part` belongs to."""
    return Path(f"{part}.validator")


def _continue(part: Path, url: str) -> None:
    """Append the rest of a file to `part`; begin anew if the server has another version by now."""
    validator = _validator(part)
    headers = {"Accept-Encoding": "identity"}
    if part.exists() and validator.exists():
        headers["Range"] = f"bytes={part.stat().st_size}-"
        headers["If-Range"] = validator.read_text()
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            validator.unlink(missing_ok=True)  # the next attempt begins anew
        response.raise_for_status()
        if "text/html" in response.headers.get("Content-Type", ""):
            message = "the server sent a web page instead of the file"
            raise requests.RequestException(message, response=response)
        if response.status_code != requests.codes.partial_content:
            validator.unlink(missing_ok=True)  # it must never stand beside another version
            part.write_bytes(b"")
            tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
            if tag:
                validator.write_text(tag)
        _append(part, response)


def _append(part: Path, response: requests.Response) -> None:
    """Write the body of a response behind the bytes of `part`, with a bar."""
    done = part.stat().st_size
    total = done + int(response.headers.get("Content-Length", 0)) or None
    bar = {"desc": part.stem, "initial": done, "total": total, "leave": False}
    with part.open("ab") as file, tqdm.wrapattr(file, "write", **bar) as output:
        for chunk in response.iter_content(CHUNK_BYTES):
            output.write(chunk)
