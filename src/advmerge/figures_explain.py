"""The figures of explanations, drawn from the tables of :mod:`advmerge.associations`.

Like :mod:`advmerge.figures`, whose style and file formats they share: tables in, a figure out, nothing random.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from advmerge import associations, figures
from advmerge.errors import unknown

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURES = ("alignment_transfer", "surgery_dose", "weight_path", "weight_plane")
"""Every figure of explanations, by file stem."""

SHOWN = (
    "gradient_cosine",
    "sign_agreement",
    "target_gradient_norm",
    "cka_features",
    "representation_bias",
    "boundary_ratio",
)
"""The measures that :func:`alignment_transfer` has a panel for, in this order."""


def draw(name: str, tables: Mapping[str, pandas.DataFrame], order: figures.Order, config: Mapping[str, Any]) -> Figure:
    """A figure of :data:`FIGURES`.

    Args:
        name: of the figure.
        tables: of :func:`associations.tables`.
        order: of the study's names.
        config: of the study's ``explanations``: ``attack`` and ``eps`` of the examples, ``path`` and ``plane``.

    Raises:
        StudyError: there is no such figure.
    """
    attack, eps = config["attack"], config["eps"]
    within = "" if eps is None else f", ε = {figures.budget(eps)}"
    examples = f"{order.label(attack)}{within}"
    if name == "alignment_transfer":
        cells, correlation = (
            part[(part["attack"] == attack) & (part["eps"].isna() if eps is None else (part["eps"] - eps).abs() < 1e-9)]
            for part in (tables["explanations_by_cell.csv"], tables["explanations_correlation.csv"])
        )
        return alignment_transfer(cells, correlation, examples, order)
    if name == "surgery_dose":
        return surgery_dose(tables["explanations_dose.csv"], examples, order)
    if name == "weight_path":
        along = config["path"]
        return weight_path(tables["explanations_path.csv"], along["vector"], along["vectors"], examples, order)
    if name == "weight_plane":
        return weight_plane(tables["explanations_plane.csv"], config["plane"]["merged"], examples, order)
    raise unknown("figure", name, FIGURES)


def _number(value: float) -> str:
    """A correlation as a reader writes it: ``.62``, ``−.05``; a dash for NaN.

    >>> _number(0.618), _number(-0.049), _number(1.0), _number(float("nan"))
    ('.62', '−.05', '1.00', '–')
    """
    if value != value:
        return "–"
    return f"{value:.2f}".replace("-", "−").replace("0.", ".", 1)


def alignment_transfer(
    cells: pandas.DataFrame, correlation: pandas.DataFrame, examples: str, order: figures.Order
) -> Figure:
    """Each of :data:`SHOWN` against transfer ASR: a point a (task, surrogate, target), a panel a measure.

    ``cells`` and ``correlation`` are :func:`associations.cells` and :func:`associations.correlations` of one attack and
    budget. Above each panel: Spearman's ρ, and ρ given task, surrogate and the target's accuracy, with its range when
    each task is left out. Points beyond the search for a boundary stand at its right edge, open.
    """
    import numpy as np

    cells = cells[(cells["n"] > 0)]
    measures = [name for name in SHOWN if name in cells and cells[name].notna().any()]
    with figures._style():
        if cells.empty or not measures:
            return figures._sentence("No target is compared with a surrogate.")
        surrogates = figures.Order.among(cells["surrogate"], order.surrogates)
        marks = figures._marks(surrogates)
        across = min(3, len(measures))
        down = -(-len(measures) // across)
        figure = figures._figure(figures.WIDTH, 0.4 + 2.35 * down)
        grid = figure.subplots(down, across, sharey=True, squeeze=False)
        for ax in list(grid.flat)[len(measures) :]:
            ax.set_axis_off()
        for ax, measure in zip(grid.flat, measures, strict=False):
            finite = cells.loc[np.isfinite(cells[measure]), measure]
            edge = 1.08 * finite.max() if len(finite) else 1.0
            for name in surrogates:
                part = cells[(cells["surrogate"] == name) & cells[measure].notna()]
                beyond = np.isinf(part[measure])
                for rows, face in ((part[~beyond], marks[name]["color"]), (part[beyond], "none")):
                    ax.plot(
                        rows[measure].clip(upper=edge), 100 * rows["transfer_asr"], linestyle="none",
                        markersize=3.4, alpha=0.75, markerfacecolor=face, markeredgewidth=0.5 * (face == "none"),
                        **marks[name],
                    )  # fmt: skip
            if measure == "boundary_ratio":
                ax.axvline(1, color="0.5", linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
            ax.set_xlabel(associations.MEASURES[measure])
            own = correlation[correlation["measure"] == measure].set_index("given")
            given = own.loc["task, surrogate, target accuracy"]
            ax.set_title(
                f"ρ = {_number(own.loc['', 'rho'])}; partial {_number(given['rho'])} "
                f"[{_number(given['lowest'])}, {_number(given['highest'])}]"
            )
            ax.spines[["top", "right"]].set_visible(False)
            ax.tick_params(labelleft=True)
        figure.supylabel(f"transfer ASR (%), {examples}", fontsize=7)
        note = "partial: given task, surrogate and the target's accuracy; [ , ]: its range without one task"
        figure.supxlabel(note, fontsize=6.5, color="0.3")
        figures._legend(
            figure, [figures._handle(f"crafted on {order.label(name)}", **marks[name]) for name in surrogates]
        )
    return figure


def _transfer(ax: Axes, rows: pandas.DataFrame, x: str, marks: Mapping[str, Mapping[str, Any]]) -> None:
    """Transfer ASR with its interval against a column, a line a surrogate."""
    for name, mark in marks.items():
        part = rows[(rows["surrogate"] == name) & rows["transfer_asr"].notna()].sort_values(x)
        y = 100 * part["transfer_asr"]
        errors = [(y - 100 * part["low"]).clip(lower=0), (100 * part["high"] - y).clip(lower=0)]
        ax.errorbar(part[x], y, yerr=errors, markersize=3.2, linewidth=0.9, elinewidth=0.7, markeredgewidth=0, **mark)


def _curve(ax: Axes, rows: pandas.DataFrame, x: str, y: str, scale: float = 1) -> None:
    """A column that is the same for every surrogate, once."""
    once = rows.drop_duplicates(x).sort_values(x)
    ax.plot(once[x], scale * once[y], color="0.25", marker=".", markersize=4, linewidth=0.9)


def surgery_dose(rows: pandas.DataFrame, examples: str, order: figures.Order) -> Figure:
    """Representation bias, accuracy and transfer ASR against the share of surgery's correction; a column a model.

    ``rows`` is :func:`associations.pooled` by target and dose.
    """
    with figures._style():
        if rows.empty:
            return figures._sentence("No merged model of this study has surgery.")
        targets = figures.Order.among(rows["target"], order.targets)
        surrogates = figures.Order.among(rows["surrogate"], order.surrogates)
        marks = figures._marks(surrogates)
        across, blocks = min(4, len(targets)), -(-len(targets) // 4)
        figure = figures._figure(max(figures.WIDTH / 2, min(figures.WIDTH, 0.6 + 1.75 * across)), 4.6 * blocks)
        heights = [1, 1, 1.4] * blocks
        axes = figure.subplots(3 * blocks, across, sharex=True, sharey="row", squeeze=False, height_ratios=heights)
        for k in range(3, 3 * blocks):
            axes[k, 0].sharey(axes[k % 3, 0])
        for ax in axes[-3:, len(targets) - across * (blocks - 1) :].flat:
            ax.set_axis_off()
        titles = []
        for k, target in enumerate(targets):
            part = rows[rows["target"] == target]
            block, column = divmod(k, across)
            panels = bias, accuracy, transfer = axes[3 * block : 3 * block + 3, column]
            _curve(bias, part, "dose", "representation_bias")
            _curve(accuracy, part, "dose", "accuracy", 100)
            _transfer(transfer, part, "dose", marks)
            titles.append(bias.set_title(order.label(target)))
            for ax in panels:
                ax.spines[["top", "right"]].set_visible(False)
            transfer.tick_params(labelbottom=True)
        axes[0, 0].set_ylim(0, 1.1 * rows["representation_bias"].max())
        for bias, accuracy, transfer in axes[:, 0].reshape(-1, 3):
            bias.set_ylabel("representation\nbias (L1)")
            accuracy.set_ylabel("clean accuracy (%)")
            transfer.set_ylabel(f"transfer ASR (%)\n{examples}")
        figure.supxlabel("share of surgery's correction", fontsize=7)
        room = (figure.bbox.width - 0.6 * figure.dpi) / across
        if any(title.get_window_extent().width > room for title in titles):
            for title in titles:
                title.set_text(textwrap.fill(title.get_text(), 20))
        handles = [figures._handle(f"crafted on {order.label(name)}", **marks[name]) for name in surrogates]
        figures._legend(figure, handles)
    return figure


def weight_path(rows: pandas.DataFrame, vector: str, vectors: int, examples: str, order: figures.Order) -> Figure:
    """Loss, accuracy, representation bias and transfer ASR against λ in θ_0 + λτ; τ is the sum or mean of task vectors.

    ``rows`` is :func:`associations.pooled` by scale. The dashed line is weight averaging: λ = 1/``vectors`` for their
    sum, 1 for their mean.
    """
    from matplotlib.lines import Line2D

    averaged: dict[str, Any] = {"color": "0.5", "linewidth": 0.8, "linestyle": (0, (4, 2))}
    with figures._style():
        surrogates = figures.Order.among(rows["surrogate"], order.surrogates)
        marks = figures._marks(surrogates)
        figure = figures._figure(figures.WIDTH, 4.4)
        axes = figure.subplots(2, 2, sharex=True)
        _curve(axes[0, 0], rows, "scale", "loss")
        _curve(axes[0, 1], rows, "scale", "accuracy", 100)
        _curve(axes[1, 0], rows, "scale", "representation_bias")
        _transfer(axes[1, 1], rows, "scale", marks)
        average = 1 if vector == "mean" else 1 / vectors
        names = ("loss on clean images (nats)", "clean accuracy (%)", "representation bias (L1)",
                 f"transfer ASR (%), {examples}")  # fmt: skip
        for ax, name in zip(axes.flat, names, strict=True):
            ax.set_ylabel(name)
            ax.axvline(average, zorder=0, **averaged)
            ax.spines[["top", "right"]].set_visible(False)
        figure.supxlabel(f"λ in θ₀ + λ · ({vector} of task vectors)", fontsize=7)
        handles = [figures._handle(f"crafted on {order.label(name)}", **marks[name]) for name in surrogates]
        figures._legend(figure, [*handles, Line2D([], [], label="weight averaging", **averaged)])
    return figure


def weight_plane(rows: pandas.DataFrame, merged: str, examples: str, order: figures.Order) -> Figure:
    """Loss, accuracy and transfer ASR over θ_0 + a (expert − θ_0) + b (merged − θ_0): contours, a panel each.

    ``rows`` is :func:`associations.pooled` by ``toward_expert`` (a) and ``toward_merged`` (b).
    """
    with figures._style():
        surrogates = figures.Order.among(rows["surrogate"], order.surrogates)
        once = rows[rows["surrogate"] == surrogates[0]]
        panels: list[tuple[str, pandas.DataFrame, str, float]] = [
            ("loss on clean images (nats)", once, "loss", 1),
            ("clean accuracy (%)", once, "accuracy", 100),
            *((f"transfer ASR (%), {examples}\ncrafted on {order.label(name)}", rows[rows["surrogate"] == name],
               "transfer_asr", 100) for name in surrogates),
        ]  # fmt: skip
        across, height = (2, 2.9) if len(panels) <= 6 else (3, 2.2)
        down = -(-len(panels) // across)
        figure = figures._figure(figures.WIDTH, 0.3 + height * down)
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for ax in list(grid.flat)[len(panels) :]:
            ax.set_axis_off()
        for ax, (title, part, column, scale) in zip(grid.flat, panels, strict=False):
            _contours(figure, ax, part, column, scale)
            ax.set_title(title)
            _corners(ax, (order.label("pretrained"), "expert", order.label(merged)))
            ax.tick_params(labelbottom=True, labelleft=True)
        figure.supxlabel("a, toward the task's expert", fontsize=7)
        figure.supylabel(f"b, toward {order.label(merged)}", fontsize=7)
    return figure


def _contours(figure: Figure, ax: Axes, rows: pandas.DataFrame, column: str, scale: float) -> None:
    """Filled contours of a column over the plane, the places measured as small dots."""
    import numpy as np

    grid = scale * rows.pivot_table(column, "toward_merged", "toward_expert", dropna=False)
    x, y = np.meshgrid(grid.columns, grid.index)
    values = np.ma.masked_invalid(grid.to_numpy(dtype=float))
    ax.plot(x.ravel(), y.ravel(), linestyle="none", marker=".", markersize=1.2, color="white", alpha=0.7)
    if values.mask.all():
        ax.set_xlabel("no image that surrogate and model get right", fontsize=6)
        return
    drawn = ax.contourf(x, y, values, levels=10, cmap="viridis")
    bar = figure.colorbar(drawn, ax=ax, pad=0.02)
    bar.outline.set_visible(False)


def _corners(ax: Axes, names: Sequence[str]) -> None:
    """The three models at (0, 0), (1, 0) and (0, 1), by mark and name, each name inside the panel."""
    from matplotlib.patheffects import withStroke

    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    for (x, y), name in zip(((0, 0), (1, 0), (0, 1)), names, strict=True):
        ax.plot(x, y, marker="o", markersize=4.5, color="white", markeredgecolor="black", markeredgewidth=0.8,
                clip_on=False, zorder=3)  # fmt: skip
        end, high = (x - left) / (right - left) > 0.5, (y - bottom) / (top - bottom) > 0.5
        ax.annotate(
            name, (x, y), xytext=(-5 if end else 5, -5 if high else 5), textcoords="offset points",
            ha="right" if end else "left", va="top" if high else "bottom", fontsize=6, path_effects=[withStroke(linewidth=1.8, foreground="white")], annotation_clip=True,
        )  # fmt: skip
