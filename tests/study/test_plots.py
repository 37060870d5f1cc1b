"""Figures show what they are given; palettes survive colour blindness and print."""

from __future__ import annotations

from itertools import pairwise

import matplotlib as mpl

mpl.use("agg")

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from tism.study import plots as plotting

# Machado, Oliveira and Fernandes 2009, IEEE TVCG 15:1291: severity 1, linear RGB.
COLOUR_BLINDNESS = {
    "normal": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0519]],
    "deuteranopia": [
        [0.3673, 0.8606, -0.2280],
        [0.2801, 0.6726, 0.0473],
        [-0.0118, 0.0429, 0.9689],
    ],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


@pytest.fixture(autouse=True)
def style():
    plotting.use_book_style()
    yield
    plt.close("all")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def drawn(figure):
    """Draw without warnings (they are errors here) and return the size in inches."""
    figure.canvas.draw()
    return figure.get_size_inches()


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return linear, float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def lightness(colour):
    return 116 * luminance(colour)[1] ** (1 / 3) - 16


def test_bases_differ_in_lightness_and_stand_out_from_white():
    values = sorted(lightness(c) for c in plotting.BASE_COLOURS.values())
    assert min(np.diff(values)) > 7
    assert max(values) < 75


@pytest.mark.parametrize("vision", COLOUR_BLINDNESS)
def test_bases_and_methods_stay_apart_for_colour_blind_readers(vision):
    for palette, least in ((plotting.BASE_COLOURS, 0.2), (plotting.COLOURS, 0.1)):
        seen = [np.dot(COLOUR_BLINDNESS[vision], luminance(c)[0]) for c in palette.values()]
        seen = np.clip(seen, 0, 1) ** (1 / 2.4)
        distance = np.linalg.norm(seen[:, None] - seen[None], axis=2)
        assert distance[np.triu_indices(len(seen), 1)].min() > least


def test_logo_letters_have_the_heights_of_the_scores():
    scores = torch.zeros(4, 5)
    scores[2, 1], scores[1, 1], scores[0, 3] = 2.0, 1.0, -1.0  # the larger one lies outside
    ax = plotting.plot_logo(scores, start=10, ylabel="ISM")
    drawn(ax.figure)
    boxes = [p.get_path().get_extents(p.get_transform()) for p in ax.patches]
    data = [ax.transData.inverted().transform(b.get_points()) for b in boxes if b.height > 1]
    extents = sorted(tuple(np.round(d[:, 1], 3)) for d in data)
    assert extents == [(-1.0, 0.0), (0.0, 1.0), (1.0, 3.0)]
    assert ax.get_xlim() == (9.5, 14.5)
    assert ax.get_xlabel() == "position in the region (bp)"


def test_a_logo_without_letters_is_drawn_empty():
    ax = plotting.plot_logo(np.zeros((4, 8)))
    drawn(ax.figure)
    assert ax.get_ylim() == (-1, 1)


def test_pair_grid_frames_both_maps_and_explains_the_frames(rng):
    maps = torch.tensor(rng.normal(size=(2, 4, 30)))
    frames = [([(102, 108, True)], [(103, 108, True)]), ([], [(110, 115, False), (125, 140, True)])]
    figure = plotting.plot_logo_pair_grid(maps, 2 * maps, ["a", "b"], start=100, frames=frames)
    assert drawn(figure)[0] <= 8
    rectangles = [[p for p in ax.patches if isinstance(p, plt.Rectangle)] for ax in figure.axes]
    assert [len(r) for r in rectangles] == [1, 1, 0, 1]  # the last one is cut by the edge
    assert rectangles[1][0].get_x() == 102.5
    assert rectangles[1][0].get_width() == 5
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["in both", "in one only"]
    assert [ax.get_ylabel() for ax in figure.axes] == ["ISM", "TISM"] * 2


def test_conventions_have_one_row_and_one_scale_each(rng):
    maps = {"ISM": rng.normal(size=(4, 12)), "centred": 10 * rng.normal(size=(4, 12))}
    figure = plotting.plot_conventions(maps, start=5)
    drawn(figure)
    assert [ax.get_title(loc="left") for ax in figure.axes] == list(maps)
    assert figure.axes[1].get_ylim()[1] > 2 * figure.axes[0].get_ylim()[1]


