"""The heatmaps of a study: transfer ASR by task, attack and budget, a panel a target.

Like :mod:`advmerge.figures`, whose style and file formats they share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from advmerge import figures

if TYPE_CHECKING:
    import numpy
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW = 20
"""A rate from fewer images than this is marked with a star in the heatmaps."""

SCALE = 0.9
"""Height in inches of the colours' scale above the panels."""

CELL, NARROW = 0.2, 0.142
"""Width of a cell in inches, and the least: as wide as the digits of 100 % in 5 pt, with a star above, not beside."""


def heatmap(cells: pandas.DataFrame, pooled: pandas.DataFrame, surrogate: str, order: figures.Order) -> Figure:
    """Transfer ASR of one surrogate's examples in percent: a panel a target, task × (budget, attack).

    ``cells`` and ``pooled`` are :func:`statistics.rates` by task, surrogate, attack, eps, target, and by
    the same without task: the last row of a panel. Cells without images are grey, those with fewer than
    :data:`FEW` starred.
    """
    import matplotlib as mpl
    import numpy as np
    import seaborn  # noqa: F401 - registers the colour map

    cells = cells[(cells["surrogate"] == surrogate) & (cells["target"] != surrogate)]
    pooled = pooled[(pooled["surrogate"] == surrogate) & (pooled["target"] != surrogate)]
    with figures._style():
        if cells.empty:
            return figures._sentence(f"This study crafts no examples on the surrogate '{order.label(surrogate)}'.")
        tasks = figures.Order.among(cells["task"], order.tasks)
        targets = figures.Order.among(cells["target"], order.targets)
        groups = _column_groups(cells, order)
        panel = _panel(len(tasks), sum(len(attacks) for _, _, attacks in groups), map(order.label, targets))
        narrow = panel.narrow
        across, down = _grid(len(targets), panel)
        figure = figures._figure(max(figures.WIDTH, panel.width), down * panel.height + SCALE)
        figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, hspace=0.05, wspace=0.04)
        axes = figure.subplots(down, across, squeeze=False)
        colours = mpl.colormaps["rocket_r"].with_extremes(bad="0.85")
        everywhere = pooled.assign(task="")
        for k, ax in enumerate(axes.flat):
            if k >= len(targets):
                ax.set_axis_off()
                continue
            rows = [part[part["target"] == targets[k]] for part in (cells, everywhere)]
            ticks, names, left = [], [], 0.0
            for group, (title, eps, attacks) in enumerate(groups):
                for part, row_names, top in ((rows[0], tasks, 0.0), (rows[1], [""], len(tasks) + 0.25)):
                    chosen = part[figures._at(part["eps"], eps)].set_index(["task", "attack"])
                    grid = chosen.reindex([(task, attack) for task in row_names for attack in attacks])
                    shape = (len(row_names), len(attacks))
                    rate = grid["transfer_asr"].to_numpy().reshape(shape)
                    n = grid["n"].fillna(0).to_numpy().reshape(shape)
                    _block(ax, rate, n, left, top, colours, narrow)
                above = 0.2 + 0.7 * (narrow and group % 2)  # on two lines in turn: headings are wider than narrow cells
                ax.text(left + len(attacks) / 2, -above, title, ha="center", va="bottom", fontsize=6)
                ticks += [left + j + 0.5 for j in range(len(attacks))]
                names += [order.label(attack) for attack in attacks]
                left += len(attacks) + 0.3
            ax.set(xlim=(0, left - 0.3), ylim=(len(tasks) + 1.25, 0))
            ax.set_title(order.label(targets[k]), fontweight="bold", pad=13 + 7 * narrow, loc="left")
            few, many = rows[0]["n"].min(), rows[0]["n"].max()
            clean = 100 * rows[1]["target_accuracy"].mean()
            note = f"accuracy {clean:.0f} %, n = {few}" + f"–{many}" * bool(many > few)
            ax.set_title(note, fontsize=6, color="0.3", pad=13 + 7 * narrow, loc="right")
            last = k + across >= len(targets)
            ax.set_xticks(ticks, names if last else [], rotation=90)
            for name in ax.get_xticklabels():
                name.set_in_layout(k // across == down - 1)  # else they hang into an empty place
            rows_at = [*(np.arange(len(tasks)) + 0.5), len(tasks) + 0.75]
            first = k % across == 0
            ax.set_yticks(rows_at, [*map(order.label, tasks), "all tasks"] if first else [])
            ax.tick_params(length=0, pad=2)
            ax.spines[:].set_visible(False)
        scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 100), colours)
        bar = figure.colorbar(scale, ax=axes, location="top", shrink=0.5, aspect=45, pad=0.1 / figure.get_figheight())
        bar.set_label(f"transfer ASR (%)\nof examples crafted on the {order.label(surrogate)} model")
        bar.outline.set_visible(False)
    return figure


