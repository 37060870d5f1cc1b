"""Windows and variants of a genome are what the files say; rows that cannot be are listed."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tism
from tism.score.genome import Genome, read_variants, read_windows
from tism.score.methods import METHODS, score_to_store, variant_effects, variant_table
from tism.score.readers import InputFileError
from tism.score.store import StoreError
from tism.sequence import decode

CHR1 = "".join(random.Random(1).choices("ACGT", k=130)) + "NNacgtRyACGT"
CHR2 = "".join(random.Random(2).choices("acgt", k=95))
VCF_HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
LENGTH = 11


def fasta(width: int = 40, newline: str = "\n") -> str:
    records = {"chr1 first": CHR1, "chr2": CHR2}
    lines = []
    for name, letters in records.items():
        lines += [f">{name}"] + [letters[i : i + width] for i in range(0, len(letters), width)]
    return newline.join(lines) + newline


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TISM_DATA_DIR", str(tmp_path / "cache"))


@pytest.fixture
def genome(tmp_path):
    (tmp_path / "genome.fa").write_text(fasta())
    with Genome(tmp_path / "genome.fa") as genome:
        yield genome


@pytest.fixture
def write(tmp_path):
    def write_file(text: str, name: str) -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
        return path

    return write_file


def test_genome_reads_any_part_in_either_case(genome):
    assert genome.sizes == {"chr1": len(CHR1), "chr2": len(CHR2)}
    codes, ambiguous = genome.codes("chr1", 126, len(CHR1))
    assert decode_codes(codes) == CHR1[126:].upper().replace("R", "N").replace("Y", "N")
    assert ambiguous == 2
    assert decode_codes(genome.codes("chr2", 39, 41)[0]) == CHR2[39:41].upper()


def decode_codes(codes: np.ndarray) -> str:
    return "".join("ACGTN"[code] for code in codes)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_genome_reads_as_python_slices(tmp_path_factory, data):
    width, newline = data.draw(st.integers(1, 200)), data.draw(st.sampled_from(["\n", "\r\n"]))
    start = data.draw(st.integers(0, len(CHR2) - 1))
    stop = data.draw(st.integers(start + 1, len(CHR2)))
    path = tmp_path_factory.mktemp("fasta") / "g.fa"
    text = fasta(width, newline)
    ended = data.draw(st.booleans())
    path.write_bytes((text if ended else text.removesuffix(newline)).encode())
    with Genome(path) as genome:
        assert decode_codes(genome.codes("chr2", start, stop)[0]) == CHR2[start:stop].upper()


def test_index_is_written_beside_and_used_again(tmp_path, genome):
    index = tmp_path / "genome.fa.fai"
    assert index.read_text().startswith(f"chr1\t{len(CHR1)}\t12\t40\t41\n")
    before = index.stat().st_mtime_ns
    with Genome(tmp_path / "genome.fa"):
        pass
    assert index.stat().st_mtime_ns == before


def test_index_of_a_read_only_folder_goes_into_the_cache(tmp_path, monkeypatch):
    (tmp_path / "genome.fa").write_text(fasta())
    monkeypatch.setattr("tism.score.genome.os.access", lambda *_: False)
    for _ in range(2):
        with Genome(tmp_path / "genome.fa") as genome:
            assert genome.sizes["chr2"] == len(CHR2)
    assert not (tmp_path / "genome.fa.fai").exists()
    assert len(list((tmp_path / "cache").rglob("genome.fa.*.fai"))) == 1


def test_gzipped_fasta_is_unpacked_once(tmp_path, write):
    path = write(fasta(), "genome.fa.gz")
    for _ in range(2):
        with Genome(path) as g:
            assert decode_codes(g.codes("chr2", 0, 95)[0]) == CHR2.upper()
    assert len(list((tmp_path / "cache").rglob("*.fa"))) == 1
    (tmp_path / "cut.fa.gz").write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputFileError, match=r"cut.fa.gz: damaged"):
        Genome(tmp_path / "cut.fa.gz")
    assert len(list((tmp_path / "cache").rglob("*.fa"))) == 1


@pytest.mark.parametrize("text", [">a\nAC*T\n", ">a\nAC\nACGT\nAC\n", ">a\nA\n>a\nA\n", ">a\rAC\r"])
def test_errors_name_the_file_that_was_given(write, text):
    path = write(text, "genome.fa.gz")
    with pytest.raises(InputFileError, match=f"^{path}[:,]"), Genome(path) as genome:
        genome.codes("a", 0, 4)


def test_strange_letters_are_named_by_line(write):
    with Genome(write(">a\nACGT\nACGT\n>b\nACGT\nAC*T\n", "g.fa")) as genome:
        assert genome.codes("a", 0, 8)[1] == 0
        with pytest.raises(InputFileError, match=r"g.fa, line 6: letter '\*' in b at 7;"):
            genome.codes("b", 0, 8)


def test_an_index_of_another_file_is_noticed(tmp_path, write):
    path = write(">a\nACGT\n", "g.fa")
    (tmp_path / "g.fa.fai").write_text("a\t400\t3\t4\t5\n")
    with Genome(path) as genome, pytest.raises(InputFileError, match="a ends before 100"):
        genome.codes("a", 0, 100)
    (tmp_path / "g.fa.fai").write_text("not an index\n")
    with pytest.raises(InputFileError, match=r"g.fa.fai: no index of g.fa"):
        Genome(path)


@pytest.mark.parametrize("name", ["peaks.bed", "peaks.bed.gz"])
def test_windows_keep_the_order_and_the_headers_out(genome, write, name):
    bed = (
        "# x\ntrack y\nbrowser z\nchr2\t20\t40\tb\t.\nchr1\t5\t16\ta\thigh\n\nchr2\t60\t61\tc\t0\n"
    )
    windows = read_windows(write(bed, name), genome, LENGTH)
    assert windows.regions["name"].tolist() == ["b", "a", "c"]
    expected = [CHR2[25:36], CHR1[5:16], CHR2[55:66]]
    assert decode(windows[:]) == [letters.upper() for letters in expected]
    for rows, meant in [(1, [1]), ([2, 0], [2, 0]), (slice(None, None, -2), [2, 0])]:
        assert decode(windows[rows]) == [expected[row].upper() for row in meant]
    for rows in (3, [True], "a"):
        with pytest.raises(IndexError, match=r"rows must be a slice, .* mask of 3 bools"):
            windows[rows]
    assert (windows.length, len(windows), len(windows.refused)) == (LENGTH, 3, 0)


def test_windows_without_a_length_are_the_intervals(genome, write):
    windows = read_windows(write("chr1\t3\t9\nchr1\t0\t6\n", "p.bed"), genome)
    assert decode(windows[:]) == [CHR1[3:9], CHR1[0:6]]
    assert windows.regions["name"].tolist() == ["chr1:3-9", "chr1:0-6"]
    with pytest.raises(InputFileError, match=r"line 3: interval of 7 bp, but the first has 6"):
        read_windows(write("# x\nchr1\t3\t9\nchr1\t0\t7\n", "p.bed"), genome)


def test_windows_beyond_the_chromosome_are_listed(genome, write):
    bed = write("chr1\t2\t4\nchr1\t50\t60\nchr2\t90\t95\n", "p.bed")
    windows = read_windows(bed, genome, LENGTH)
    assert windows.regions["start"].tolist() == [50]
    assert windows.refused["line"].tolist() == [1, 3]
    assert windows.refused["record"].tolist() == ["chr1:2-4", "chr2:90-95"]
    assert set(windows.refused["reason"]) == {"the window of 11 bp reaches beyond the chromosome"}


PEAKS = "chr1\t20\t60\ta\t0\t-\t1\t1\t1\t7\nchr1\t30\t71\tb\t0\t+\t1\t1\t1\t40\n"
REVERSE = str.maketrans("ACGT", "TGCA")


@pytest.mark.parametrize("name", ["p.narrowPeak", "p.narrowPeak.gz", "p.bed"])
def test_windows_around_summits_on_the_strand_of_the_peak(genome, write, name):
    path = write(PEAKS, name)
    summit = None if "narrow" in name else True
    windows = read_windows(path, genome, LENGTH, strand=True, summit=summit)
    minus, plus = CHR1[22:33][::-1].translate(REVERSE), CHR1[65:76]
    assert decode(windows[:]) == [minus, plus]
    assert windows.regions["strand"].tolist() == ["-", "+"]
    assert "centred on the summit of each peak, 1 of them reverse complements" in windows.about
    middle = read_windows(path, genome, LENGTH, summit=False)
    assert decode(middle[:]) == [CHR1[35:46], CHR1[45:56]]
    assert set(middle.regions["strand"]) == {"+"}


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("chr1\t20\t60\n", {"strand": True}, "column 6 should hold the strand; add it or leave"),
        ("chr1\t20\t60\ta\t0\tx\n", {"strand": True}, "strand is 'x'; column 6 may hold"),
        ("chr1\t20\t60\n", {"summit": True}, "column 10 should hold the summit"),
        (PEAKS.replace("\t7\n", "\t.\n"), {"summit": True}, "summit is '.'; give a whole number"),
        (
            PEAKS.replace("\t7\n", "\t-1\n").splitlines()[0],
            {"summit": True},
            "no summit within the interval",
        ),
    ],
)
def test_columns_that_windows_need_are_checked(genome, write, text, options, words):
    with pytest.raises(InputFileError, match=words):
        read_windows(write(text, "p.bed"), genome, LENGTH, **options)


def test_windows_beyond_the_ends_are_filled_with_n_if_asked(genome, write):
    bed = write("chr2\t1\t4\tx\t0\t-\nchr2\t90\t95\ty\t0\t+\n", "p.bed")
    windows = read_windows(bed, genome, LENGTH, pad=True, strand=True)
    begin, end = "NNN" + CHR2[:8].upper(), CHR2[87:].upper() + "NNN"
    assert decode(windows[:]) == [begin[::-1].translate(REVERSE), end]
    vcf = write(VCF_HEADER + variant(3, chrom="chr2") + variant(94, chrom="chr2"), "v.vcf")
    variants = read_variants(vcf, genome, LENGTH, pad=True)
    assert decode(variants[:]) == ["NNN" + CHR2[:8].upper(), CHR2[88:].upper() + "NNNN"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("chr3\t10\t20\n", 1, "chromosome is not in genome.fa, and none of the 1 rows"),
        ("chr1\t0\t4\nchr2\t0\t4\n", 1, "none of the 2 rows can be used"),
    ],
)
def test_bed_files_are_refused_by_line(genome, write, text, line, words):
    path = write(text, "p.bed")
    with pytest.raises(InputFileError) as error:
        read_windows(path, genome, LENGTH)
    assert str(error.value).startswith(f"{path}, line {line}: ")
    assert words in str(error.value)


@pytest.mark.parametrize("length", [0, -3, 2.5, True, "11"])
def test_length_is_checked(genome, write, length):
    with pytest.raises((ValueError, TypeError), match="length must be"):
        read_windows(write("chr1\t5\t16\n", "p.bed"), genome, length)
    with pytest.raises((ValueError, TypeError), match="length must be"):
        read_variants(write(VCF_HEADER, "v.vcf"), genome, length)


def test_ambiguous_letters_are_counted_once(genome, write):
    windows = read_windows(write("chr1\t131\t142\nchr1\t5\t16\n", "p.bed"), genome)
    assert windows.n_ambiguous == 0
    for _ in range(2):
        assert decode(windows[:]) == ["NACGTNNACGT", CHR1[5:16]]
        assert windows.n_ambiguous == 2


def variant(position: int, alt: str | None = None, ref: str | None = None, chrom="chr1") -> str:
    letter = (CHR1 if chrom == "chr1" else CHR2)[position - 1]
    ref = letter if ref is None else ref
    alt = next(b for b in "ACGT" if b != letter.upper()) if alt is None else alt
    return f"{chrom}\t{position}\trs{position}\t{ref}\t{alt}\t.\tPASS\tDP=3\tGT\t0/1\n"


@pytest.mark.parametrize("name", ["v.vcf", "v.vcf.gz"])
def test_variants_sit_in_the_middle_of_their_windows(genome, write, name):
    rows = variant(50) + variant(70, chrom="chr2") + variant(20)
    variants = read_variants(write(VCF_HEADER + rows, name), genome, LENGTH)
    assert variants.regions["position"].tolist() == [50, 70, 20]
    assert decode(variants[:]) == [CHR1[44:55], CHR2[64:75].upper(), CHR1[14:25]]
    assert variants.centre == 5
    assert [w[5] for w in decode(variants[:])] == [r.upper() for r in variants.regions["reference"]]
    assert not len(variants.refused)


REFUSED = {
    "unknown": ("chr9\t5\t.\tA\tC\n", "chromosome is not in genome.fa"),
    "named": ("1\t5\t.\tA\tC\n", "chromosome is not in genome.fa, which calls it chr1"),
    "other name": ("CHR1\t5\t.\tA\tC\n", "chromosome is not in genome.fa, which calls it chr1"),
    "bases": (variant(50, "AC", CHR1[49] + "RR"), "letters other than A, C, G, T"),
    "deletion": (variant(50, "A", "AC" * 9), "REF is not the base of genome.fa"),
    "edge of a deletion": (
        f"chr2\t88\t.\t{CHR2[87:91]}\t{CHR2[87]}\n",
        "the window of 11 bp reaches beyond the chromosome",
    ),
    "long": (variant(50, CHR1[49] + "ACGTAC"), "the alternate does not fit into its half of the"),
    "symbolic": (variant(50, "<DEL>"), "no alternate base: missing or symbolic"),
    "star": (variant(50, "*"), "no alternate base: missing or symbolic"),
    "missing": (variant(50, "."), "no alternate base: missing or symbolic"),
    "breakend": (variant(50, "G]chr2:9]"), "no alternate base: missing or symbolic"),
    "letters": (variant(50, "R"), "letters other than A, C, G, T"),
    "edge": (variant(3), "the window of 11 bp reaches beyond the chromosome"),
    "beyond": ("chr2\t400\t.\tA\tC\n", "the window of 11 bp reaches beyond the chromosome"),
    "reference": (variant(50, ref="ACGT"[("ACGT".index(CHR1[49]) + 1) % 4]), "REF is not the base"),
    "N": ("chr1\t131\t.\tA\tC\n", "REF is not the base of genome.fa: N"),
    "same": (variant(50, CHR1[49]), "ALT is REF"),
    "telomere": ("chr1\t0\t.\tA\tC\n", "POS 0 lies before the chromosome"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_variants_that_cannot_be_scored_are_listed(genome, write, name):
    row, reason = REFUSED[name]
    variants = read_variants(write(VCF_HEADER + variant(60) + row, "v.vcf"), genome, LENGTH)
    assert variants.regions["position"].tolist() == [60]
    (refused,) = variants.refused.itertuples()
    assert refused.line == 4
    assert refused.reason.startswith(reason)
    chrom, position, _, ref, alt = row.strip().split("\t")[:5]
    assert refused.record == f"{chrom}:{position} {ref}>{alt}"  # as in the file


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (VCF_HEADER, None, "holds no variant"),
        ("chr1 5 . A C\n", 1, "1 tab-separated columns; a VCF row begins with CHROM, POS"),
        (VCF_HEADER + "chr1\tfive\t.\tA\tC\n", 3, "POS is 'five'"),
        (VCF_HEADER + "chr1\t-1\t.\tA\tC\n", 3, "POS is '-1'"),
        (VCF_HEADER + "1\t50\t.\tA\tC\n2\t50\t.\tA\tC\n", 3, "none of the 2 rows can be used"),
    ],
)
def test_vcf_files_are_refused_by_line(genome, write, text, line, words):
    path = write(text, "v.vcf")
    with pytest.raises(InputFileError) as error:
        read_variants(path, genome, LENGTH)
    assert str(error.value).startswith(f"{path}, line {line}: " if line else f"{path}: ")
    assert words in str(error.value)


@pytest.fixture
def model():
    return tism.build_model("baseline", length=LENGTH, n_tasks=3, width=4, seed=0).double()


@pytest.fixture
def variants(genome, write):
    rows = "".join(variant(p, alt) for p in range(8, 60, 7) for alt in "ACGT" if alt != CHR1[p - 1])
    return read_variants(write(VCF_HEADER + rows, "v.vcf"), genome, LENGTH)


@pytest.mark.parametrize("method", ["ism", "tism"])
def test_variant_effects_are_the_method_at_the_same_base(model, variants, method):
    effects = variant_effects(model, variants, [2, 0], method=method)
    maps = METHODS[method].scores(model, variants[:], [2, 0])
    alternate = ["ACGT".index(base) for base in variants.regions["alternate"]]
    expected = maps[torch.arange(len(variants)), :, alternate, variants.centre]
    torch.testing.assert_close(effects, expected, rtol=1e-9, atol=1e-12)
    for rows, meant in [(-1, [-1]), (slice(9, 3, -4), [9, 5]), ([2, 2], [2, 2])]:
        found = variant_effects(model, variants, [2, 0], method=method, rows=rows)
        torch.testing.assert_close(found, expected[meant], rtol=1e-9, atol=1e-12)
    mutants = variants[:].double()
    mutants[torch.arange(len(variants)), :, variants.centre] = torch.eye(4).double()[alternate]
    if method == "ism":
        with torch.no_grad():
            change = (model.eval()(mutants) - model(variants[:].double()))[:, [2, 0]]
        torch.testing.assert_close(effects, change, rtol=1e-9, atol=1e-12)


def test_alleles_of_any_length_are_cut_at_one_base(genome, write, model):
    """Effects are those of windows that are written by hand."""
    first, length = 60, LENGTH
    alternates = {
        CHR1[59]: ["ACGT".replace(CHR1[59], "")[0], CHR1[59] + "GATT"],
        CHR1[59:64]: [CHR1[59], CHR1[59:62] + "TTT", "GGGGG"],
    }
    rows = [f"chr1\t{first}\t.\t{ref}\t{','.join(alts)}\n" for ref, alts in alternates.items()]
    variants = read_variants(write(VCF_HEADER + "".join(rows), "v.vcf"), genome, length)
    left, expected = CHR1[59 - length // 2 : 59], []
    for ref, alts in alternates.items():
        expected += [(left + alt + CHR1[59 + len(ref) :])[:length] for alt in alts]
    assert decode(variants[:]) == [CHR1[54:65]] * 5
    assert decode(variants.alternates[:]) == expected
    assert variants.regions["alternate"].tolist() == [
        a for alts in alternates.values() for a in alts
    ]
    with torch.no_grad():
        pair = [model.eval()(tism.one_hot_encode(w).double()) for w in (expected, [CHR1[54:65]])]
    torch.testing.assert_close(variant_effects(model, variants), pair[0] - pair[1])
    change = tism.one_hot_encode(expected).double() - tism.one_hot_encode(CHR1[54:65]).double()
    gradient = tism.input_gradient(model, tism.one_hot_encode(CHR1[54:65]).double())
    by_gradient = (gradient * change[:, None]).sum((2, 3))
    torch.testing.assert_close(variant_effects(model, variants, method="tism"), by_gradient)


def test_phased_genotypes_are_ignored_with_a_word(genome, write):
    plain, phased = (variant(50).replace("0/1", genotypes) for genotypes in ("0/1", "0/1\t1|0:3"))
    info = plain.replace("DP=3", "CSQ=1|2")
    for row, is_said in ((plain, False), (info, False), (phased, True)):
        variants = read_variants(write(VCF_HEADER + row, "v.vcf"), genome, LENGTH)
        assert ("phased genotypes are ignored" in variants.about) == is_said


class Positive(torch.nn.Module):
    """Two tasks, both positive; the second is the constant 2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = (x * torch.arange(44).view(4, 11).to(x) / 100).sum((1, 2)).exp2()
        return torch.stack([first, 2 + 0 * first], 1)


