"""The report's figures, drawn with matplotlib alone; each function returns a `Figure` and shows or saves nothing.

Figures are made without pyplot, so no backend is chosen for the caller. Imports no model.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from umap import UMAP

from .cells import LabelledCells, check_same_genes
from .metrics.moments import gene_moments
from .metrics.spaces import fit_pca50, log1p_cp10k
from .tasks import OURS

# Okabe & Ito (2008): told apart with every common colour vision. Marker shapes carry on where it ends.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D00", "#4D4D4D")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
ACCENT, MUTED = "#0072B2", "#9AA5B1"
OTHER = "other or none"


def _styles(types: Sequence[str]) -> dict[str, dict]:
    return {
        name: {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[(i // len(PALETTE)) % len(MARKERS)]}
        for i, name in enumerate(types)
    }


def _by_size(labels: np.ndarray) -> list[str]:
    types, sizes = np.unique(labels, return_counts=True)
    return [str(types[i]) for i in np.argsort(-sizes, kind="stable")]


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def confusion_matrix(labels: np.ndarray, predicted: Sequence[str | None]) -> Figure:
    """
    True types (rows, commonest first) against predicted types; colour is the share of the row, numbers are cells.

    Args:
        labels (`(n,)`):
            True types.
        predicted (`n` strings or `None`):
            Predicted types. What is no true type, `None` included, is gathered in a last column.
    """
    types = _by_size(labels)
    known = set(types)
    columns = types + ([OTHER] if any(label not in known for label in predicted) else [])
    counts = np.zeros((len(types), len(columns)), dtype=int)
    for label, guess in zip(labels, predicted, strict=True):
        counts[types.index(label), columns.index(guess if guess in known else OTHER)] += 1
    share = counts / counts.sum(axis=1, keepdims=True)

    longest = max(len(name) for name in columns)
    size = (2.0 + 0.085 * longest + 0.46 * len(columns), 0.6 + 0.062 * longest + 0.46 * len(types))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    for row, column in np.argwhere(counts > 0):
        color = "white" if share[row, column] > 0.55 else "#1F2933"
        axes.text(column, row, counts[row, column], ha="center", va="center", color=color, fontsize=9)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(types)), types)
    axes.set(xlabel="predicted type", ylabel="true type")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the true type's cells")
    return figure


def metric_bars(rows: Sequence[Mapping], metric: str, title: str) -> Figure:
    """
    One bar per row with its 95 % interval and its value, ours in colour.

    Args:
        rows (`list[dict]`):
            Rows of a task; `{metric}_low` and `{metric}_high` are drawn where present, rows without a value left out.
        metric (`str`):
            The key to draw, a share between 0 and 1.
        title (`str`):
            Label of the axis.
    """
    rows = [row for row in rows if row.get(metric) is not None]
    figure = Figure(figsize=(7, 0.7 + 0.45 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for position, row in enumerate(rows):
        value = row[metric]
        low, high = (value if row.get(end) is None else row[end] for end in (f"{metric}_low", f"{metric}_high"))
        axes.barh(position, value, height=0.62, color=ACCENT if row["row"] == OURS else MUTED)
        axes.plot([low, high], [position, position], color="#1F2933", linewidth=1.5)
        axes.text(max(value, high) + 0.015, position, f"{value:.3f}", va="center", fontsize=10)
    axes.set_yticks(range(len(rows)), [row["row"] for row in rows])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.12), xlabel=title, xticks=np.arange(0, 1.01, 0.2))
    axes.tick_params(axis="y", length=0)
    _bare(axes)
    return figure


def loss_curves(histories: Mapping[str, Sequence[Mapping]]) -> Figure:
    """
    One small panel per named loss, its stages one after the other along the steps.

    Args:
        histories (`dict[str, list[dict]]`):
            For each stage, in order of training, the `log_history` of its Trainer. Drawn are the finite numbers under
            `loss` and `{name}_loss`.
    """
    curves, edges = _collect_curves(histories)
    if not curves:
        raise ValueError("histories holds no loss: pass each stage's Trainer.state.log_history, logged at least once")
    num_columns = min(3, len(curves))
    num_rows = -(-len(curves) // num_columns)
    figure = Figure(figsize=(3.4 * num_columns, 0.4 + 2.3 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, sharex=True, squeeze=False).ravel()
    colors = {stage: PALETTE[number % len(PALETTE)] for number, stage in enumerate(histories)}
    for axes, (name, lines) in zip(panels, curves.items(), strict=False):
        for edge in edges[1:-1]:
            axes.axvline(edge, color="#D5DBE1", linewidth=0.8)
        for stage, points in lines.items():
            marker = "o" if len(points) == 1 else None
            axes.plot(*zip(*points, strict=True), color=colors[stage], linewidth=1.6, marker=marker)
        axes.set_title(name.replace("_", " "), fontsize=10, loc="left")
        axes.set_xlim(0, max(edges[-1], 1))
        _bare(axes)
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    keys = [Line2D([], [], color=color, label=stage) for stage, color in colors.items()]
    figure.legend(handles=keys, loc="outside upper left", ncols=3, frameon=False)
    figure.supxlabel("optimiser step", fontsize=10)
    return figure


def _collect_curves(histories: Mapping[str, Sequence[Mapping]]) -> tuple[dict[str, dict], list[int]]:
    """Points (step, value) by loss, then by stage; and the steps where stages end."""
    curves: dict[str, dict] = {}
    edges = [0]
    for stage, history in histories.items():
        for entry in history:
            for name, value in entry.items():
                # `train_loss` is the Trainer's closing mean, no point of a curve.
                if (name == "loss" or name.endswith("_loss")) and name != "train_loss" and np.isfinite(value):
                    line = curves.setdefault(name, {}).setdefault(stage, [])
                    line.append((edges[-1] + entry["step"], value))
        edges.append(edges[-1] + max((entry.get("step", 0) for entry in history), default=0))
    return curves, edges


def umap_real_and_generated(real: LabelledCells, generated: LabelledCells, seed: int = 0) -> Figure:
    """
    Real and generated cells in one UMAP of 50 principal components: the same axes, two panels, the other set in grey.

    The components are fitted on the real cells, the UMAP on both sets together. Distances in a UMAP mean little; what
    the picture can show is whether generated cells lie among real cells of their type, and fill their clouds.

    Args:
        real ([`LabelledCells`]):
            Real cells, usually the held-out ones.
        generated ([`LabelledCells`]):
            Generated cells over the same genes.
        seed (`int`, *optional*, defaults to 0):
            Fixes the picture.
    """
    check_same_genes(real=real, generated=generated)
    real_log1p = log1p_cp10k(real.counts)
    pca = fit_pca50(real_log1p, seed)
    points = np.vstack([pca.transform(real_log1p), pca.transform(log1p_cp10k(generated.counts))])
    # One thread, as UMAP repeats exactly only then.
    umap = UMAP(n_neighbors=min(30, len(points) - 1), min_dist=0.4, random_state=seed, n_jobs=1)
    both = umap.fit_transform(points)
    halves = both[: len(real)], both[len(real) :]
    styles = _styles(_by_size(real.labels))

    figure = Figure(figsize=(10.5, 4.8), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for number, (axes, cells, name) in enumerate(zip(panels, (real, generated), ("real", "generated"), strict=True)):
        axes.scatter(*halves[1 - number].T, s=7, color="#E4E7EB", linewidths=0)
        for label, style in styles.items():
            chosen = cells.labels == label
            axes.scatter(*halves[number][chosen].T, s=16, linewidths=0, alpha=0.9, **style)
        axes.set_title(f"{name} ({len(cells)} cells)", loc="left", fontsize=11)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#D5DBE1")
        _number_types(axes, halves[number], cells.labels, styles)
    keys = [
        Line2D([], [], linestyle="", markersize=6, label=f"{number}  {label}", **style)
        for number, (label, style) in enumerate(styles.items(), start=1)
    ]
    figure.legend(handles=keys, loc="outside right center", frameon=False, fontsize=9)
    figure.supxlabel("UMAP of 50 principal components, fitted on both sets; grey: the other set", fontsize=9)
    return figure


def _number_types(axes: Axes, points: np.ndarray, labels: np.ndarray, styles: Iterable[str]) -> None:
    """Writes each type's number at the middle of its cells, so that colour is not the only key."""
    for number, label in enumerate(styles, start=1):
        chosen = points[labels == label]
        if len(chosen):
            halo = [withStroke(linewidth=3, foreground="white")]
            middle = np.median(chosen, axis=0)
            axes.text(*middle, str(number), color="#1F2933", fontsize=11, fontweight="bold", path_effects=halo)