class _Panel(NamedTuple):
    """Least width and height of a target's panel in inches, and whether its cells are narrow."""

    width: float
    height: float
    narrow: bool


def _panel(tasks: int, columns: int, names: Iterable[str]) -> _Panel:
    """That takes so many tasks and attacks, under a heading with one of these names."""
    heading = 1.95 + 0.05 * max(map(len, names))  # a name and its note
    cell = max(NARROW, min(CELL, (figures.WIDTH - 0.85) / columns))  # narrow if even one panel were too wide
    narrow = cell < CELL
    return _Panel(max(heading, cell * columns + 0.85), 0.15 * (tasks + 1) + 0.46 + 0.1 * narrow, narrow)


def _columns(panels: int, panel: _Panel) -> list[int]:
    """How many may stand beside each other. A page is :data:`figures.WIDTH` wide, and wider only if a panel is."""
    return [n for n in range(1, min(4, panels) + 1) if n * panel.width <= figures.WIDTH] or [1]


def _grid(panels: int, panel: _Panel) -> tuple[int, int]:
    """Columns and rows of a grid that fits on a page, and of these the one that comes closest to its shape."""

    def distance(across: int) -> tuple[bool, float]:
        height = -(-panels // across) * panel.height
        return height + SCALE > figures.PAGE, abs(math.log(height / figures.WIDTH) - math.log(math.sqrt(2)))

    across = min(_columns(panels, panel), key=distance)
    return across, -(-panels // across)


def pages(
    surrogate: str, tasks: int, columns: int, targets: Sequence[str], order: figures.Order
) -> dict[str, Sequence[str]]:
    """The files of a surrogate's heatmap → the targets of each, of so many tasks and attacks at a budget."""
    targets = [target for target in targets if target != surrogate]
    panel = _panel(tasks, columns, map(order.label, targets))
    most = max(_columns(len(targets), panel)) * max(1, int((figures.PAGE - SCALE) / panel.height))
    return figures.pages(f"heatmap_{surrogate}", targets, most)


def _column_groups(cells: pandas.DataFrame, order: figures.Order) -> list[tuple[str, float, list[str]]]:
    """A heatmap's columns, (title, eps, attacks): by budget, then those without one, then the controls."""
    names = figures.Order.among(cells["attack"], order.attacks)
    groups = []
    for controls in (False, True):
        for eps in figures.budgets(cells["eps"]):
            present = set(cells.loc[figures._at(cells["eps"], eps), "attack"])
            attacks = [name for name in names if name in present and (name in order.controls) == controls]
            title = figures.budget(eps) if math.isnan(eps) or controls else f"ε = {figures.budget(eps)}"
            groups.append((title, eps, attacks))
    return [group for group in groups if group[2]]


def _block(
    ax: Axes, rate: numpy.ndarray, n: numpy.ndarray, left: float, top: float, colours: Any, narrow: bool
) -> None:
    """Annotated cells of size 1 whose upper left corner is (left, top)."""
    import numpy as np
    from seaborn.utils import relative_luminance

    down, across = rate.shape
    ax.pcolormesh(
        left + np.arange(across + 1),
        top + np.arange(down + 1),
        np.ma.masked_invalid(rate),
        cmap=colours,
        vmin=0,
        vmax=1,
        edgecolor="white",
        linewidth=0.4,
    )
    for i, j in np.ndindex(down, across):
        empty = n[i, j] == 0
        few = not empty and n[i, j] < FEW
        text = "–" if empty else f"{100 * rate[i, j]:.0f}" + "*" * bool(few and not narrow)
        dark = not empty and relative_luminance(colours(rate[i, j])) < 0.18  # white then has the higher contrast
        marks = [ax.text(left + j + 0.5, top + i + 0.53, text, ha="center", va="center", fontsize=5 if narrow else 5.5)]
        if few and narrow:  # above the digits: beside them is no room
            marks.append(ax.text(left + j + 0.95, top + i + 0.03, "*", ha="right", va="top", fontsize=5))
        for mark in marks:
            mark.set_color("white" if dark else "black")
            mark.set_in_layout(False)  # inside its cell by construction: a thousand boxes less to measure
