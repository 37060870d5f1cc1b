from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from tism.study.data import simulation
from tism.study.data.simulation import (
    CELL_TYPES,
    COMPETING,
    COOPERATIVE,
    REPRESSORS,
    find_pairs,
    simulate,
)
from tism.study.data.sites import find_sites, read_motifs

N_REGIONS, N_TASKS = 600, 8


@pytest.fixture(scope="module")
def data():
    return simulate(N_REGIONS, N_TASKS)


@pytest.fixture(scope="module")
def truth(data):
    return data.truth


@pytest.fixture(scope="module")
def windows(data):
    return data.sequences[:, data.flank : -data.flank]


@pytest.fixture(scope="module")
def motifs():
    return {motif.name: motif for motif in read_motifs()}


def consensus(motif, strand="+"):
    bases = motif.scores.argmax(0)
    return bases if strand == "+" else 3 - bases[::-1]


def sequence_with(*sites, length=251):
    """One sequence of N, in which nothing is found but (motif, start, strand) as given."""
    codes = np.full(length, 4, np.uint8)
    for motif, start, strand in sites:
        codes[start : start + motif.width] = consensus(motif, strand)
    return codes[None]


def logits(truth, sequence):
    """(n_tasks,) logits of accessibility above that of a sequence without sites."""
    x = 2 ** truth.response(sequence)[0].astype(float) - 2
    share = x / simulation.CEILING
    return np.log(share / (1 - share)) - simulation.BASELINE