def test_histogram_counts_what_exists_and_marks_mean_median_and_paper():
    r = np.array([[0.5, 0.7], [0.9, np.nan]])
    ax = plotting.plot_histogram_with_share(r, reference={"paper": 0.7}, bins=20)
    drawn(ax.figure)
    assert sum(p.get_height() for p in ax.containers[0]) == 3
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert labels == ["n = 3 profiles, 1 constant", "mean 0.70", "median 0.70", "paper 0.70"]
    share = ax.figure.axes[1].lines[0]
    np.testing.assert_allclose(share.get_xdata(), [0.5, 0.7, 0.9])
    np.testing.assert_allclose(share.get_ydata(), [1, 2 / 3, 1 / 3])


@pytest.mark.parametrize("n", [5, 3000])
def test_density_shows_every_finite_point(rng, n):
    x = rng.normal(size=n)
    y = np.where(np.arange(n) == 0, np.nan, x)
    ax = plotting.plot_density(x, y, xlabel="x", ylabel="y", diagonal=True, label="regions")
    drawn(ax.figure)
    shown = ax.collections[0].get_array().sum() if n > 100 else len(ax.lines[-1].get_xdata())
    assert shown == n - 1
    assert ax.get_title(loc="left") == f"n = {n - 1:,} regions"
    assert ax.get_xlim() == ax.get_ylim()


def test_curves_are_named_at_their_ends_and_marked():
    table = pd.DataFrame({"epoch": [1, 2, 3], "a": [0.0, 0.1, 0.2], "b": [0.0, 0.1, np.nan]})
    ax = plotting.plot_curves(
        table, "epoch", {"a": "by region", "b": "by task"}, ylabel="r",
        marks={"best": 2, "no": [], "round": [1, 3]},
    )  # fmt: skip
    drawn(ax.figure)
    assert {t.get_text() for t in ax.texts} == {"by region", "best", "round 1", "2"}
    assert ax.get_ylabel() == "r"


def test_names_at_the_ends_do_not_overlap():
    table = pd.DataFrame({"x": [0, 1], **{name: [0.0, 1.0] for name in "abc"}})
    ax = plotting.plot_curves(table, "x", list("abc"), ylabel="y")
    drawn(ax.figure)
    boxes = sorted((t.get_window_extent() for t in ax.texts), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(boxes))


def test_secant_runs_from_gradient_to_ism():
    steps = torch.linspace(0, 1, 5)
    values = torch.stack([steps, 1 - steps], 1)
    ax = plotting.plot_secant(steps, values, labels=["A1C", "G2T"], ylabel="change / step")
    drawn(ax.figure)
    ends = [
        (float(np.ravel(line.get_xdata())[0]), float(np.ravel(line.get_ydata())[0]))
        for line in ax.lines
        if len(np.ravel(line.get_xdata())) == 1
    ]
    assert ends == [(0, 0), (0, 1), (1, 1), (1, 0)]


def test_points_keep_the_order_of_the_rows_and_show_the_paper():
    table = pd.DataFrame(
        {
            "m": ["ISM", "TISM"],
            "v": [0.9, 0.8],
            "lo": [0.8, 0.7],
            "hi": [1, 0.9],
            "p": [0.7, np.nan],
        }
    )
    columns = ("v", "lo", "hi", "m")
    ax = plotting.plot_points_with_intervals(table, *columns, reference="p", xlabel="r")
    drawn(ax.figure)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["ISM", "TISM"]
    assert ax.get_yticks()[0] > ax.get_yticks()[1]
    assert ax.lines[0].get_color() == plotting.COLOURS["ISM"]
    assert ax.figure.legends[0].get_texts()[0].get_text() == "paper"


