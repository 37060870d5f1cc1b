"""The figures and tables of the book. Only this package imports matplotlib or seaborn.

Every function draws on the axes that it is given, or on a new figure, and returns them. All of them
are imported from here: `from tism.study.plots import plot_logo`.
"""

from tism.study.plots.anatomy import plot_anatomy
from tism.study.plots.datasets import (
    plot_base_frequencies,
    plot_chromosomes,
    plot_lineage_effects,
    plot_sites,
    plot_task_clusters,
)
from tism.study.plots.distributions import (
    plot_densities,
    plot_density,
    plot_histogram,
    plot_histogram_with_share,
)
from tism.study.plots.logos import plot_conventions, plot_logo, plot_logo_pair_grid, plot_motifs
from tism.study.plots.series import (
    plot_curves,
    plot_depths,
    plot_lines,
    plot_replicates,
    plot_scatter_by,
    plot_secant,
)
from tism.study.plots.speed import (
    plot_accuracy_cost,
    plot_batch_sizes,
    plot_cost_map,
    plot_counted,
    plot_speed_ups,
    plot_times,
)
from tism.study.plots.style import BASE_COLOURS, COLOURS, legend_below, panels, use_book_style
from tism.study.plots.summaries import (
    decimals,
    long_form,
    plot_interactions,
    plot_kinds,
    plot_points_with_intervals,
    plot_ranked,
    plot_verdicts,
    show_table,
    with_intervals,
)
