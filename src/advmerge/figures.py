"""The figures of a study, drawn from the tables of :mod:`advmerge.statistics` and from a few examples.

Functions take tables and return a figure; :func:`save` writes it as PDF, SVG and PNG, byte for byte the same
from the same tables. The module imports nothing heavy, so that the Snakefile may read :data:`FIGURES`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advmerge import artifacts, comparison, figures_labels, statistics
from advmerge.errors import unknown

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURES = (
    *("relative_transfer", "relative_transfer_column", "accuracy_transfer", "accuracy_transfer_column"),
    *("critical_distance", "gallery"),
)
"""Every figure but ``heatmap_<surrogate>``, by file stem. :func:`draw` makes those and all of these but the gallery.

What is too tall for a page goes on as ``<stem>-2``, ``<stem>-3``, …: a name that no surrogate can have.
"""

FORMATS = ("pdf", "svg", "png")

WIDTH = 6.9
"""Width of a figure in inches: both columns of a page. Fonts of 5.5 to 8 pt are meant to be printed at this size."""

COLUMN = 3.3
"""Width of the figures named …_column in inches: one column of a page, with the same fonts."""


PAGE = 10.0
"""Height of a page in inches: a figure of many targets or surrogates goes on on another, see :func:`pages`."""

ROWS, TALLEST = 15, 6.9
"""Targets on a page of relative transfer, and the height of all its rows in inches: of many surrogates they are thinner."""


@dataclass(frozen=True)
class Order:
    """In which order the study's names appear and how they are written. Unlisted names come last, sorted.

    ``controls`` are the attacks that are no attacks (random noise), set apart from the others.
    """

    tasks: Sequence[str] = ()
    targets: Sequence[str] = ()
    surrogates: Sequence[str] = ("pretrained", "finetuned")
    attacks: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    controls: Sequence[str] = statistics.CONTROLS

    def label(self, name: str) -> str:
        """How a name is written: its label, or the name with spaces for underscores."""
        return self.labels.get(name, name.replace("_", " "))

    @staticmethod
    def among(names: Any, listed: Sequence[str]) -> list[str]:
        """The distinct ``names``, those ``listed`` first and in that order."""
        found = set(names)
        return [name for name in listed if name in found] + sorted(found - set(listed))


def budget(eps: float) -> str:
    """An L∞ budget in [0, 1] pixels as a reader writes it: ``4/255``; ``no budget`` for NaN.

    >>> budget(8 / 255), budget(0.123), budget(float("nan"))
    ('8/255', '0.123', 'no budget')
    """
    if math.isnan(eps):
        return "no budget"
    levels = eps * 255
    return f"{levels:.3g}/255" if abs(levels * 2 - round(levels * 2)) < 0.02 else f"{eps:.3g}"


def budgets(eps: Any) -> list[float]:
    """The distinct budgets in rising order, NaN (attacks without one) last."""
    values = {float(value) for value in eps}
    has_none = any(math.isnan(value) for value in values)
    return sorted(value for value in values if not math.isnan(value)) + [math.nan] * has_none


def _at(eps: pandas.Series, value: float) -> pandas.Series:
    return eps.isna() if math.isnan(value) else eps == value


def _style() -> AbstractContextManager[Any]:
    import matplotlib as mpl
    import seaborn as sns

    return mpl.rc_context(
        {
            **sns.axes_style("ticks"),
            **sns.plotting_context("paper"),
            "font.family": "DejaVu Sans",  # ships with matplotlib: the same figure on every machine
            "font.size": 7,
            "axes.labelsize": 7,
            "axes.titlesize": 7.5,
            "xtick.labelsize": 6.5,
            "ytick.labelsize": 6.5,
            "legend.fontsize": 6.5,
            "axes.linewidth": 0.6,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "xtick.major.size": 2.5,
            "ytick.major.size": 2.5,
            "pdf.fonttype": 42,  # embedded TrueType, as journals ask
            "svg.fonttype": "path",  # outlines: the same on every machine, whatever fonts it has
            "svg.hashsalt": "advmerge",
            "savefig.dpi": 220,
        }
    )


def _colours() -> list[Any]:
    import seaborn as sns

    return sns.color_palette("colorblind")


def _marks(surrogates: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each surrogate: told apart by shape where there is no colour."""
    colours, markers = _colours(), "os^vPDX"
    return {
        name: {"color": colours[k % len(colours)], "marker": markers[k % len(markers)]}
        for k, name in enumerate(surrogates)
    }


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")  # not pyplot's: no display, no global state
    FigureCanvasAgg(figure)
    return figure


