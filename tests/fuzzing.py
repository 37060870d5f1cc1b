"""What the fuzz tests share: how many inputs are drawn, what may come of one, and the counts.

`make test` draws a few hundred inputs, the same ones every time. `make fuzz` draws more than 10,000
new ones and writes data/results/fuzz.csv.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import state
from hypothesis import HealthCheck, Phase, settings

from tism.score.files import replacing

NIGHTLY = os.environ.get("TISM_FUZZ") == "nightly"
TABLE = Path(__file__).parents[1] / "data" / "results" / "fuzz.csv"
answered: Counter[str] = Counter()
refused: Counter[str] = Counter()

_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
_PHASES = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]
settings.register_profile("quick", derandomize=True, database=None, phases=_PHASES)
settings.register_profile("nightly", print_blob=True, phases=_PHASES)


def inputs(quick: int, nightly: int) -> settings:
    """Return the settings of a test that draws so many inputs in either mode."""
    return settings(
        settings.get_profile("nightly" if NIGHTLY else "quick"),
        max_examples=nightly if NIGHTLY else quick,
        deadline=None,
        suppress_health_check=_CHECKS,
    )


class Refused(str):
    """The message of an error that refuses bad input as it should."""


def outcome(name: str, call: Callable[[], Any], *wanted: str) -> Any:
    """Return what a call returns, or the message of the error with which it refuses bad input.

    name : the input is counted under this name
    wanted : the message must hold one of these words, such as the argument or the file

    Fails where the error is neither TypeError, ValueError nor OSError, or names none of them.
    """
    try:
        result = call()
    except UnicodeError:  # a ValueError that nobody has put into words
        raise
    except (TypeError, ValueError, OSError) as error:
        message = Refused(error)
        if not any(word in message for word in wanted):
            raise AssertionError(f"names none of {wanted}: {error!r}") from error
        refused[name] += 1
        return message
    answered[name] += 1
    return result


@contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """Fail where the block changes the model or the process, even if it raises an error."""
    before = state(model)
    try:
        yield
    finally:
        assert state(model) == before


def write_counts() -> None:
    """Write for each function or reader how many inputs it got, answered and refused."""
    names = sorted({*answered, *refused})
    with replacing(TABLE) as temporary, temporary.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["function", "inputs", "right_answers", "named_errors"])
        for name in names:
            rows.writerow([name, answered[name] + refused[name], answered[name], refused[name]])
