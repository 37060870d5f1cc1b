"""The table of what scores of long sequences cost."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from tism.study import long_sequences
from tism.study.long_sequences import Case, table_of


@contextmanager
def here(processes: int):
    """In place of a pool of processes: the function runs in this one."""
    yield SimpleNamespace(apply=lambda function, arguments: function(*arguments))


def test_every_score_has_its_cost_memory_and_agreement(capsys, monkeypatch):
    monkeypatch.setattr(long_sequences, "get_context", lambda kind: SimpleNamespace(Pool=here))
    case = Case("Enformer", 2**11, {"width": 4, "layers": 1}, ("20.sum",))
    table = table_of(case).set_index("method")
    assert list(table.index) == ["windowed", "20.sum", "tism", "full"]
    assert (table["GiB"] > 0).all()
    assert (table["seconds"][["tism", "full"]] > 0).all()
    assert table["r"]["windowed"] == pytest.approx(1)
    assert table["r"]["tism"] < table["r"]["20.sum"] < 1
    assert table["times_as_fast_as_full"]["full"] == 1
    assert "windowed 16" in capsys.readouterr().out


def test_the_cost_of_all_positions_follows_from_a_line():
    assert long_sequences._for_all("windowed", [10, 22]) == 22 + 984
    assert long_sequences._for_all("tism", [3]) == 3
    assert long_sequences._for_all("full", [8]) == 2 * 3001
