"""Words for numbers, as the page writes them."""

from __future__ import annotations

from typing import Any


def known(value: Any) -> bool:
    """Whether a value is there: neither None nor NaN."""
    return value is not None and value == value


def percent(value: Any) -> str:
    r"""A share in [0, 1] as a percentage; what belongs together stays on one line.

    >>> percent(0.1234), percent(None)
    ('12.3\xa0%', '–')
    """
    return f"{100 * value:.1f}\u00a0%" if known(value) else "–"


def plain(value: Any, digits: int = 3) -> str:
    """A number to some significant digits, with a true minus.

    >>> plain(-0.49039), plain(3000), plain(0.0001234)
    ('−0.49', '3000', '0.000123')
    """
    if not known(value):
        return "–"
    if isinstance(value, int):
        return f"{value}".replace("-", "−")
    return f"{value:.{digits}g}".replace("-", "−")


def probability(p: Any) -> str:
    """A p-value.

    >>> probability(0.0069965), probability(0.0002), probability(None)
    ('0.007', '< 0.001', '–')
    """
    return "–" if not known(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
