"""Drawn files, whole and damaged, are read as a plain parser reads them or refused by name.

The plain parsers are written for clarity: a line at a time, no shortcut, None for a bad file.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fuzzing import Refused, inputs, outcome
from hypothesis import given
from hypothesis import strategies as st

from tism.score.cli import main
from tism.score.genome import Genome, read_variants
from tism.score.readers import read_bed
from tism.sequence import decode
from tism.study.data.immgen import read_targets

SIZES = {"chr1": 40, "chr2": 25}
IUPAC = {**dict.fromkeys("RYSWKMBDHVN", 4), "A": 0, "C": 1, "G": 2, "T": 3}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TISM_DATA_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


# --- damage -----------------------------------------------------------------------------------

HARMLESS = {
    "as it is": lambda text: text,
    "carriage returns": lambda text: text.replace(b"\n", b"\r\n"),
    "byte-order mark": lambda text: b"\xef\xbb\xbf" + text,
    "no last newline": lambda text: text.rstrip(b"\n"),
    "gzip": gzip.compress,
    "gzip in two parts": lambda text: gzip.compress(text[:9]) + gzip.compress(text[9:]),
}
DAMAGE = {
    "empty": lambda text: b"",
    "newlines only": lambda text: b"\n\n",
    "old newlines": lambda text: text.replace(b"\n", b"\r"),
    "blanks for tabs": lambda text: text.replace(b"\t", b" "),
    "tabs for blanks": lambda text: text.replace(b" ", b"\t"),
    "utf-16": lambda text: text.decode("utf-8", "replace").encode("utf-16"),
    "half of gzip": lambda text: gzip.compress(text)[: 15 + len(text) // 9],
    "gzip with a flip": lambda text: gzip.compress(text)[:-9] + b"\0" * 9,
    "gzip's first bytes": lambda text: b"\x1f\x8b" + text,
    "twice": lambda text: text + text,
    "a very long line": lambda text: text + b"A" * 70_000 + b"\n",
    "zeros": lambda text: text + b"\0" * 20,
    "a quote": lambda text: text.replace(b"1", b'"1', 1),
    "a blank line": lambda text: text.replace(b"\n", b"\n\n", 1),
}


@st.composite
def damaged(draw: st.DrawFn, text: bytes) -> tuple[bytes, bytes, bool]:
    """The bytes of the file, its plain text, and True if it still means the same."""
    kind = draw(st.sampled_from(["harmless", "damage", "bytes", "bytes"]))
    if kind == "harmless":
        return HARMLESS[draw(st.sampled_from(sorted(HARMLESS)))](text), text, True
    if kind == "damage":
        text = DAMAGE[draw(st.sampled_from(sorted(DAMAGE)))](text)
    for _ in range(draw(st.integers(1, 3)) if kind == "bytes" and text else 0):
        place, byte = draw(st.integers(0, len(text) - 1)), draw(st.sampled_from(BYTES))
        text = text[:place] + byte + text[place + draw(st.integers(0, 2)) :]
    return text, text, False


BYTES = [
    bytes([b]) for b in (0, 9, 10, 13, 26, 32, 34, 35, 44, 45, 48, 57, 62, 65, 78, 95, 120, 255)
]
BYTES += [b"", b"\xc3\xa9", b"\xd9\xa3", b"9" * 25, b"9" * 5000, b"1_0", b"1e3", b"nan", b"../../x"]


@contextlib.contextmanager
def saved(content: bytes, name: str):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        yield path


def unzipped(text: bytes) -> bytes | None:
    """Plain bytes without a mark; None for a damaged archive."""
    try:
        text = gzip.decompress(text) if text[:2] == b"\x1f\x8b" else text
        return text.removeprefix(b"\xef\xbb\xbf")
    except (OSError, EOFError, gzip.zlib.error):
        return None


def lines_of(text: bytes) -> list[str] | None:
    """Lines of plain or gzipped text; None where it is neither, or has other line ends."""
    try:
        lines = [line.rstrip("\r\n") for line in (unzipped(text) or b"").decode().split("\n")]
    except UnicodeDecodeError:
        return None
    return None if any("\r" in line for line in lines) else lines


def whole(text: str) -> int | None:
    return int(text) if re.fullmatch(" *[+-]?[0-9]{1,18} *", text) else None


# --- FASTA ------------------------------------------------------------------------------------


@st.composite
def fasta_texts(draw: st.DrawFn, letters: str = "ACGTNacgtn") -> bytes:
    width = draw(st.integers(3, 12))
    text = ""
    for name in draw(
        st.lists(st.sampled_from(["chr1", "chr2", "3", "x|y"]), min_size=1, unique=True)
    ):
        bases = draw(st.text(letters, min_size=1, max_size=30))
        text += f">{name}{draw(st.sampled_from(['', ' of a kind']))}\n"
        text += "".join(bases[i : i + width] + "\n" for i in range(0, len(bases), width))
    return text.encode()


def plain_fasta(text: bytes, codes: dict[str, int]) -> dict[str, list[int]] | None:
    sequences: dict[str, list[int]] = {}
    name = None
    for line in (unzipped(text) or b"").split(b"\n"):
        if line.startswith(b">"):
            try:
                name = line[1:].split()[0].decode()
            except (IndexError, UnicodeDecodeError):
                return None
            if name in sequences:
                return None
            sequences[name] = []
        elif line.strip():
            letters = line.strip().decode("ascii", "replace").upper()
            if name is None or set(letters) - set(codes):
                return None
            sequences[name] += [codes[letter] for letter in letters]
    return sequences if sequences and all(sequences.values()) else None


@inputs(quick=40, nightly=600)
@given(data=st.data())
def test_genome(data):
    content, meant, same = data.draw(damaged(data.draw(fasta_texts("ACGTNRYacgtnry"))))

    def read(path: Path) -> dict[str, list[int]]:
        with Genome(path) as genome:
            return {n: genome.codes(n, 0, size)[0].tolist() for n, size in genome.sizes.items()}

    with saved(content, "genome.fa") as path:
        found = outcome("FASTA (Genome)", lambda: read(path), "genome.fa")
    expected = plain_fasta(meant, IUPAC)
    marked = content.startswith(b"\xef\xbb\xbf")  # which pyfaidx names as what it is not
    assert found == expected or (isinstance(found, Refused) and (marked or not same))


# --- BED --------------------------------------------------------------------------------------


@st.composite
def bed_texts(draw: st.DrawFn, length: int | None = None) -> bytes:
    columns = draw(st.integers(3, 6))
    text = draw(st.sampled_from(["", "# made\n", "track name=a\n", "browser x\n\n"]))
    for row in range(draw(st.integers(1, 4))):
        chrom = draw(st.sampled_from(sorted(SIZES)))
        size = length or draw(st.integers(1, 10))
        start = draw(st.integers(0, SIZES[chrom] - size))
        fields = [chrom, start, start + size, f"peak{row}", draw(st.floats(-9, 9)), "+"]
        text += "\t".join(map(str, fields[:columns])) + "\n"
    return text.encode()


def plain_bed(text: bytes) -> list[list] | None:
    rows: list[list] = []
    for line in lines_of(text) or []:
        first = (line.split() or [""])[0]
        if not line.strip() or line.startswith("#") or first in ("track", "browser"):
            continue
        fields = line.split("\t")
        if len(fields) < 3 or (rows and len(fields) != rows[0][-1]):
            return None
        row: list = [fields[0], whole(fields[1]), whole(fields[2]), *fields[3:6]]
        if None in row or row[0] not in SIZES or not 0 <= row[1] < row[2] <= SIZES[row[0]]:
            return None
        if len(row) > 4:
            if not re.fullmatch(r" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *", row[4], re.ASCII):
                return None
            row[4] = float(row[4])
            if not np.isfinite(row[4]):
                return None
        rows.append([*row, len(fields)])
    return [row[:-1] for row in rows] or None


@inputs(quick=50, nightly=900)
@given(data=st.data())
def test_read_bed(data):
    content, meant, _ = data.draw(damaged(data.draw(bed_texts())))
    with saved(content, "peaks.bed") as path:
        found = outcome("BED (read_bed)", lambda: read_bed(path, SIZES), f"{path}")
    expected = plain_bed(meant)
    assert isinstance(found, Refused) == (expected is None)
    if expected is not None:
        assert found.drop(columns="line").to_numpy().tolist() == expected


# --- VCF --------------------------------------------------------------------------------------

GENOME = {"chr1": "ACGTNACGGTCATTGACCATGNRYACGTTGACATTGCAAA", "chr2": "TTGACCATGACCATTGACGTACGTA"}
ALTERNATES = ["A", "C", "G", "T", "a", "N", ".", "*", "<DEL>", "A,C", "AC", "", "A]chr1:3]"]
ALTERNATES += ["T,<DEL>,GATTACA", "A" * 9, "CGT,CGT"]


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    path = tmp_path_factory.mktemp("genome") / "genome.fa"
    path.write_text("".join(f">{name}\n{bases}\n" for name, bases in GENOME.items()))
    with Genome(path) as opened:
        yield opened


@st.composite
def vcf_texts(draw: st.DrawFn) -> bytes:
    text = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    for row in range(draw(st.integers(1, 5))):
        chrom = draw(st.sampled_from(sorted(GENOME)))
        position = draw(st.integers(1, len(GENOME[chrom])))
        reference = GENOME[chrom][position - 1 :][: draw(st.sampled_from([1, 1, 2, 7]))]
        if draw(st.integers(0, 4)) == 0:
            reference = draw(st.sampled_from(["A", "N", "AC", "", "x"]))
        name = draw(st.sampled_from([f"v{row}", ".", "../../x", "a/b"]))
        alternate = draw(st.sampled_from(ALTERNATES))
        text += f"{chrom}\t{position}\t{name}\t{reference}\t{alternate}\t.\t.\t.\n"
    return text.encode()


def plain_vcf(text: bytes, length: int) -> list[list] | None:
    """The alternates that can be scored, with their windows; None where a line is no VCF row."""
    lines = (unzipped(text) or b"").split(b"\n")
    if any(b"\r" in line.rstrip(b"\r") for line in lines):
        return None
    kept = []
    for line in lines:
        fields = line.decode(errors="replace").rstrip("\r\n").split("\t")
        if line.startswith(b"#") or not line.strip():
            continue
        if len(fields) < 5 or not re.fullmatch("[0-9]{1,18}", fields[1]) or not int(fields[1]):
            return None
        chrom, place, _, reference, alternates = fields[:5]
        middle, bases, reference = int(place) - 1, GENOME.get(chrom, ""), reference.upper()
        start = middle - length // 2
        for alternate in alternates.upper().split(","):
            plain = reference and alternate and set(reference + alternate) <= set("ACGT")
            changed = bases[max(start, 0) : middle] + alternate + bases[middle + len(reference) :]
            fits = start >= 0 and start + length <= len(bases) and len(changed) >= length
            fits = fits and len(alternate) <= length - length // 2
            if plain and fits and bases[middle:].startswith(reference) and alternate != reference:
                windows = bases[start : start + length], changed[:length]
                kept.append([chrom, int(place), reference, alternate, *windows])
    return kept


@inputs(quick=50, nightly=900)
@given(data=st.data(), length=st.sampled_from([1, 5, 6]))
def test_read_variants(genome, data, length):
    content, meant, _ = data.draw(damaged(data.draw(vcf_texts())))
    with saved(content, "v.vcf") as path:
        found = outcome(
            "VCF (read_variants)", lambda: read_variants(path, genome, length), f"{path}"
        )
    expected = plain_vcf(meant, length)
    assert isinstance(found, Refused) == (not expected)
    if expected:
        rows = [line for line in unzipped(meant).split(b"\n") if line.strip() and line[:1] != b"#"]
        alternates = sum(row.split(b"\t")[4].count(b",") + 1 for row in rows)
        assert len(found) + len(found.refused) == alternates  # none is lost
        table = found.regions[["chrom", "position", "reference", "alternate"]].to_numpy().tolist()
        pairs = zip(decode(found[:]), decode(found.alternates[:]), strict=True)
        found = [[*row, *pair] for row, pair in zip(table, pairs, strict=True)]
        ambiguous = str.maketrans("RY", "NN")
        assert found == [[*row[:4], *(w.translate(ambiguous) for w in row[4:])] for row in expected]


# --- CSV --------------------------------------------------------------------------------------

NAMES = ["p1", "007", "1e5", "NA", "true", "a b", '"q,1"', "../../x"]


@st.composite
def csv_texts(draw: st.DrawFn) -> bytes:
    tasks = draw(
        st.lists(st.sampled_from(["A", "name", "B cell", '"C,x"']), min_size=1, unique=True)
    )
    text = ",".join(["name", *tasks]) + "\n"
    number = st.one_of(st.floats(-1e9, 1e9), st.integers(-9, 9))
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True)):
        text += ",".join([name, *(str(draw(number)) for _ in tasks)]) + "\n"
    return text.encode()


def plain_csv(text: bytes) -> tuple[list[str], dict[str, list[float]]] | None:
    lines = lines_of(text)
    if lines is None or any(line.count('"') % 2 or "\r" in line or "\0" in line for line in lines):
        return None
    if not lines[-1]:
        lines.pop()
    rows = [next(csv.reader([line]), []) for line in lines]
    if len(rows) < 2 or len(rows[0]) < 2 or len(set(rows[0][1:])) < len(rows[0]) - 1:
        return None
    table: dict[str, list[float]] = {}
    for row in rows[1:]:
        if len(row) != len(rows[0]) or not row[0] or row[0] in table:
            return None
        if not all(re.fullmatch(NUMBER, value, re.ASCII) for value in row[1:]):
            return None
        table[row[0]] = [float(value) for value in row[1:]]
    values = np.array(list(table.values()))
    return (rows[0][1:], table) if np.isfinite(values).all() else None


NUMBER = r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*"


@inputs(quick=50, nightly=900)
@given(data=st.data())
def test_read_targets(data):
    content, meant, _ = data.draw(damaged(data.draw(csv_texts())))
    with saved(content, "targets.csv") as path:
        found = outcome("CSV (read_targets)", lambda: read_targets(path), f"{path}")
    expected = plain_csv(meant)
    assert isinstance(found, Refused) == (expected is None)
    if expected is not None:
        tasks, table = expected
        assert found.columns.tolist() == tasks
        assert found.index.tolist() == list(table)
        np.testing.assert_allclose(found.to_numpy(), list(table.values()), rtol=1e-12)


# --- the command line -------------------------------------------------------------------------

MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(44, 2)

    def forward(self, x):
        return self.head(x.flatten(1))

def load(**settings):
    return Net() if not settings else settings["missing"]

def nothing(): return None
def asserts(): assert False, "not today"
def fails(): raise RuntimeError("two" + chr(10) + "lines")
def total(output): return output
def profile(output): return output[:, None]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "m.py").write_text(MODEL)
    (folder / "broken.py").write_text("def load(:\n")
    (folder / "raises.py").write_text("{}['key']\n")
    (folder / "g.fa").write_text("".join(f">{name}\n{bases}\n" for name, bases in GENOME.items()))
    (folder / "p.bed").write_text("chr1\t5\t16\nchr2\t3\t14\n")
    (folder / "v.vcf").write_text("chr1\t12\t.\tA\tC\nchr1\t13\t.\tT\tG\nchr2\t6\t.\tC\tT\n")
    (folder / "binary").write_bytes(bytes(range(256)))
    (folder / "sub").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        score = ["score", "--model=m.py:load", "--fasta=g.fa", "--quiet"]
        run([*score, "--bed=p.bed", "--out=maps"])
        run([*score, "--vcf=v.vcf", "--length=11", "--out=var"])
        yield folder


PATHS = ["none", "sub", "binary", "", ".", "/", "m.py", "a\0b", "x" * 300, "sub/../p.bed"]
BAD_OPTIONS = {
    "--model": [
        "m.py", ":load", "m.py:", "m.py:none", "m.py:nothing", "m.py:asserts", "m.py:fails", "x:y",
        "broken.py:load", "raises.py:f", "..a:b", "none.py:f", "os:getcwd", "os.path:sep", ".py:f",
        "sub:f", "m.py:load:load", "\0:f", "a b:c", "builtins:dict",
    ],
    "--model-args": ["", "[1]", "{", '{"a": 1}', "NaN"],
    "--weights": PATHS,
    "--output-fn": ["m.py:profile", "m.py:nothing", "m.py:none", "builtins:list", "x"],
    "--bed": PATHS,
    "--fasta": [*PATHS, "p.bed"],
    "--mutate": ["0", "12", "x", "", "1:2:3", "9:3", "-0.5", "9" * 30],
    "--args": ["none", "sub", "binary", "m.py", ""],
    "--max-refused": ["", "x"],
    "--length": ["0", "-3", "1.5", "x", "", "12", "999", str(2**70)],
    "--tasks": ["", "2", "a", "1-0", "0-99999999999", "9" * 5000, "-1", "0,,1", "0-1-2", "\u0663"],
    "--batch-size": ["0", "-1", "x", "2.0"],
    "--chunk-size": ["0", "-1", "x"],
    "--shard": ["0/1", "2/1", "1", "1/2/3", "a/b", "1/0", ""],
    "--device": ["gpu", "cuda:9", "", "meta"],
    "--method": ["", "guess", "gradient "],
    "--out": ["p.bed", "", ".", "sub/../p.bed", "x" * 300, "a\0b", "p.bed/x"],
}  # fmt: skip


def run(arguments: list[str]) -> tuple[int, str]:
    """Exit code and what was written to stderr."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as stop:
            return int(stop.code or 0), said.getvalue()
    return 0, said.getvalue()


