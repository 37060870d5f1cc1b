from dataclasses import replace

import numpy as np
import pytest
import torch

from tism.engine.choice import Work
from tism.engine.replay import WindowedModel
from tism.model import AITACConfig
from tism.predictor import evaluating
from tism.study.ch06_cost import cost_map, effective_window, forward_equivalents, window_table
from tism.study.ch06_methods import Job

CONFIG = AITACConfig(length=251, n_tasks=5, width=16)


def counted(config: AITACConfig) -> tuple[float, float]:
    """Multiply-adds that PyTorch is asked for, of a forward pass and of one substitution."""
    sizes = {"pool": config.pool, "width": config.width, "n_tasks": config.n_tasks}
    model = Job("baseline", config.length, 1, **sizes).model()
    bases = torch.randint(4, (1, config.length), generator=torch.Generator().manual_seed(0))
    one_hot = torch.nn.functional.one_hot(bases, 4).mT.float()
    position = np.arange(config.length // 2 - 16, config.length // 2 + 16)
    base = (bases[0].numpy()[position] + 1) % 4
    with evaluating(model) as predict, torch.no_grad():
        windows = WindowedModel(predict, one_hot, {})
        windows.effects(np.zeros_like(position), position, base)  # prepares the weights
        with Work() as windowed:
            windows.effects(np.zeros_like(position), position, base)
        with Work() as full:
            predict(one_hot)
    return full.products, windowed.products / len(position)


@pytest.mark.parametrize(("length", "pool"), [(251, 2), (1000, 2), (1000, 3)])
def test_table_counts_what_the_engine_multiplies(length, pool):
    config = replace(CONFIG, length=length, pool=pool)
    table = window_table(config)
    full, windowed = counted(config)
    assert table["full"].sum() == full
    total, first_dense = table["windowed"].sum(), table["windowed"].iloc[5]
    assert total <= 1.06 * windowed  # the worst place may not occur
    assert windowed <= total + first_dense / 2  # windows that begin nearby share one product
    if length == 251:
        assert total == windowed


def test_no_window_is_wider_than_its_layer():
    for length in (8, 20, 40, 251, 5000):
        table = window_table(replace(CONFIG, length=length))
        assert (table["changed"] <= table["positions"]).all()
        assert (table["windowed"] <= table["full"]).all()


def test_windowed_cost_does_not_grow_with_the_length():
    windows = [effective_window(replace(CONFIG, length=n)) for n in (1000, 4000, 16000)]
    assert max(windows) < 1.05 * min(windows)


def test_forward_equivalents():
    costs = forward_equivalents(CONFIG)
    assert costs["ISM"] == 754
    assert costs["TISM"] == 6
    assert costs["windowed ISM"] == 1 + 3 * effective_window(CONFIG)
    assert forward_equivalents(CONFIG, 81)["TISM"] == 82


def test_map_is_the_ratio_of_costs():
    lengths, tasks = np.array([251, 1000]), np.array([1, 9])
    ratio = cost_map(CONFIG, lengths, tasks, windowed=1, backward=1)
    assert ratio.shape == (2, 2)
    assert ratio[1, 0] == pytest.approx(forward_equivalents(CONFIG)["windowed ISM"] / 10)
    scaled = cost_map(CONFIG, lengths, tasks, windowed=2, backward=3)
    np.testing.assert_allclose(scaled[1], ratio[1] * 2 * 10 / 28)
