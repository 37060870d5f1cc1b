import numpy as np
import pytest
import torch

from tism import ism, tism
from tism.study import ch06_peers as peers
from tism.study.ch06_measure import Job

JOB = Job("shallow", length=96, n_sequences=2, width=8, n_tasks=3)


@pytest.fixture(scope="module")
def model():
    return JOB.model()


@pytest.fixture(scope="module")
def exact(model):
    return ism(model, JOB.sequences(), engine="full")


def test_tangermeme(model, exact):
    pytest.importorskip("tangermeme")
    scores = peers.tangermeme_ism(model, JOB.sequences(), fast=False)
    torch.testing.assert_close(scores, exact, atol=1e-5, rtol=0)
    part = peers.tangermeme_ism(model, JOB.sequences(), fast=False, start=5, stop=9)
    torch.testing.assert_close(part, exact[..., 5:9], atol=1e-5, rtol=0)


def test_captum(model):
    pytest.importorskip("captum")
    scores = peers.captum_tism(model, JOB.sequences(), 2, batch_size=1)
    torch.testing.assert_close(scores, tism(model, JOB.sequences(), 2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:yuzu")
def test_yuzu(model, exact):
    pytest.importorskip("yuzu")
    norms = exact.square().sum(1).sqrt()
    scores = peers.Yuzu(model, JOB.length)(JOB.sequences())
    assert scores.shape == norms.shape
    assert np.corrcoef(scores.flatten(), norms.flatten())[0, 1] > 0.999


def test_missing_peer_names_the_extra(monkeypatch, model):
    monkeypatch.setitem(__import__("sys").modules, "yuzu", None)
    with pytest.raises(ImportError, match=r"tism\[peers\]"):
        peers.Yuzu(model, JOB.length)