def counted(name: str, arguments: list[str], good: bool) -> None:
    """Exit code 0 where all is good, else 2 and a message of one line, the last."""
    code, said = run(arguments)

    def result() -> None:
        if code:
            raise ValueError(said.splitlines()[-1])

    message = outcome(name, result, "error: ")
    assert "Traceback" not in said
    assert (code == 0) if good else code in (0, 2)
    assert isinstance(message, Refused) == (code == 2)
    if code and "usage:" not in said:
        assert [line.startswith("tism: error: ") for line in said.splitlines()].count(True) == 1


@inputs(quick=30, nightly=400)
@given(data=st.data())
def test_tism_score(folder, data):
    options = {"--model": "m.py:load", "--fasta": "g.fa", "--bed": "p.bed", "--quiet": None}
    spoilt = data.draw(st.sampled_from([None, *BAD_OPTIONS]))
    options |= data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "--tasks": st.sampled_from(["0", "0,1", "0-1", "1, 0"]),
                "--batch-size": st.sampled_from(["1", "7"]),
                "--method": st.sampled_from(["tism", "ism", "gradient", "budgeted"]),
                "--length": st.just("11"),
                "--output-fn": st.just("m.py:total"),
                "--shard": st.sampled_from(["1/1", "1/2"]),
                "--mutate": st.sampled_from(["3", "11", "2:9", "-4:11"]),
            },
        )
    )
    with tempfile.TemporaryDirectory(dir=folder) as out:
        options["--out"] = f"{out}/s.zarr"
        if spoilt:
            options[spoilt] = data.draw(st.sampled_from(BAD_OPTIONS[spoilt]))
        words = [w for k, v in options.items() for w in ([k] if v is None else [f"{k}={v}"])]
        counted("tism score", ["score", *words], good=spoilt is None)
    assert not [p.name for p in folder.iterdir() if p.name.startswith(".") or p.suffix == ".tmp"]