def test_the_table_has_both_predictions_and_fold_changes(tmp_path, variants):
    store = score_to_store(tmp_path / "s", Positive(), variants, [1, 0], method="ism")
    table = variant_table(store, effect="log2fc", task_names=["DNase", "ATAC"])
    assert [c for c in table if "_" in c][:4] == [
        "effect_ATAC", "reference_ATAC", "alternate_ATAC", "log2fc_ATAC",
    ]  # fmt: skip
    with torch.no_grad():
        before, after = (Positive()(w)[:, 0] for w in (variants[:], variants.alternates[:]))
    for column, wanted in {
        "reference": before, "alternate": after, "effect": after - before,
        "log2fc": (after / before).log2(),
    }.items():  # fmt: skip
        np.testing.assert_allclose(table[f"{column}_DNase"], wanted, rtol=1e-4, atol=1e-6)
    assert set(table["log2fc_ATAC"]) == {0}
    for names in (["a"], ["a", "a"], ["a", ""]):
        with pytest.raises(ValueError, match="task names must be 2 different ones"):
            variant_table(store, task_names=names)
    negative = score_to_store(tmp_path / "n", Positive(), variants, output_fn=torch.neg)
    with pytest.raises(ValueError, match="log2fc needs positive predictions, but 24 of 24"):
        variant_table(negative, effect="log2fc")