def test_points_of_a_group_stand_below_its_name():
    table = pd.DataFrame({"m": list("abc"), "v": 0.6, "lo": 0.5, "hi": 0.7, "of": ["x", "x", "y"]})
    ax = plotting.plot_points_with_intervals(
        table, "v", "lo", "hi", "m", group="of", line=0.5, xlabel="AUROC"
    )
    drawn(ax.figure)
    written = [*ax.get_yticklabels(), *ax.texts]
    assert [t.get_text() for t in sorted(written, key=lambda t: -t.get_position()[1])] == list(
        "xabyc"
    )
    assert [t.get_text() for t in ax.texts] == ["x", "y"]
    assert ax.lines[-1].get_xdata() == [0.5, 0.5]


def test_histogram_on_a_grid_has_a_bar_a_value():
    ax = plotting.plot_histogram([0, 1, 1, 3], xlabel="tasks", label="regions", step=1)
    drawn(ax.figure)
    assert [p.get_height() for p in ax.patches] == [1, 2, 0, 1]
    assert "n = 4, median 1" in ax.get_title(loc="left")


def test_chromosomes_stack_their_splits():
    regions = pd.DataFrame({"chrom": ["chr2", "chr2", "chr1"], "split": ["train", "train", "test"]})
    ax = plotting.plot_chromosomes(regions)
    drawn(ax.figure)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["chr2", "chr1"]
    assert [t.get_text() for t in ax.figure.legends[0].get_texts()] == ["train, 2", "test, 1"]


def test_base_frequencies_are_centred_and_in_percent():
    ax = plotting.plot_base_frequencies(np.full((4, 5), 0.25))
    drawn(ax.figure)
    assert len(ax.lines) == 4
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [-2, -1, 0, 1, 2])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), 25)


@pytest.mark.parametrize("n", [6, 60])
def test_task_clusters_are_framed_and_all_tasks_named(n):
    names = [f"t{k}" for k in range(n)]
    correlation = pd.DataFrame(np.eye(n), names, names)
    clusters = pd.DataFrame({"size": [n - 1, 1]}, index=["A", "B"])
    ax = plotting.plot_task_clusters(correlation, clusters)
    drawn(ax.figure)
    assert [(p.get_x(), p.get_width()) for p in ax.patches] == [(-0.5, n - 1), (n - 1.5, 1)]
    assert [t.get_text() for t in ax.get_xticklabels()] == (["A", "B"] if n == 6 else ["A"])
    assert [t.get_text() for t in ax.get_yticklabels()] == names


def test_ranked_puts_the_best_on_top_and_counts_the_missing():
    table = pd.DataFrame({"t": ["a", "b", "c"], "r": [0.1, 0.3, np.nan], "g": ["x", "y", "x"]})
    ax = plotting.plot_ranked(table, "r", "t", "g", xlabel="Pearson r")
    drawn(ax.figure)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_xlabel() == "Pearson r (n = 2, 1 more without a value)"


def test_lineage_tree_has_a_leaf_a_task_and_its_branches_named():
    lineages = {"B.Sp": "lymphoid/B", "T.Sp": "lymphoid/T", "HSC": "stem"}
    effects = pd.DataFrame(np.arange(6.0).reshape(3, 2), list(lineages), ["Spi1", "CTCF"])
    figure = plotting.plot_lineage_effects(lineages, effects)
    drawn(figure)
    tree, heat = figure.axes[:2]
    assert {t.get_text() for t in tree.texts} == {"lymphoid", "B", "T", "stem"}
    assert [t.get_text() for t in heat.get_yticklabels()] == list(lineages)
    assert heat.images[0].get_clim() == (-5, 5)


def test_sites_show_strand_pairs_and_effects():
    sites = pd.DataFrame(
        {"motif": ["Spi1", "IRF8"], "start": [5, 30], "end": [15, 42], "strand": ["+", "-"],
         "planted": [True, False]}
    )  # fmt: skip
    pairs = pd.DataFrame({"first": [0], "second": [1], "kind": ["cooperative"]})
    effects = pd.DataFrame(np.zeros((2, 3)), columns=list("abc"))
    figure = plotting.plot_sites(sites, pairs, effects, length=60)
    drawn(figure)
    track = figure.axes[0]
    arrows = [(a.xyann[0], a.xy[0]) for a in track.texts]
    assert arrows == [(5, 15), (42, 30)]
    pair = next(line for line in track.lines if line.get_label() == "cooperative")
    assert list(pair.get_xdata()) == [10, 36]


