"""The code of the page for users of other tools: it runs, and its arrays are those of the tools."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

PAGE = Path(__file__).parents[2] / "book" / "coming_from.md"


@pytest.fixture(scope="module")
def names() -> dict[str, object]:
    """What the code of the page defines; its own comparisons with installed tools hold."""
    pytest.importorskip("tangermeme")
    pytest.importorskip("captum")
    names: dict[str, object] = {}
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(code, PAGE.name, "exec"), names)
    return names


def every_base(x: Tensor, position: int, base: int) -> Tensor:
    """The one-hot sequences x (n, 4, length) with one base at one position."""
    mutant = x.clone()
    mutant[:, :, position] = 0
    mutant[:, base, position] = 1
    return mutant


def test_code_runs_and_agrees(names: dict[str, object]):
    assert {"same", "as_subtract", "as_log2fc", "as_crested"} <= names.keys()


@torch.no_grad()
def test_effects_of_variants_are_subtracted_predictions(names: dict[str, object]):
    variants, grelu_model = names["variants"], names["grelu_model"]
    pair = (variants.alternates[:], variants[:])
    alternate, reference = (grelu_model(x.double()).mean(-1) for x in pair)
    torch.testing.assert_close(names["effects"].double(), alternate - reference)


@torch.no_grad()
@pytest.mark.parametrize("position", [0, 50, 100])
def test_layouts_of_tools_that_are_not_installed(names: dict[str, object], position: int):
    """As gReLU 1.1 and CREsted 1.11 define them: predictions of mutants against the original's."""
    x, close = names["x"], {"rtol": 1e-6, "atol": 1e-12}
    for base in range(4):
        mutant = every_base(x, position, base)
        bins = [names["grelu_model"](sequences) for sequences in (mutant, x)]
        difference, fold = bins[0] - bins[1], (bins[0] / bins[1]).log2()
        torch.testing.assert_close(names["as_subtract"][:, position, base], difference, **close)
        torch.testing.assert_close(names["as_log2fc"][:, position, base], fold, **close)
        last = [names["crested_model"](s.transpose(1, 2))[:, [0, 2]] for s in (mutant, x)]
        found = names["as_crested"][:, :, position, base]
        torch.testing.assert_close(found, last[0] - last[1], **close)
