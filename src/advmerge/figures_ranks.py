"""The figure of average ranks: which targets a study tells apart.

Like :mod:`advmerge.figures`, whose style and file formats it shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from advmerge import figures

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def pages(surrogates: Sequence[str], targets: int) -> dict[str, Sequence[str]]:
    """The figure's files → the surrogates of each, of so many targets."""
    # Of two diagrams; how many lines join targets is not known before they are ranked.
    height = 2 * (0.74 + 0.16 * -(-targets // 2))
    return figures.pages("critical_distance", surrogates, max(1, int(figures.PAGE / height)))


def critical_distance(ranks: pandas.DataFrame, order: figures.Order) -> Figure:
    """Average ranks of the targets by transfer ASR, with Nemenyi's critical distance (Demšar 2006, fig. 1).

    ``ranks`` is :func:`comparison.ranks`: a panel a surrogate and unit. Rank 1, at the left, is the most often fooled. A
    thick line joins targets that the test does not tell apart. The title says how much it could tell apart.
    """
    panels = [
        (surrogate, unit, ranks[(ranks["surrogate"] == surrogate) & (ranks["unit"] == unit)].reset_index(drop=True))
        for surrogate in order.among(ranks["surrogate"], order.surrogates)
        for unit in order.among(ranks["unit"], ("task", "cell"))
    ]
    with figures._style():
        if not panels:
            return figures._sentence("This study has no two targets to rank.")
        joined = [alike(part["mean_rank"].tolist(), part["critical_distance"].iloc[0]) for _, _, part in panels]
        lines = [-(-len(part) // 2) for _, _, part in panels]
        heights = [0.62 + _apart(bars) * len(bars) + 0.135 * below for bars, below in zip(joined, lines, strict=True)]
        figure = figures._figure(figures.WIDTH, sum(heights) + 0.12 * len(panels))
        figure.set_layout_engine("constrained", h_pad=0.03)
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for ax, (surrogate, unit, part), bars, height in zip(axes, panels, joined, heights, strict=True):
            _ranked(ax, part, bars, height, order)
            blocks = int(part["blocks"].iloc[0])
            title = f"crafted on {order.label(surrogate)}, {blocks} {unit}" + "s" * (blocks != 1)
            ax.set_title(title, loc="left", fontweight="bold")
            found = float(part["detectable"].iloc[0])
            note = f"power for two targets 1 sd apart: {100 * part['power'].iloc[0]:.0f} %; "
            note += f"80 % from {'over 6' if math.isnan(found) else f'{found:g}'} sd"
            if unit == "cell":
                note = "cells share images: the distance is too small, a bound at best"
            ax.set_title(note, loc="right", fontsize=6, color="0.3")
    return figure


def alike(ranks: Sequence[float], distance: float) -> list[tuple[float, float]]:
    """The longest runs of rising ranks, of two or more, that differ by no more than a distance: (first, last)."""
    runs: list[tuple[float, float]] = []
    for low in ranks:
        high = max(rank for rank in ranks if rank - low <= distance)
        if high > low and (not runs or high > runs[-1][1]):
            runs.append((low, high))
    return runs


def _apart(bars: Sequence[tuple[float, float]]) -> float:
    """Inches from one of the thick lines to the next: many are closer."""
    return min(0.08, 1.4 / max(1, len(bars)))


def _ranked(
    ax: Axes, part: pandas.DataFrame, bars: Sequence[tuple[float, float]], height: float, order: figures.Order
) -> None:
    """An axis of ranks, the names hung from it at both sides, and thick lines that join what is alike."""
    highest, distance = len(part), float(part["critical_distance"].iloc[0])
    side = 0.42 * (highest - 1)  # room for names, in ranks
    ax.set(xlim=(1 - side, highest + side), ylim=(height, 0))
    ax.spines[:].set_visible(False)
    ax.set_yticks([])
    ax.set_xticks([])
    scale = 0.4  # where the axis is, in inches from the panel's upper edge; so is everything below
    ax.plot([1, highest], [scale, scale], color="0.15", linewidth=0.8)
    apart = 0.7 * figures.WIDTH * 72 / (highest - 1 + 2 * side)  # points between ranks, where names are long
    step = next((step for step in (1, 5, 10, 20, 50) if step * apart >= 11), 100)  # two digits are 8 points wide
    for rank in range(1, highest + 1):
        ax.plot([rank, rank], [scale - 0.04, scale], color="0.15", linewidth=0.6)
        if rank == 1 or rank % step == 0:
            ax.text(rank, scale - 0.06, str(rank), ha="center", va="bottom", fontsize=6)
    ax.text(1 - 0.02 * side, scale, "most often fooled ", ha="right", va="center", fontsize=6, color="0.3")
    ax.text(highest + 0.02 * side, scale, " least often", ha="left", va="center", fontsize=6, color="0.3")
    end = min(1 + distance, highest + side)
    ax.plot([1, end], [0.1, 0.1], color="0.15", linewidth=0.8, marker="|", markersize=4)
    ax.text(end + 0.05, 0.1, f" critical distance {distance:.2f}", va="center", fontsize=6)
    colour = figures._colours()[0]
    for k, (low, high) in enumerate(bars):
        level = scale + _apart(bars) * (k + 1)
        ax.plot([low - 0.04, high + 0.04], [level, level], color=colour, linewidth=2.2, solid_capstyle="butt")
    top = scale + _apart(bars) * len(bars) + 0.14
    for k, row in enumerate(part.itertuples()):
        left = k < -(-highest // 2)
        level = top + 0.135 * (k if left else highest - 1 - k)
        at = 1 - 0.06 * side if left else highest + 0.06 * side
        ax.plot([row.mean_rank, row.mean_rank, at], [scale, level, level], color="0.35", linewidth=0.6)
        name = (
            f"{order.label(row.target)}  {row.mean_rank:.2f}"
            if left
            else f"{row.mean_rank:.2f}  {order.label(row.target)}"
        )
        ax.text(at + (-0.03 if left else 0.03), level, name, ha="right" if left else "left", va="center", fontsize=6.5)