def _sentence(text: str) -> Figure:
    figure = _figure(WIDTH, 1)
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure


def save(figure: Figure, directory: Path | str, name: str) -> None:
    """Write ``directory/name`` in every one of :data:`FORMATS`; each file whole or not at all."""
    undated: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
    with _style():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, not once a format
        for form in FORMATS:
            with artifacts.replacing(Path(directory) / f"{name}.{form}") as temporary:
                figure.savefig(temporary, format=form, metadata=undated[form])


def pages(stem: str, names: Sequence[str], most: int) -> dict[str, Sequence[str]]:
    """The files of a figure that has room for so many of the names → the names shown there; none for all of them.

    >>> pages("ranks", ["a", "b"], 2), pages("ranks", ["a", "b", "c"], 2)
    ({'ranks': ()}, {'ranks': ['a', 'b'], 'ranks-2': ['c']})
    """
    if len(names) <= most:
        return {stem: ()}
    starts = range(0, len(names), most)
    return {stem + f"-{k + 1}" * (k > 0): names[start : start + most] for k, start in enumerate(starts)}


def draw(
    name: str,
    outcomes: pandas.DataFrame,
    accuracy: pandas.DataFrame,
    order: Order,
    confidence: float = 0.95,
    bootstrap: int = 2000,
    seed: int = 0,
    shown: Sequence[str] = (),
) -> Figure:
    """A figure of :data:`FIGURES` that needs no images, or ``heatmap_<surrogate>``. All use the primary denominator.

    Those of one column (…_column) show the largest budget alone. ``shown`` are the targets on a page, or the
    surrogates on one of ranks, as :func:`pages` deals them out; all if it names none.

    Raises:
        StudyError: there is no such figure.
    """
    name = name.partition("-")[0]
    if shown:
        outcomes = outcomes[outcomes["surrogate" if name == "critical_distance" else "target"].isin(list(shown))]
    if name.startswith("heatmap_"):
        from advmerge.figures_heatmap import heatmap

        cells = statistics.rates(outcomes, statistics.CELL, confidence=confidence)
        pooled = statistics.rates(outcomes, statistics.TARGET, confidence=confidence)
        return heatmap(cells, pooled, name.removeprefix("heatmap_"), order)

    def ratios(rows: pandas.DataFrame) -> pandas.DataFrame:
        return statistics.relative(rows, statistics.METHOD, confidence=confidence, bootstrap=bootstrap, seed=seed)

    if name == "critical_distance":
        from advmerge.figures_ranks import critical_distance

        return critical_distance(comparison.ranks(outcomes, confidence, order.controls), order)
    if name not in FIGURES or name == "gallery":
        raise unknown("figure", name, FIGURES)
    kind, width = name.removesuffix("_column"), COLUMN if name.endswith("_column") else WIDTH
    if width == COLUMN:
        outcomes = outcomes[_at(outcomes["eps"], largest(outcomes))]
    attacks = ratios(statistics.without_controls(outcomes, order.controls))
    if kind == "accuracy_transfer":
        return accuracy_transfer(attacks, statistics.accuracy_by_model(accuracy, confidence), order, width)
    noise = ratios(outcomes[outcomes["attack"].isin(list(order.controls))])
    by_seed = statistics.seeds(statistics.without_controls(outcomes, order.controls), accuracy)
    return relative_transfer(attacks, noise, order, by_seed[by_seed["denominator"] == statistics.PRIMARY], width)


