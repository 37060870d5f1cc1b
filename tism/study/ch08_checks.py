"""Checks of the published networks as they are rebuilt here, against what is known of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from tism.correlations import pearson, profile_correlation
from tism.exact import ism, predict
from tism.sequence import one_hot_encode
from tism.study.ch08_agreement import deepstarr_sequences, placed, polyadenylation_signals
from tism.study.ch08_networks import CalderonCNN, ExternalModel
from tism.study.data.immgen import load_aitac_sample

# Motif, its consensus, the tasks that must rise most, and where that is published.
MOTIFS = {
    "calderon": {
        "EBF1": ("ATTCCCAAGGGAAT", "B cells", ("Bulk_B", "Mem_B", "Naive_B")),
        "CEBPB": ("ATTGCGCAAT", "monocytes, dendritic cells", ("Monocytes", "Myeloid_DCs")),
        "SPI1": ("AAAAAGAGGAAGTG", "dendritic, B cells", ("Myeloid_DCs", "pDCs", "Naive_B")),
        "TBX21": ("AGGTGTGA", "NK, effector T cells", ("Immature_NK", "Gamma_delta_T", "CD8pos")),
        "AP-1": ("GATGACTCATC", "stimulated T cells", ("Effector_CD4pos_T-S", "Th17", "Memory_T")),
    },
    "deepstarr": {
        "AP-1": ("TGACTCA", "developmental", ("developmental",)),
        "GATA": ("CTTATCT", "developmental", ("developmental",)),
        "Dref": ("TATCGATA", "housekeeping", ("housekeeping",)),
        "Ohler1": ("GTGTGACCGCG", "housekeeping", ("housekeeping",)),
    },
    "mpra_dragonn": {
        "HNF4A": ("GGGGTCAAAGGTCA", "HepG2", ("HepG2",)),
        "GATA1": ("AGATAAGG", "K562 minP", ("K562 minP",)),
    },
}


def port_checks(external: ExternalModel) -> pd.DataFrame:
    """Does a rebuilt network do what published numbers and biology say?

    The sample files of DeepSTARR are training sequences: they check the port, not the model.

    Returns columns model, check, expected, found, value, agrees.
    """
    checks = {
        "deepstarr": _deepstarr_checks,
        "mpra_dragonn": _mpra_dragonn_checks,
        "calderon": _calderon_checks,
        "xpresso": _xpresso_checks,
        "aparent2": _aparent2_checks,
        "aparent2_log_odds": _aparent2_checks,
    }
    rows = [
        (check, expected, f"{r:,.{digits}f}", float(r), bool(least < r < most))
        for check, expected, r, digits, (least, most) in checks[external.name](external)
    ]
    for motif, (consensus, expected, tasks) in MOTIFS.get(external.name, {}).items():
        change = motif_effect(external, consensus).sort_values(ascending=False)
        risen, value = change.index[0], float(change.iloc[0])
        check = f"{motif} ({consensus}) raises most"
        rows.append((check, expected, risen, value, risen.startswith(tasks)))
    table = pd.DataFrame(rows, columns=["check", "expected", "found", "value", "agrees"])
    table.insert(0, "model", external.name)
    return table


# check, expected, value, digits shown, limits
_Check = tuple[str, str, float, int, tuple[float, float]]


def _deepstarr_checks(external: ExternalModel) -> Iterator[_Check]:
    table = deepstarr_sequences()
    predicted = predict(external.model, one_hot_encode(table["sequence"]))
    for file, rows in table.groupby("file"):
        for number, task in enumerate(external.tasks):
            r = pearson(predicted[rows.index, number], torch.tensor(rows[task].to_numpy()))
            name = f"sample_{file}.txt, {task}: r with measured"
            yield name, "0.70 to 0.79, as other ports", r, 2, (0.65, 1)


def _mpra_dragonn_checks(external: ExternalModel) -> Iterator[_Check]:
    sequences = placed(torch.from_numpy(load_aitac_sample()[0]), external.length).one_hot
    predicted = predict(external.model, sequences).unflatten(1, (4, 3))
    r = pearson(predicted[..., :2].mean(2), predicted[..., 2], 0).min()
    name = "average task: lowest r with the mean of its replicate tasks"
    yield name, "1: trained on that mean", r, 4, (0.99, 1.01)


def _calderon_checks(external: ExternalModel) -> Iterator[_Check]:
    one_hot, heights = map(torch.from_numpy, load_aitac_sample()[:2])
    level = predict(external.model, placed(one_hot, external.length).one_hot).mean(1)
    name = "mean prediction of 100 mouse immune regions: r with their mean accessibility"
    yield name, "clearly positive", pearson(level, heights.mean(1)), 2, (0.3, 1)
    zeros = CalderonCNN(padding=0.0)
    zeros.load_state_dict(external.model.state_dict())
    random = one_hot_encode(_random_sequences(4, external.length))
    maps = [ism(model, random, slice(None, None, 9)) for model in (external.model, zeros)]
    r = profile_correlation(*maps).min()
    name = "ISM with zeros for the padding of activations: lowest r with ours"
    yield name, "1: the padding does not matter", r, 4, (0.99, 1.01)


def _xpresso_checks(external: ExternalModel) -> Iterator[_Check]:
    backgrounds = one_hot_encode(_random_sequences(16, external.length))
    island = one_hot_encode(_random_sequences(16, 300, "CG"))
    level = {}
    for start in range(0, external.length, 300):
        planted = backgrounds.clone()
        planted[:, :, start : start + 300] = island
        level[start + 150] = float(predict(external.model, planted, args=external.args).mean())
    name = "position at which 300 bp of C and G raise the prediction most"
    yield name, "7,000: the start of transcription", max(level, key=level.get), 0, (6500, 7500)


def _aparent2_checks(external: ExternalModel) -> Iterator[_Check]:
    for row in polyadenylation_signals().dropna().itertuples():
        one_hot = one_hot_encode([row.sequence] * 2)
        one_hot[1, :, int(row.position)] = one_hot_encode(row.base)[0, :, 0]
        before, after = predict(external.model, one_hot)[:, 0].double()
        if external.tasks == ("proportion",):
            before, after = before.logit(), after.logit()
        limits = row.change - 1e-4, row.change + 1e-4
        name = f"change of the log odds by a variant of the signal of {row.gene}"
        yield name, f"{row.change:.4f}: published with the network", after - before, 4, limits


def motif_effect(external: ExternalModel, motif: str) -> pd.Series:
    """Mean change of each task's prediction if `motif` replaces the centre of random sequences."""
    random = _random_sequences(200, external.length)
    start = (external.length - len(motif)) // 2
    planted = [s[:start] + motif + s[start + len(motif) :] for s in random]
    before, after = (predict(external.model, one_hot_encode(s)) for s in (random, planted))
    return pd.Series((after - before).mean(0).numpy(), index=external.tasks)


def _random_sequences(n: int, length: int, bases: str = "ACGT") -> list[str]:
    rng = np.random.default_rng(0)
    return ["".join(row) for row in rng.choice(list(bases), (n, length))]
