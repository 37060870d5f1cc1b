"""Encoding, decoding, reverse complement, and what is refused as a one-hot sequence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tism.sequence import decode, one_hot_encode, reverse_complement, validate_one_hot

COMPLEMENT = str.maketrans("ACGTN", "TGCAN")
DNA = st.text("ACGTNacgtn", min_size=1, max_size=40)


def test_rows_are_a_c_g_t_and_n_is_zeros():
    expected = [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]

    encoded = one_hot_encode(["ACGTN", "acgtn"])

    assert encoded.dtype == torch.float32
    assert encoded.is_contiguous()
    assert encoded.tolist() == [expected, expected]


@pytest.mark.parametrize("sequences", ["ACG", ["ACG"], ("ACG",), (s for s in ["ACG"])])
def test_one_string_or_any_iterable_of_strings(sequences):
    assert decode(one_hot_encode(sequences)) == ["ACG"]


@given(DNA)
def test_decode_inverts_encode_and_complement_is_the_textbook_one(sequence):
    encoded = one_hot_encode(sequence)
    opposite = sequence.upper()[::-1].translate(COMPLEMENT)

    assert decode(encoded) == [sequence.upper()]
    assert decode(reverse_complement(encoded)) == [opposite]


def test_reverse_complement_of_score_maps_is_an_involution():
    scores = torch.randn(2, 3, 4, 7)

    flipped = reverse_complement(scores)

    assert flipped[1, 2, 0, 1] == scores[1, 2, 3, 5]  # A at position 1 is T at 5 from the other end
    assert torch.equal(reverse_complement(flipped), scores)
    assert torch.equal(reverse_complement(scores.numpy()), flipped)


def test_reverse_complement_refuses_another_axis_order():
    with pytest.raises(ValueError, match=r"\(\.\.\., 4, length\).*\(2, 7, 4\)"):
        reverse_complement(torch.zeros(2, 7, 4))


@pytest.mark.parametrize(
    ("sequences", "error", "message"),
    [
        ([], ValueError, "sequences is empty"),
        ("", ValueError, r"sequences\[0\] has length 0"),
        (["ACG", "AC"], ValueError, r"sequences\[1\] has length 2.*sequences\[0\] has 3"),
        (["AC", "AX"], ValueError, r"sequences\[1\] has 'X' at position 1"),
        (["ACU"], ValueError, r"'U' at position 2"),
        (["A-C"], ValueError, r"'-' at position 1"),
        (["A\N{LATIN CAPITAL LETTER A WITH RING ABOVE}"], ValueError, r"'Å' at position 1"),
        (["A\N{DNA DOUBLE HELIX}C"], ValueError, r"at position 1"),
        (["ACG", 3], TypeError, r"sequences\[1\] must be a string, got int"),
        ([3, "ACG"], TypeError, r"sequences\[0\] must be a string, got int"),
        (b"ACGT", TypeError, r"sequences.* must be .*string"),
        (None, TypeError, r"sequences.* must be .*string"),
    ],
)
def test_sequences_that_cannot_be_encoded(sequences, error, message):
    with pytest.raises(error, match=message):
        one_hot_encode(sequences)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "convert",
    [
        *(
            pytest.param(lambda a, d=d: a.astype(d), id=f"numpy {d}")
            for d in ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "g"]
        ),
        *(pytest.param(lambda a, d=d: a.astype(d), id=d) for d in [">f4", ">f8", ">i2"]),
        *(
            pytest.param(lambda a, d=d: torch.tensor(a).to(d), id=str(d))
            for d in [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16]
        ),
        pytest.param(read_only, id="read-only"),
        pytest.param(np.asfortranarray, id="Fortran order"),
        pytest.param(lambda a: np.repeat(a, 2, axis=2)[:, :, ::2], id="strided"),
        pytest.param(lambda a: a[:, :, ::-1].copy()[:, :, ::-1], id="negative stride"),
        pytest.param(lambda a: a.tolist(), id="nested lists"),
        pytest.param(lambda a: torch.tensor(a, requires_grad=True), id="requires grad"),
        pytest.param(lambda a: torch.tensor(a).mT.contiguous().mT, id="transposed tensor"),
    ],
)
def test_every_form_of_a_one_hot_array_is_the_same_sequence(convert):
    array = one_hot_encode(["ACGTN", "NTTGA"]).numpy()

    validated = validate_one_hot(convert(array))

    assert isinstance(validated, torch.Tensor)
    assert not validated.requires_grad
    assert np.array_equal(validated.double().numpy(), array)
    assert decode(convert(array)) == ["ACGTN", "NTTGA"]
    assert decode(reverse_complement(convert(array))) == ["NACGT", "TCAAN"]


def with_entry(value: float, row: int = 0, position: int = 2) -> torch.Tensor:
    one_hot = one_hot_encode(["AAAA"] * (row + 2))
    one_hot[row, 0, position] = value
    return one_hot


BAD_ONE_HOT = [
    ("ACGT", TypeError, "one_hot must be a numeric.*one_hot_encode"),
    (["ACGT"], TypeError, "one_hot must be a numeric.*one_hot_encode"),
    (None, TypeError, "one_hot must be a numeric"),
    (np.zeros((1, 4, 3), complex), TypeError, "one_hot must be.*complex"),
    (torch.zeros(1, 4, 3, dtype=torch.complex64), TypeError, "one_hot must be real.*complex64"),
    (torch.zeros(1, 4, 2).to_sparse(), TypeError, "^one_hot must be"),
    (torch.zeros(1, 4, 2, device="meta"), TypeError, "^one_hot must be"),
    ([[[1, 0], [0]]], TypeError, "^one_hot must be"),
    ({"x": 1}, TypeError, "^one_hot must be"),
    (torch.zeros(4, 9), ValueError, r"\(n, 4, length\), got \(4, 9\).*one_hot\[None\]"),
    (torch.zeros(2, 9, 4), ValueError, r"got \(2, 9, 4\).*transpose"),
    (torch.zeros(2, 5, 9), ValueError, r"got \(2, 5, 9\)$"),
    (torch.zeros(1, 1, 4, 9), ValueError, r"got \(1, 1, 4, 9\)$"),
    (torch.tensor(1.0), ValueError, r"got \(\)$"),
    (torch.zeros(0, 4, 9), ValueError, r"one_hot is empty, shape \(0, 4, 9\)"),
    (torch.zeros(2, 4, 0), ValueError, r"one_hot is empty, shape \(2, 4, 0\)"),
    (with_entry(float("nan")), ValueError, r"one_hot\[0, :, 2\] is \[nan, 0.0, 0.0, 0.0\]"),
    (with_entry(float("inf")), ValueError, r"one_hot\[0, :, 2\] is \[inf"),
    (with_entry(0.5), ValueError, r"one_hot\[0, :, 2\] is \[0.5"),
    (with_entry(-1), ValueError, r"one_hot\[0, :, 2\] is \[-1"),
    (with_entry(2).to(torch.uint8), ValueError, r"one_hot\[0, :, 2\] is \[2"),
    (torch.ones(1, 4, 3), ValueError, r"one_hot\[0, :, 0\] is \[1.0, 1.0, 1.0, 1.0\]"),
    (with_entry(0.5, row=1500, position=3), ValueError, r"one_hot\[1500, :, 3\]"),
]


@pytest.mark.parametrize(("one_hot", "error", "message"), BAD_ONE_HOT)
def test_what_is_no_one_hot_sequence_is_named(one_hot, error, message):
    with pytest.raises(error, match=message):
        validate_one_hot(one_hot)


def test_an_array_of_one_sequence_backwards():
    one_hot = one_hot_encode("ACGT").numpy()[::-1]  # torch refuses its stride, numpy its being one
    assert decode(one_hot) == ["ACGT"]


def test_encoding_is_float32_whatever_torch_computes_in():
    torch.set_default_dtype(torch.float64)
    try:
        assert one_hot_encode("ACGT").dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
