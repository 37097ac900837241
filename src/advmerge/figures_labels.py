"""Names of the points of a scatter plot: beside them, or as numbers above a panel of many. Nothing is random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    import pandas
    from matplotlib.axes import Axes

NAMED = 12
"""Of so many targets each is named beside its points; of more each has a number."""


def beside(ax: Axes, points: pandas.DataFrame, names: Mapping[str, str]) -> None:
    """Name each target beside one of its points; a thin line leads there.

    One after the other, each label goes where it covers the least: labels and dots weigh more than bars, bars more than
    distance, and its line crosses no label. Nothing is random.
    """
    import numpy as np

    renderer = ax.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    pixel = ax.figure.dpi / 72
    gap = pixel * np.array([3, 1])  # between words more than between lines
    frame = ax.get_window_extent(renderer)

    def placed(x: str, y: str) -> numpy.ndarray:
        return ax.transData.transform(100 * points[[x, y]].to_numpy())

    dots = placed("accuracy", "transfer_asr")
    bars = [
        np.hstack([placed("accuracy_low", "transfer_asr"), placed("accuracy_high", "transfer_asr")]),
        np.hstack([placed("accuracy", "transfer_low"), placed("accuracy", "transfer_high")]),
    ]
    owner = points["target"].to_numpy()
    joins = [
        np.hstack([dots[owner == name].min(axis=0), dots[owner == name].max(axis=0)]) for name in sorted(set(owner))
    ]
    taken = np.vstack([np.hstack([dots - 3 * pixel, dots + 3 * pixel]), *bars, *joins])
    weight = np.repeat([100.0, 3.0], [len(dots), len(taken) - len(dots)])

    labels = np.empty((0, 4))
    ways = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    distance = pixel * np.arange(6, 90, 4)
    for target in [name for name in names if name in set(owner)]:
        text = ax.text(0, 0, names[target], fontsize=6, color="0.15", va="bottom")
        extent = text.get_window_extent(renderer)
        half = np.array([extent.width, extent.height]) / 2
        around = np.stack([np.cos(ways), np.sin(ways)], axis=1)
        steps = (around * (distance[:, None, None] + half)).reshape(-1, 2)
        cost = np.repeat(distance / pixel, len(ways)) / 10
        anchors = dots[owner == target]
        centre = (anchors[:, None] + steps).reshape(-1, 2)
        place = np.hstack([centre - half, centre + half])
        covers = (place[:, None, :2] < taken[:, 2:] + gap) & (taken[:, :2] < place[:, None, 2:] + gap)
        outside = (place[:, :2] < frame.min + gap).any(axis=1) | (place[:, 2:] > frame.max).any(axis=1)
        start = np.repeat(anchors, len(steps), axis=0)
        end = np.clip(start, place[:, :2], place[:, 2:])
        ends = np.minimum(start, end)[:, None], np.maximum(start, end)[:, None]
        crossed = ((ends[0] < labels[:, 2:]) & (labels[:, :2] < ends[1] + 1)).all(axis=2).sum(axis=1)
        best = np.argmin(np.tile(cost, len(anchors)) + covers.all(axis=2) @ weight + 1000 * outside + 50 * crossed)
        taken, weight = np.vstack([taken, place[best]]), np.append(weight, 200.0)
        labels = np.vstack([labels, place[best]])
        text.set_position(tuple(ax.transData.inverted().transform(place[best, :2])))
        anchor = anchors[best // len(steps)]
        nearest = np.clip(anchor, place[best, :2], place[best, 2:])
        line = ax.transData.inverted().transform([anchor, nearest])
        ax.plot(*line.T, color="0.55", linewidth=0.4, zorder=1)


def above(ax: Axes, points: pandas.DataFrame, numbers: Mapping[str, str]) -> None:
    """Write each target's number above the panel, by accuracy, in as many lines as it takes; a thin line leads to its points.

    The points of a target share their accuracy, so that its line goes straight down through all of them. Numbers keep
    their order and lines of upper numbers pass between lower ones: none crosses another.
    """
    import numpy as np

    points = points[points["transfer_asr"].notna()]
    found = (
        points.groupby("target")["accuracy"]
        .first()
        .reindex([name for name in numbers if name in set(points["target"])])
    )
    found = found.sort_values(kind="stable")
    pixel = ax.figure.dpi / 72
    frame = ax.get_window_extent()
    digits, line = 7.5 * pixel, 6.5 * pixel  # of a number in 5.5 pt
    slot = frame.width / max(1, len(found))
    lines = next((n for n in range(1, 4) if n * slot >= digits + 2 * pixel * (n - 1)), 4)
    back = ax.transData.inverted()
    for k, (target, accuracy) in enumerate(found.items()):
        x = ax.transData.transform((100 * accuracy, 0))[0]
        at, foot = frame.x0 + (k + 0.5) * slot, frame.y1 + 10 * pixel
        base = foot + (k % lines) * line
        own = 100 * points.loc[points["target"] == target, "transfer_asr"]
        ends = back.transform([(at, base), (at, foot), (x, frame.y1)])
        path = np.vstack([ends, [100 * accuracy, own.min()]])
        ax.plot(*path.T, color="0.7", linewidth=0.4, zorder=0, clip_on=False, scalex=False, scaley=False)
        ax.text(ends[0, 0], ends[0, 1], numbers[str(target)], fontsize=5.5, color="0.15", ha="center", va="bottom")