def test_shapes_and_units(data):
    assert data.name == "simulated"
    assert data.sequences.shape == (N_REGIONS, 271)
    assert data.sequences.dtype == np.uint8
    assert data.sequences.max() == 3
    assert data.targets.shape == (N_REGIONS, N_TASKS)
    assert data.targets.dtype == np.float32
    assert data.targets.min() >= 1
    train = data.indices("train")
    np.testing.assert_allclose(data.standardised[train].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(data.standardised[train].std(0), 1, rtol=1e-4)


def test_first_eight_tasks_are_those_of_the_papers_figure(data):
    lymphoid = ["B.Sp", "NKT.Sp", "T.4.Nve.Sp", "T.8.Nve.Sp", "Tgd.Sp"]
    myeloid = ["DC.4+.Sp", "GN.Thio.PC", "MF.PC"]
    assert set(data.tasks) == {*lymphoid, *myeloid}
    lineages = [CELL_TYPES[task] for task in data.tasks]
    assert lineages == sorted(lineages)


def test_split_by_chromosome_in_the_proportions_of_immgen():
    regions = simulate(3_000, 1).regions
    share = regions["chrom"].value_counts() / len(regions)
    assert share["chr19"] == pytest.approx(9_158 / 286_000, abs=1 / 3_000)
    assert share["chr8"] + share["chr11"] == pytest.approx(32_739 / 286_000, abs=2 / 3_000)
    assert set(share.index) == {f"chr{k}" for k in range(1, 20)}
    splits = regions.groupby("chrom")["split"].unique()
    assert all(len(split) == 1 for split in splits)
    assert splits["chr19"] == ["test"]
    assert splits["chr8"] == splits["chr11"] == ["validation"]
    assert regions["locus"].is_unique
    assert regions["name"].is_unique


def test_no_two_regions_overlap_even_with_flanks(data):
    for _, rows in data.regions.groupby("chrom"):
        start = rows["start"].sort_values().to_numpy()
        assert (np.diff(start) >= data.length + 2 * data.flank).all()
    assert (data.regions["end"] - data.regions["start"] == data.length).all()
    assert data.regions["start"].min() >= data.flank


def test_same_seed_same_data_and_other_seed_other_data(data):
    again = simulate(N_REGIONS, N_TASKS)
    np.testing.assert_array_equal(again.sequences, data.sequences)
    np.testing.assert_array_equal(again.targets, data.targets)
    assert again.truth.sites.equals(data.truth.sites)
    other = simulate(N_REGIONS, N_TASKS, seed=1)
    assert (other.sequences != data.sequences).mean() > 0.5
    assert not np.allclose(other.truth.effects, data.truth.effects)


def test_effects_of_a_task_do_not_depend_on_the_size_of_the_set(data):
    larger = simulate(100, 20)
    rows = [larger.tasks.index(task) for task in data.tasks]
    np.testing.assert_array_equal(larger.truth.effects[:, rows], data.truth.effects)


def test_thresholds_hold_the_chance_of_a_site(motifs):
    for motif in motifs.values():
        if motif.width > 8:
            continue
        words = itertools.product(*motif.scores.T.tolist())
        scores = np.fromiter(map(sum, words), int, 4**motif.width)
        assert scores.max() == motif.best
        assert (scores >= motif.threshold).mean() <= 1e-4
        below = scores[scores < motif.threshold].max()
        assert (scores >= below).mean() > 1e-4


def test_matrices_are_jaspars(motifs):
    assert len(motifs) == 20
    assert all(motif.matrix_id.startswith("MA") for motif in motifs.values())
    words = {name: "".join("ACGT"[b] for b in consensus(m)) for name, m in motifs.items()}
    assert "GAGGAA" in words["Spi1"]
    assert "TGACTCA" in words["FOS::JUN"] or "TGAGTCA" in words["FOS::JUN"]
    assert "TTTGAT" in words["TCF7"]
    assert words["CTCF"].startswith("GCCACCAGGGGGC")


def brute_force_sites(sequence, motifs):
    found = set()
    for motif in motifs:
        hits = []
        for start in range(len(sequence) - motif.width + 1):
            word = sequence[start : start + motif.width]
            both = [motif.scores[w, np.arange(motif.width)].sum() for w in (word, 3 - word[::-1])]
            if max(both) >= motif.threshold:
                hits.append((start, int(max(both)), "+" if both[0] >= both[1] else "-"))
        for start, score, strand in hits:
            rivals = [h for h in hits if h[0] != start and abs(h[0] - start) < motif.width]
            strength = score, -abs(2 * start + motif.width - len(sequence))
            if all(
                strength > (s, -abs(2 * at + motif.width - len(sequence))) for at, s, _ in rivals
            ):
                found.add((motif.name, start, start + motif.width, strand, score))
    return found


def test_sites_equal_a_brute_force_scan(windows, truth):
    for row in range(6):
        sites = truth.sites[truth.sites["region"] == row]
        columns = zip(
            *(sites[c] for c in ("motif", "start", "end", "strand")),
            (sites["score"] * 100).round().astype(int),
            strict=True,
        )
        assert set(columns) == brute_force_sites(windows[row], truth.motifs)


@pytest.mark.parametrize("strand", ["+", "-"])
def test_a_consensus_is_found_where_it_is_written(motifs, strand):
    for motif in motifs.values():
        for start in (0, 77, 251 - motif.width):
            sites = find_sites(sequence_with((motif, start, strand)), list(motifs.values()))
            own = sites[sites["motif"] == motif.name].iloc[0]
            assert (own["start"], own["end"]) == (start, start + motif.width)
            assert own["score"] == pytest.approx(motif.best / 100)
            assert own["affinity"] == 1


def test_truth_is_consistent_with_the_sequences(windows, truth):
    np.testing.assert_array_equal(truth.response(windows), truth.noiseless)
    sites = truth.sites
    assert sites["start"].min() >= 0
    assert sites["end"].max() <= 251
    assert sites["affinity"].between(0.25, 1).all()
    assert set(sites["strand"]) == {"+", "-"}
    assert sites["motif"].nunique() == 20
    assert sites.sort_values(["region", "start"], kind="stable").index.equals(sites.index)


def test_response_is_the_same_for_the_other_strand(windows, truth):
    np.testing.assert_allclose(
        truth.response(3 - windows[:, ::-1]), truth.noiseless, rtol=0, atol=1e-5
    )


def test_most_plants_become_sites_and_the_rest_are_decoys(truth):
    planted = truth.sites["planted"].sum()
    assert planted > truth.sites["planted"].size / 2
    assert 0 < len(truth.decoys) < planted
    keys = ["region", "motif", "start"]
    both = truth.decoys.merge(truth.sites, on=keys)
    assert both.empty


def test_regions_without_a_site_are_at_the_baseline_in_every_task(truth):
    without = np.setdiff1d(np.arange(N_REGIONS), truth.sites["region"])
    assert 0.01 < len(without) / N_REGIONS < 0.15
    assert np.unique(truth.noiseless[without]).size == 1
    assert not truth.important[without].any()
    assert (truth.response(np.full((1, 251), 4)) == truth.noiseless[without[0]]).all()


def test_important_bases_lie_in_sites_and_matter(windows, truth):
    inside = np.zeros_like(truth.important)
    for region, start, end in truth.sites[["region", "start", "end"]].itertuples(index=False):
        inside[region, start:end] = True
    assert not (truth.important & ~inside).any()
    assert 0.5 < truth.important.sum() / inside.sum() < 1
    row = int(truth.important.sum(1).argmax())
    mutants = np.repeat(windows[row : row + 1], 251, 0)
    mutants[np.arange(251), np.arange(251)] = 4
    change = np.abs(truth.response(mutants) - truth.noiseless[row]).max(1)
    assert change[truth.important[row]].mean() > 10 * change[~inside[row]].mean()


def test_effect_of_a_site_is_what_its_removal_changes(truth):
    chosen = set(truth.pairs.iloc[:40][["first", "second"]].to_numpy().ravel()) | set(range(40))
    names = truth.motif_names
    for site in sorted(chosen):
        rows = truth.sites[truth.sites["region"] == truth.sites.at[site, "region"]]
        rest = rows.drop(index=site).assign(region=0).reset_index(drop=True)
        sums = simulation._Contributions(rest, find_pairs(rest, names), names, truth.effects)
        without = simulation._target(sums.total(1))[0]
        expected = truth.noiseless[truth.sites.at[site, "region"]] - without
        np.testing.assert_allclose(truth.site_effects[site], expected, atol=2e-5)


@pytest.mark.parametrize(("a", "b"), COOPERATIVE)
def test_cooperation_adds_within_its_window_only(truth, motifs, a, b):
    a, b = motifs[a], motifs[b]
    alone = logits(truth, sequence_with((a, 20, "+"))) + logits(truth, sequence_with((b, 100, "-")))
    low, high = simulation.COOPERATIVE_GAP

    def together(gap):
        start = 100 - gap - a.width
        return logits(truth, sequence_with((a, start, "+"), (b, 100, "-")))

    for gap in (low, high):
        assert (together(gap) > 1.2 * alone).all()
    np.testing.assert_allclose(together(high + 1), alone, atol=2e-3)


@pytest.mark.parametrize(("a", "b"), COMPETING)
def test_competition_masks_the_weaker_site_nearby_only(truth, motifs, a, b):
    a, b = motifs[a], motifs[b]
    effect = [logits(truth, sequence_with((m, 100, "+"))) for m in (a, b)]
    reach, mask = simulation.COMPETING_GAP, simulation.MASK
    near = sequence_with((a, 100 - reach - a.width, "+"), (b, 100, "+"))
    far = sequence_with((a, 99 - reach - a.width, "+"), (b, 100, "+"))
    np.testing.assert_allclose(logits(truth, far), effect[0] + effect[1], atol=5e-3)
    # Both are consensus sites, and of two equally strong ones the second is masked.
    np.testing.assert_allclose(logits(truth, near), effect[0] + (1 - mask) * effect[1], atol=5e-3)


def test_pairs_name_interacting_neighbours(truth):
    kinds = {frozenset(c): "cooperative" for c in COOPERATIVE}
    kinds |= {frozenset(c): "competing" for c in COMPETING}
    sites, pairs = truth.sites, truth.pairs
    assert pairs["kind"].value_counts().min() >= 20
    first, second = sites.loc[pairs["first"]], sites.loc[pairs["second"]]
    assert (first["region"].to_numpy() == pairs["region"]).all()
    assert (second["region"].to_numpy() == pairs["region"]).all()
    for kind, a, b in zip(pairs["kind"], first["motif"], second["motif"], strict=True):
        assert kinds[frozenset((a, b))] == kind
    spacing = second["start"].to_numpy() - first["end"].to_numpy()
    assert (spacing == pairs["spacing"]).all()
    low, high = simulation.COOPERATIVE_GAP
    assert pairs.loc[pairs["kind"] == "cooperative", "spacing"].between(low, high).all()
    competing = pairs[pairs["kind"] == "competing"]
    masked = competing["masked"]
    assert ((masked == competing["first"]) | (masked == competing["second"])).all()
    masking = competing["first"] + competing["second"] - masked
    affinity = sites["affinity"].to_numpy()
    assert (affinity[masked] <= affinity[masking]).all()


def test_related_cell_types_have_similar_targets():
    data = simulate(400, 40)
    lineage = pd.Series([CELL_TYPES[task].split("/")[0] for task in data.tasks])
    alike = lineage.to_numpy()[:, None] == lineage.to_numpy()
    correlation = np.corrcoef(data.truth.noiseless.T)
    off = ~np.eye(40, dtype=bool)
    assert correlation[alike & off].mean() > correlation[~alike].mean() + 0.15


def test_repressors_repress_and_activators_activate(truth):
    represses = np.isin(truth.motif_names, REPRESSORS)
    assert represses.sum() == 2
    assert (truth.effects[represses] <= 0).all()
    assert (truth.effects[~represses] >= 0).all()


def test_noise_leaves_targets_near_the_noiseless_ones(data, truth):
    r = [np.corrcoef(*pair)[0, 1] for pair in zip(data.targets.T, truth.noiseless.T, strict=True)]
    assert 0.8 < np.mean(r) < 0.95


def test_accessibility_saturates(truth, motifs):
    ctcf = motifs["CTCF"]
    towers = [sequence_with(*((ctcf, 20 * k, "+") for k in range(n))) for n in range(13)]
    response = np.concatenate([truth.response(tower) for tower in towers]).mean(1)
    steps = np.diff(response)
    assert (steps > 0).all()
    assert steps[-1] < steps.max() / 10
    assert response[-1] < np.log2(simulation.CEILING + 2)


def test_background_varies_in_gc(monkeypatch):
    for name, value in {"GC_MEAN": 0.6, "GC_SPREAD": 0.1, "EMPTY": 1.0}.items():
        monkeypatch.setattr(simulation, name, value)
    sequences = simulate(400, 2).sequences
    gc = np.isin(sequences, (1, 2)).mean(1)
    assert gc.mean() == pytest.approx(0.6, abs=0.02)
    assert gc.std() == pytest.approx(np.hypot(0.1, np.sqrt(0.24 / 271)), rel=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_regions": 10}, "n_regions must be an integer of at least 50; got 10"),
        ({"n_tasks": 0}, "n_tasks must be an integer of at least 1 and at most 40; got 0"),
        ({"n_tasks": 41}, "n_tasks must be an integer of at least 1 and at most 40; got 41"),
        ({"n_tasks": True}, "n_tasks must be an integer"),
        ({"length": 50}, "length must be an integer of at least 61; got 50"),
        ({"length": 251.0}, "length must be an integer"),
        ({"flank": -1}, "flank must be an integer of at least 0; got -1"),
        ({"seed": -1}, "seed must be an integer of at least 0; got -1"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        simulate(**{"n_regions": 100, "n_tasks": 2, **options})