def largest(outcomes: pandas.DataFrame) -> float:
    """The largest budget; NaN where no attack has one."""
    levels = budgets(outcomes["eps"])
    return levels[-1] if len(levels) == 1 or not math.isnan(levels[-1]) else levels[-2]


def _legend(figure: Figure, handles: Sequence[Any], columns: int = 4, below: bool = False, **options: Any) -> None:
    """Above the panels (or below), in no more columns than fit; the figure grows where that takes many lines.

    In a figure of one column a line an entry or two.
    """
    wide = figure.get_figwidth() > COLUMN
    columns = columns if wide else 2 if len(handles) == 2 else 1
    style: dict[str, Any] = {"frameon": False, "handletextpad": 0.5, **options}
    style["loc"] = "outside lower center" if below else "outside upper center"
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    while True:
        legend = figure.legend(handles=handles, ncols=columns, **style)
        if columns == 1 or legend.get_window_extent(renderer).width <= figure.bbox.width:
            break
        legend.remove()
        columns -= 1
    room = 0 if below else 2 if wide else 5  # lines that the figure's height is enough for
    more = -(-len(handles) // columns) - room
    figure.set_figheight(figure.get_figheight() + 0.14 * max(0, more))


def _handle(label: str, **mark: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="none", markersize=4.5, label=label, **mark)


def relative_transfer(
    ratio: pandas.DataFrame, noise: pandas.DataFrame, order: Order, by_seed: pandas.DataFrame, width: float = WIDTH
) -> Figure:
    """Relative transfer ASR by method (upper row), and the transfer ASR behind it with its controls (lower).

    ``ratio`` and ``noise`` are :func:`statistics.relative` by surrogate, eps, target, of the attacks and of
    random noise. Rows whose surrogate is their target are white-box controls. A column a budget; attacks
    are pooled. ``by_seed`` is :func:`statistics.seeds`: of several seeds each has a small mark of its own.
    """
    by_seed = by_seed if len(set(by_seed["seed"])) > 1 else by_seed.iloc[:0]
    by_seed = by_seed.rename(columns={"model": "target"})
    white = ratio[ratio["surrogate"] == ratio["target"]]
    ratio = ratio[ratio["surrogate"] != ratio["target"]]
    with _style():
        if ratio.empty:
            return _sentence("This study has no transferred examples.")
        targets = Order.among(ratio["target"], order.targets)
        surrogates = Order.among(ratio["surrogate"], order.surrogates)
        marks = _marks(surrogates)
        levels = budgets(ratio["eps"])
        row = max(0.26, 0.09 * len(surrogates))  # inches: each surrogate's dot apart from the next
        thin = min(1, TALLEST / 2 / (row * len(targets)))
        row, size = thin * row, max(0.65, thin)  # of the marks
        figure = _figure(width, (1.2 if width > COLUMN else 1.6) + 2 * (row * len(targets) + 0.15))
        axes = figure.subplots(2, len(levels), sharex="row", sharey=True, squeeze=False)
        height = {target: k for k, target in enumerate(targets)}

        def row_of(part: pandas.DataFrame) -> pandas.Series:
            return part["target"].map(height).astype(float)  # an empty column of text stays text

        apart = min(0.36, 0.8 / len(surrogates))
        offset = {name: apart * (k - (len(surrogates) - 1) / 2) for k, name in enumerate(surrogates)}
        for column, eps in enumerate(levels):
            upper, lower = axes[:, column]
            upper.set_title("no budget" if math.isnan(eps) else f"ε = {budget(eps)}")
            upper.axvline(1, color="0.5", linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
            for name in surrogates:
                part = ratio[(ratio["surrogate"] == name) & _at(ratio["eps"], eps)]
                y = row_of(part) + offset[name]
                _dots(upper, part["relative"], y, (part["low"], part["high"]), size, **marks[name])
                ends = (part["transfer_low"], part["transfer_high"])
                _dots(lower, part["transfer_asr"], y, ends, size, percent=True, **marks[name])
                for ax, quantity, scale in ((upper, "relative", 1), (lower, "transfer_asr", 100)):
                    each = by_seed[(by_seed["quantity"] == quantity) & (by_seed["surrogate"] == name)]
                    each = each[_at(each["eps"], eps) & (each["target"] != name)]
                    y = row_of(each) + offset[name]
                    ax.plot(scale * each["value"], y, "|", color=marks[name]["color"], markersize=5 * size, alpha=0.8)
                quiet = noise[(noise["surrogate"] == name) & _at(noise["eps"], eps)]
                y = row_of(quiet) + offset[name]
                lower.plot(
                    100 * quiet["transfer_asr"],
                    y,
                    linestyle="none",
                    color=marks[name]["color"],
                    marker="x",
                    markersize=3.5 * size,
                    markeredgewidth=size,
                )
            strong = white[_at(white["eps"], eps) & white["target"].isin(targets)]
            lower.plot(
                100 * strong["transfer_asr"],
                row_of(strong),
                linestyle="none",
                color="0.25",
                marker="|",
                markersize=min(11, 72 * row),
                markeredgewidth=1.4,
            )
            for ax in (upper, lower):
                for k in range(0, len(targets), 2):
                    ax.axhspan(k - 0.5, k + 0.5, color="0.95", zorder=-1, linewidth=0)
                ax.spines[["top", "right", "left"]].set_visible(False)
                ax.tick_params(axis="y", length=0)
        finite = ratio["high"].dropna()
        right = max(1.08, 1.05 * finite.max() if len(finite) else 0)
        axes[0, 0].set_xlim(-0.02 * right, right)
        axes[1, 0].set_xlim(-2, 102)
        axes[0, 0].set_yticks(range(len(targets)), [order.label(target) for target in targets])
        axes[0, 0].set_ylim(len(targets) - 0.5, -0.5)
        for upper, lower in axes.T:
            upper.set_xlabel("relative transfer ASR")
            lower.set_xlabel("transfer ASR (%)")
        handles = [_handle(f"crafted on {order.label(name)}", **marks[name]) for name in surrogates]
        if len(by_seed):
            handles.append(_handle("each seed of fine-tuning", marker="|", color="0.4"))
        if len(noise):
            handles.append(_handle("noise of the same budget", marker="x", color="0.4", markeredgewidth=1))
        if len(white):
            handles.append(_handle("white box: crafted on the target", marker="|", color="0.25", markeredgewidth=1.4))
        _legend(figure, handles)
    return figure


def _dots(
    ax: Axes, x: pandas.Series, y: pandas.Series, ends: tuple[pandas.Series, pandas.Series], size: float,
    percent: bool = False, **mark: Any,
) -> None:  # fmt: skip
    """Dots with horizontal intervals; rows without a value are not drawn."""
    scale = 100 if percent else 1
    seen = x.notna() & ends[0].notna()
    x, y, low, high = (scale * x[seen], y[seen], scale * ends[0][seen], scale * ends[1][seen])
    errors = [(x - low).clip(lower=0), (high - x).clip(lower=0)]
    style: dict[str, Any] = {
        "linestyle": "none",
        "markersize": 3.6 * size,
        "elinewidth": 1.1 * size,
        "markeredgewidth": 0,
    }
    ax.errorbar(x, y, xerr=errors, **style, **mark)


def accuracy_transfer(ratio: pandas.DataFrame, models: pandas.DataFrame, order: Order, width: float = WIDTH) -> Figure:
    """Mean clean test accuracy against transfer ASR: a point a target and surrogate, a panel a budget.

    ``ratio`` is :func:`statistics.relative` by surrogate, eps, target; ``models`` is
    :func:`statistics.accuracy_by_model`. The points of one target are joined. Many targets have numbers, and a key below.
    """
    ratio = ratio[ratio["surrogate"] != ratio["target"]]
    models = models[models["split"] == "test"].drop(columns=["split", "tasks"])
    models = models.rename(columns={"model": "target", "low": "accuracy_low", "high": "accuracy_high"})
    points = ratio.merge(models, on="target")
    with _style():
        if points.empty:
            return _sentence("No merged model has both a test accuracy and a transfer ASR.")
        targets = Order.among(points["target"], order.targets)
        surrogates = Order.among(points["surrogate"], order.surrogates)
        marks = _marks(surrogates)
        levels = budgets(points["eps"])
        across = min(2, len(levels))
        down = -(-len(levels) // across)
        numbered = len(targets) > figures_labels.NAMED
        figure = _figure(width, 0.4 + 2.8 * down + numbered * (0.3 + 0.6 * down))
        grid = figure.subplots(down, across, sharex=True, squeeze=False)
        for ax in list(grid.flat)[len(levels) :]:
            ax.set_axis_off()
        for ax, eps in zip(grid.flat, levels, strict=False):
            here = points[_at(points["eps"], eps)]
            ax.set_title("no budget" if math.isnan(eps) else f"ε = {budget(eps)}", pad=40 if numbered else None)
            for name in surrogates:
                part = here[here["surrogate"] == name]
                x, y = 100 * part["accuracy"], 100 * part["transfer_asr"]
                ax.errorbar(
                    x, y, linestyle="none", markersize=2.8 if numbered else 4, elinewidth=0.8, markeredgewidth=0, **marks[name],
                    xerr=[x - 100 * part["accuracy_low"], 100 * part["accuracy_high"] - x],
                    yerr=[(y - 100 * part["transfer_low"]).clip(lower=0),
                          (100 * part["transfer_high"] - y).clip(lower=0)],
                )  # fmt: skip
            for _, pair in here.groupby("target"):
                ax.plot(100 * pair["accuracy"], 100 * pair["transfer_asr"], color="0.8", linewidth=0.7, zorder=0)
            ax.spines[["top", "right"]].set_visible(False)
            ax.tick_params(labelbottom=True)
            top = 100 * here["transfer_high"].max()
            ax.set_ylim(-0.06 * top - 0.2, min(1.15 * top + 1, 103))
        left, right = 100 * points["accuracy_low"].min(), 100 * points["accuracy_high"].max()
        margin = 0.12 * (right - left) + 0.5
        grid[0, 0].set_xlim(left - margin, right + margin)
        accuracies = "clean test accuracy, mean over tasks (%)"
        if numbered:
            for ax in list(grid.flat)[len(levels) - across : len(levels)]:  # nothing is below these
                ax.set_xlabel(accuracies)  # the key is where the figure's own label would be
            for ax in grid[:, 0]:
                ax.set_ylabel("transfer ASR (%)")
            key = [_handle(f"{k + 1}  {order.label(name)}") for k, name in enumerate(targets)]
            _legend(figure, key, below=True, handlelength=0, fontsize=6)
        else:
            figure.supxlabel(accuracies, fontsize=7)
            figure.supylabel("transfer ASR (%)", fontsize=7)
        _legend(figure, [_handle(f"crafted on {order.label(name)}", **marks[name]) for name in surrogates])
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # labels are placed in this very layout
        for ax, eps in zip(grid.flat, levels, strict=False):
            here = points[_at(points["eps"], eps)]
            if numbered:
                figures_labels.above(ax, here, {target: str(k + 1) for k, target in enumerate(targets)})
            else:
                figures_labels.beside(ax, here, {target: order.label(target) for target in targets})
    return figure
