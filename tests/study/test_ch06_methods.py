import numpy as np
import pytest
import torch

from tism import ism, tism
from tism.study import ch06_methods as methods
from tism.study.ch06_methods import Job

JOB = Job("shallow", length=96, n_sequences=2, width=8, n_tasks=3)


@pytest.fixture(scope="module")
def model():
    return JOB.model()


@pytest.fixture(scope="module")
def exact(model):
    return ism(model, JOB.sequences(), engine="full")


@pytest.mark.parametrize(("deep", "convolutions", "dense"), [(False, 3, 3), (True, 8, 4)])
def test_networks_of_figure_2(deep, convolutions, dense):
    model = methods.build_aitac(500, 7, deep=deep)
    kinds = [type(layer).__name__ for layer in model]
    assert kinds.count("Conv1d") == convolutions
    assert kinds.count("Linear") == dense  # with the output
    assert model[0].weight.shape == (300, 4, 19)
    assert model(torch.zeros(1, 4, 500)).shape == (1, 7)


def test_same_job_same_network():
    first, second = (Job("deep", 60, 1, width=4).model().state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_tangermeme(model, exact):
    pytest.importorskip("tangermeme")
    options = {"batch_size": 32, "fast": False}
    scores = methods.tangermeme_ism(model, JOB.sequences(), start=0, stop=96, **options)
    torch.testing.assert_close(scores, exact, atol=1e-5, rtol=0)
    part = methods.tangermeme_ism(model, JOB.sequences(), start=5, stop=9, **options)
    torch.testing.assert_close(part, exact[..., 5:9], atol=1e-5, rtol=0)


def test_captum(model):
    pytest.importorskip("captum")
    scores = methods.captum_tism(model, JOB.sequences(), 2, batch_size=1)
    torch.testing.assert_close(scores, tism(model, JOB.sequences(), 2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:yuzu")
def test_yuzu(exact):
    pytest.importorskip("yuzu")
    norms = exact.square().sum(1).sqrt()
    scores = methods.yuzu_of(JOB)(JOB.sequences(), 1)
    assert scores.shape == norms.shape
    assert np.corrcoef(scores.flatten(), norms.flatten())[0, 1] > 0.999


def test_missing_peer_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "yuzu", None)
    with pytest.raises(ImportError, match=r"tism\[peers\]"):
        methods.yuzu_of(Job("shallow", 60, 1, width=4))