PREFIXES = ["o/x", "", "..", "/", "a\0b", "sub/"]
TABLES = ["--table=o/t.tsv", "--table=", "--table=sub", "--table=p.bed/x", "--table=a\0b"]
TRACKS = [
    f"--{kind}={path}" for kind in ("bigwig", "bedgraph", "npz") for path in ("o/t", "", "a\0b")
]


@inputs(quick=15, nightly=200)
@given(data=st.data())
def test_tism_status_and_export(folder, data):
    store = data.draw(st.sampled_from(["maps", "maps", "var", "var", *PATHS]))
    command = data.draw(
        st.sampled_from(["status", "", *(f"--modisco={p}" for p in PREFIXES), *TABLES, *TRACKS])
    )
    if command == "status":
        counted("tism status", ["status", store], good=store in ("maps", "var"))
        return
    words = [command] if command else []
    if data.draw(st.booleans()):
        words.append(data.draw(st.sampled_from(["--task=0", "--task=2", "--task=x", "--task=-1"])))
    if data.draw(st.booleans()):
        numbers = data.draw(
            st.lists(st.sampled_from(["0.25", "1", "0", "nan", "-1", "x"]), max_size=5)
        )
        words += ["--background", *numbers]
    before = {p: p.read_bytes() for p in folder.glob("*.*") if p.is_file()}
    counted("tism export", ["export", store, *words], good=False)
    assert {p: p.read_bytes() for p in before} == before
    for path in [*folder.glob("o/*"), *folder.glob("sub/*")]:
        os.unlink(path)