def test_variants_in_a_store(tmp_path, model, variants):
    store = score_to_store(tmp_path / "s", model, variants, [1], method="ism", chunk_size=5)
    table = variant_table(store)
    assert table["position"].tolist() == variants.regions["position"].tolist()
    expected = variant_effects(model, variants, [1])
    np.testing.assert_allclose(table["effect_1"], expected[:, 0])
    (tmp_path / "p.bed").write_text("chr1\t20\t31\n")
    windows = read_windows(tmp_path / "p.bed", variants.genome)
    with pytest.raises(StoreError, match="kind variants, asked for maps"):
        score_to_store(tmp_path / "s", model, windows, [1], method="ism")
    with pytest.raises(ValueError, match="gives no effect of a variant; choose one of tism, ism"):
        score_to_store(tmp_path / "g", model, variants, method="gradient")
    with pytest.raises(ValueError, match="method must be one of tism, ism, budgeted, gradient"):
        score_to_store(tmp_path / "g", model, variants, method="occlusion")


@pytest.mark.parametrize("letters", [b"ACG\xc3\xa9", b"ACGT\xc3", b"AC\xffGT"])
def test_letters_of_other_alphabets_are_named_by_line(tmp_path, letters):
    (tmp_path / "g.fa").write_bytes(b">a\nACGTA\n" + letters + b"\n>b\nACGT\n")
    with (
        pytest.raises(InputFileError, match=r"g\.fa, line 3: (letter|byte) "),
        Genome(tmp_path / "g.fa") as genome,
    ):
        genome.codes("a", 0, genome.sizes["a"])


def test_a_sequence_without_letters_is_named(tmp_path):
    (tmp_path / "g.fa").write_text(">a\n>b\nACGT\n")
    with pytest.raises(InputFileError, match=r"g\.fa: 'a' has no sequence; add it or drop"):
        Genome(tmp_path / "g.fa")