def top_markers(cells: LabelledCells, per_type: int = 3) -> dict[str, list[str]]:
    """
    For each type the genes whose mean (`log1p_raw`) most exceeds that of the type next highest in it.

    Against the next highest type, not against the rest: a gene shared by two related types marks neither.

    Args:
        cells ([`LabelledCells`]):
            Real training cells.
        per_type (`int`, *optional*, defaults to 3):
            Genes per type. A gene is given to one type only.
    """
    types = _by_size(cells.labels)
    log1p = log1p_cp10k(cells.counts)
    means = np.vstack([log1p[cells.labels == label].mean(axis=0).A1 for label in types])
    markers = {}
    for number, label in enumerate(types):
        others = np.delete(means, number, axis=0)
        excess = means[number] - (others.max(axis=0) if len(others) else 0)
        best = np.argsort(-excess, kind="stable")[:per_type]
        markers[label] = [cells.gene_names[gene] for gene in best if excess[gene] > 0]
    return markers


def marker_dots(real: LabelledCells, generated: LabelledCells, markers: Mapping[str, Sequence[str]]) -> Figure:
    """
    Marker genes by type, real above generated: the size of a dot is the share of cells that express the gene, its
    colour the mean expression (`log1p_raw`, one scale for both panels).

    Args:
        real ([`LabelledCells`]), generated ([`LabelledCells`]):
            Cells over the same genes.
        markers (`dict[str, list[str]]`):
            Genes for each type, as of [`top_markers`] on training cells.
    """
    check_same_genes(real=real, generated=generated)
    types = [label for label in markers if (real.labels == label).any()]
    genes = list(dict.fromkeys(gene for label in types for gene in markers[label]))
    columns = [real.gene_names.index(gene) for gene in genes]
    tables = [_expression_by_type(cells, types, columns) for cells in (real, generated)]
    highest = max(float(mean.max(initial=0)) for mean, _ in tables) or 1.0

    figure = Figure(figsize=(3.4 + 0.27 * len(genes), 1.8 + 0.5 * len(types)), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    grid = np.meshgrid(range(len(genes)), range(len(types)))
    for axes, (mean, share), name in zip(panels, tables, ("real held-out cells", "generated cells"), strict=True):
        dots = axes.scatter(*grid, s=95 * share, c=mean, cmap="viridis_r", vmin=0, vmax=highest, linewidths=0)
        axes.set_title(name, loc="left", fontsize=11)
        axes.set_yticks(range(len(types)), types, fontsize=8.5)
        axes.set_xticks(range(len(genes)), genes, rotation=90, fontsize=8.5)
        axes.set(xlim=(-0.7, len(genes) - 0.3), ylim=(len(types) - 0.4, -0.6))
        axes.grid(color="#EEF1F4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    figure.colorbar(dots, ax=panels, shrink=0.4, pad=0.01, label="mean expression")
    keys = [panels[0].scatter([], [], s=95 * share, color="#52606D", label=f"{share:.0%}") for share in (0.25, 0.5, 1)]
    title = "cells that express the gene"
    figure.legend(handles=keys, loc="outside lower center", ncols=3, frameon=False, fontsize=8, title=title)
    return figure


def _expression_by_type(
    cells: LabelledCells, types: Sequence[str], columns: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean `log1p_raw` and share of expressing cells, `(types, genes)` each; zero where a type has no cell."""
    log1p = log1p_cp10k(cells.counts)[:, columns].toarray()
    mean, share = np.zeros((2, len(types), len(columns)))
    for number, label in enumerate(types):
        chosen = log1p[cells.labels == label]
        if len(chosen):
            mean[number], share[number] = chosen.mean(axis=0), (chosen > 0).mean(axis=0)
    return mean, share


def gene_moment_scatter(real: LabelledCells, generated: LabelledCells) -> Figure:
    """
    Each gene's mean and variance (`log1p_raw`), real against generated, with the line of equality.

    Arguments as in [`marker_dots`]. The genes that lie farthest from the line are named.
    """
    check_same_genes(real=real, generated=generated)
    pairs = zip(gene_moments(log1p_cp10k(real.counts)), gene_moments(log1p_cp10k(generated.counts)), strict=True)
    figure = Figure(figsize=(9, 4.3), layout="constrained")
    for axes, (x, y), name in zip(figure.subplots(1, 2), pairs, ("mean", "variance"), strict=True):
        limit = max(float(x.max()), float(y.max())) * 1.05 or 1.0
        axes.plot([0, limit], [0, limit], color="#9AA5B1", linewidth=1, zorder=1)
        axes.scatter(x, y, s=9, color=ACCENT, alpha=0.55, linewidths=0)
        for gene in np.argsort(-np.abs(x - y))[:6]:
            below, at_edge = y[gene] < x[gene], x[gene] < 0.2 * limit
            axes.annotate(
                real.gene_names[gene],
                (x[gene], y[gene]),
                xytext=(4 if below or at_edge else -4, -4 if below else 4),
                textcoords="offset points",
                ha="left" if below or at_edge else "right",
                va="top" if below else "bottom",
                fontsize=8,
            )
        axes.set(xlim=(0, limit), ylim=(0, limit), aspect="equal")
        axes.set(xlabel=f"{name} in real held-out cells", ylabel=f"{name} in generated cells")
        axes.set_title(f"{name} of each gene", loc="left", fontsize=11)
        _bare(axes)
    return figure