def test_motifs_share_the_width_of_a_letter(rng):
    figure = plotting.plot_motifs({"short": np.ones((4, 3)) / 4, "long": np.ones((4, 9)) / 4})
    drawn(figure)
    assert {ax.get_xlim() for ax in figure.axes} == {(-0.5, 8.5)}


def test_no_motif_at_all_is_said():
    figure = plotting.plot_motifs({})
    drawn(figure)
    assert [text.get_text() for text in figure.axes[0].texts] == ["no motif found"]


def test_panels_delete_what_is_not_used():
    axes = plotting.panels(3)
    assert len(axes) == len(axes[0].figure.axes) == 3


def test_tables_are_the_same_html_at_every_run():
    table = pd.DataFrame({"name": ["a", "b"], "n": [1234, 5], "share": [0.5, np.nan]})
    html = plotting.show_table(table, {"share": "{:.0%}"}).data
    assert html == plotting.show_table(table.copy(), {"share": "{:.0%}"}).data
    assert "1,234" in html
    assert "50%" in html
    assert "nan" not in html
    evil = "<script>alert(1)</script>"  # the name of a task or a motif
    assert "<script" not in plotting.show_table(pd.DataFrame({evil: [1.0], "task": [evil]})).data


def test_zero_has_no_sign():
    table = pd.DataFrame({"low": [-0.004], "high": [-1234.5], "r": [-0.004]})
    html = plotting.show_table(plotting.with_intervals(table, {"interval": ("low", "high")})).data
    assert "-0.00" not in html
    assert "0.00 to -1,234<" in html  # numbers from 100 on have no decimals


def test_style_is_opaque_white_legible_and_without_a_date(tmp_path):
    assert plt.rcParams["savefig.facecolor"] == "white"
    assert plt.rcParams["font.size"] >= 9
    figures = []
    for name in ("one", "two"):
        ax = plotting.plot_histogram([1, 2, 3], xlabel="x", label="y")
        ax.figure.savefig(tmp_path / f"{name}.png", metadata={"Software": None})
        figures.append((tmp_path / f"{name}.png").read_bytes())
    assert figures[0] == figures[1]


NETWORKS = pd.DataFrame(
    {
        "epoch": [0, 0, 7, 7, 0, 7],
        "kind": ["baseline"] * 4 + ["other"] * 2,
        "r": [0.5, 0.6, 0.8, 0.9, 0.4, 0.7],
    }
)


def test_replicates_have_a_dot_a_network_and_a_line_through_the_means():
    ax = plotting.plot_replicates(
        NETWORKS, "epoch", "r", "kind", xlabel="epoch", ylabel="r", scale="symlog",
        paper={7: 0.85}, marks={"warm-up": 7},
    )  # fmt: skip

    dots = [line for line in ax.lines if line.get_marker() == "."]
    assert [line.get_ydata().tolist() for line in dots] == [[0.5, 0.6, 0.8, 0.9], [0.4, 0.7]]
    means = [bars.lines[0].get_ydata() for bars in ax.containers]
    assert means[0].tolist() == pytest.approx([0.55, 0.85])
    caps = [cap.get_ydata() for cap in ax.containers[0].lines[1]]
    assert np.array(caps)[:, 1].tolist() == pytest.approx([0.85 - 12.706 * 0.05, 1.0], rel=1e-3)
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["paper", "baseline", "other"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "7"]


def test_kinds_show_every_network_below_its_mean():
    summary = pd.DataFrame(
        {"kind": ["other", "baseline"], "value": [0.55, 0.7], "low": 0.4, "high": 0.9}
    ).assign(paper=[np.nan, 0.7])

    ax = plotting.plot_kinds(NETWORKS, summary, "r", xlabel="r")

    (networks,) = [line for line in ax.lines if line.get_marker() == "."]
    np.testing.assert_allclose(networks.get_xdata(), NETWORKS["r"])
    np.testing.assert_allclose(networks.get_ydata(), [-0.22] * 4 + [0.78] * 2)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["other", "baseline"]


