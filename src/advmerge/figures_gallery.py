"""The figure of examples: an image a task, clean and attacked, and what every model says of it.

Like :mod:`advmerge.figures`, whose style and file formats it shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from advmerge import figures

if TYPE_CHECKING:
    import numpy
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Example:
    """One row of the gallery.

    ``clean`` and ``adversarial`` are [C, H, W] in [0, 1], C being 1 or 3. ``label``, ``surrogate`` and the
    values of ``targets`` (target -> prediction on the adversarial image) are class names. ``wrong_clean``
    names the targets that err on the clean image already, so that their error is not the attack's.
    """

    task: str
    clean: numpy.ndarray
    adversarial: numpy.ndarray
    label: str
    surrogate: str
    targets: Mapping[str, str]
    wrong_clean: frozenset[str] = frozenset()


def amplification(examples: Sequence[Example]) -> int:
    """By how much differences are shown larger: the largest whole factor at which none saturates around mid-grey."""
    import numpy as np

    most = max(float(np.abs(e.adversarial - e.clean).max()) for e in examples)
    return max(1, int(0.5 / most + 1e-3)) if most > 0 else 1  # single precision: 24.999 is 25


def gallery(examples: Sequence[Example], title: str, order: figures.Order) -> Figure:
    """A row a task: the clean image, the adversarial one, their amplified difference, and who says what.

    The difference is shown around mid-grey, amplified by one factor for all rows (:func:`amplification`).
    """
    import numpy as np

    with figures._style():
        if not examples:
            return figures._sentence("No examples to show.")
        factor = amplification(examples)
        columns = [_columns(example, order) for example in examples]
        lines = [-(-len(e.targets) // count) + 1 for e, count in zip(examples, columns, strict=True)]
        heights = [max(0.85, 0.13 * count + 0.2) for count in lines]
        figure = figures._figure(figures.WIDTH, 0.45 + sum(heights))
        figure.suptitle(title, fontsize=7.5)
        axes = figure.subplots(len(examples), 4, squeeze=False, width_ratios=[1, 1, 1, 5.4], height_ratios=heights)
        for row, example, count, height in zip(axes, examples, lines, heights, strict=True):
            difference = 0.5 + factor * (example.adversarial - example.clean)
            for ax, image in zip(row, (example.clean, example.adversarial, difference), strict=False):
                shown = np.clip(np.broadcast_to(image, (3, *image.shape[1:])), 0, 1)
                ax.imshow(shown.transpose(1, 2, 0), interpolation="nearest")
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
            label = _short(example.label, int(16 * height))  # so many letters an inch
            row[0].set_ylabel(f"{order.label(example.task)}\n“{label}”", fontsize=6.5)
            _verdicts(row[3], example, count, order)
        names = ("clean", "adversarial", f"difference × {factor}")
        for ax, name in zip(axes[0], names, strict=False):
            ax.set_title(name, fontsize=6.5)
    return figure


def _short(text: str, longest: int = 44) -> str:
    """A class name that fits and that the font can write: क, which it lacks, becomes ‹ka›."""
    import unicodedata

    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans")).get_charmap()
    text = "".join(
        sign if ord(sign) in known else f"‹{unicodedata.name(sign, f'U+{ord(sign):04X}').split()[-1].lower()}›"
        for sign in text
    )
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _verdict(example: Example, name: str, prediction: str, already: bool) -> tuple[str, str]:
    """A model's answer in words, and in colour: right, wrong, or wrong of the clean image too."""
    if prediction == example.label:
        return f"✓ {name}: {_short(prediction)}", figures._colours()[0]
    note, colour = (" (clean too)", "0.5") if already else ("", figures._colours()[3])
    return f"✗ {name}: {_short(prediction)}{note}", colour


def _answers(example: Example, order: figures.Order) -> list[tuple[str, str]]:
    """What the targets say, in order."""
    targets = figures.Order.among(example.targets, order.targets)
    return [_verdict(example, order.label(t), example.targets[t], t in example.wrong_clean) for t in targets]


def _columns(example: Example, order: figures.Order) -> int:
    """Two, or one where an answer is longer than half of the place for them."""
    return 1 if any(len(text) > 48 for text, _ in _answers(example, order)) else 2


def _verdicts(ax: Axes, example: Example, lines: int, order: figures.Order) -> None:
    """The surrogate's answer, then the targets' in columns: right or wrong by sign, colour and word."""
    ax.set_axis_off()
    ax.set(xlim=(0, 2), ylim=(lines, 0))
    text, colour = _verdict(example, "surrogate", example.surrogate, False)
    ax.text(0, 0.5, text, color=colour, fontsize=6, va="center", fontweight="bold")
    for k, (text, colour) in enumerate(_answers(example, order)):
        column, line = divmod(k, lines - 1)
        ax.text(column, line + 1.5, text, color=colour, fontsize=6, va="center")