def test_scatter_has_a_series_a_value_of_the_third_column():
    (ax,) = plotting.panels(1)
    plotting.plot_scatter_by(NETWORKS, "epoch", "r", "kind", xlabel="epoch", ylabel="r", ax=ax)

    assert ax.get_legend_handles_labels()[1] == ["baseline", "other"]
    assert len({(line.get_color(), line.get_marker()) for line in ax.lines}) == 2


def test_verdicts_are_stacked_with_their_numbers():
    counts = pd.DataFrame({"dataset": ["a", "b"], "holds": [300, 0], "does not hold": [1, 200]})
    counts = counts.assign(undecided=[0, 100], pending=[100, 0])

    ax = plotting.plot_verdicts(counts)

    # the bar of 1 is too narrow for its number
    assert [text.get_text() for text in ax.texts] == ["300", "200", "100", "100"]
    assert ax.get_xlim() == (0, 401)


def test_long_form_has_a_row_a_value():
    wide = pd.DataFrame({"fraction": [0.1, 1.0], "test_r": [0.2, 0.3], "train_r": [0.4, 0.5]})

    long = plotting.long_form(wide, {"test_r": "test", "train_r": "train"})

    assert long["measure"].tolist() == ["test", "test", "train", "train"]
    assert long["value"].tolist() == [0.2, 0.3, 0.4, 0.5]
    assert long["fraction"].tolist() == [0.1, 1.0, 0.1, 1.0]


def test_curves_of_cost_and_a_map_of_interactions():
    costs = pd.DataFrame({"estimator": ["a", "a", "b"], "cost": [20.0, 10, 5]})
    costs = costs.assign(mean_r=0.5, low=0.4, high=0.7, r_not_exact=0.2)
    ax, other = plotting.panels(2)
    plotting.plot_accuracy_cost(costs, title="x", ax=ax)
    assert [line.get_label() for line in ax.lines] == ["a", "b"]
    assert ax.lines[0].get_xdata().tolist() == [20, 10]  # in the order of m
    assert len(ax.collections) == 2
    plotting.plot_accuracy_cost(costs, "r_not_exact", title="x", ax=other)
    assert other.lines[0].get_ydata().tolist() == [0.2, 0.2]
    assert not other.collections

    _, other = plotting.panels(2)

    plotting.plot_interactions(np.diag([1.0, -2.0]), title="y", ax=other)
    assert other.images[0].get_clim() == (-2, 2)


def test_depths_show_r_behind_each_part_and_shade_what_it_adds():
    rows = [
        ("y, flat", "input", 0.4),
        ("y, flat", "conv.maximum", 0.7),
        ("y, flat", "head", 1.0),
        ("y, deep", "input", 0.5),
        ("y, deep", "conv.maximum", 0.6),
        ("y, deep", "blocks.0.add", 0.7),
        ("y, deep", "blocks.0.pool", 0.8),
        ("y, deep", "head", 1.0),
        ("z, deep", "input", 0.9),
        ("z, deep", "head", 1.0),
    ]
    depths = pd.DataFrame(rows, columns=["network", "layer", "mean_r"]).assign(n_networks=3)
    dataset = {"y, deep": "y", "y, flat": "y", "z, deep": "z"}

    ax, other = plotting.plot_depths(depths, dataset)

    drawn(ax.figure)
    parts = ["input", "strand maximum", "block 1", "dense layers"]
    assert [label.get_text() for label in ax.get_xticklabels()] == parts
    assert [label.get_text() for label in ax.get_yticklabels()] == ["flat (3)", "deep (3)"]
    assert [label.get_text() for label in other.get_yticklabels()] == ["deep (3)"]
    written = [text.get_text() for text in ax.texts]
    assert written == ["0.40", "0.70", "1.00", "0.50", "0.60", "0.80", "1.00"]
    shades = ax.collections[0].get_array().reshape(2, 4)
    np.testing.assert_allclose(shades[1], [0, 0.1, 0.2, 0.2])
    np.testing.assert_allclose(shades[0].filled(-1), [0, 0.3, -1, 0.3])
