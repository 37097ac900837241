"""Tests between the attacked models: in pairs, by ranks, and in one model of everything.

Pure functions on the outcomes table, on the rows whose surrogate is not the target itself. A difference is taken
over the images that the surrogate and *both* targets classify correctly when clean, so that two targets are always
compared on the same images. The package imports nothing heavy, so that the Snakefile may read :data:`TABLES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from advmerge import statistics
from advmerge.comparison.paired import ALL, holm, pairs
from advmerge.comparison.ranked import ranks
from advmerge.comparison.regression import model

if TYPE_CHECKING:
    import pandas

__all__ = ["ALL", "TABLES", "holm", "model", "pairs", "ranks", "tables"]

TABLES: dict[str, str] = {
    "comparison_pairs.csv": "Pairs of targets: paired tests over images with Holm's adjustment, and effect sizes.",
    "comparison_ranks.csv": "Average ranks of the targets, Nemenyi's critical distance and its power.",
    "comparison_model.csv": "Logistic models of transfer: image and task effects, target accuracy as covariate.",
}
"""The CSV tables of this module: file name -> what it holds. :func:`tables` computes them all."""


def tables(
    outcomes: pandas.DataFrame,
    accuracy: pandas.DataFrame,
    confidence: float = 0.95,
    bootstrap: int = 2000,
    seed: int = 0,
    controls: Sequence[str] = statistics.CONTROLS,
) -> dict[str, pandas.DataFrame]:
    """Every table of :data:`TABLES`: file name -> table."""
    return {
        "comparison_pairs.csv": pairs(outcomes, confidence, bootstrap, seed, controls),
        "comparison_ranks.csv": ranks(outcomes, confidence, controls),
        "comparison_model.csv": model(outcomes, accuracy, confidence, controls),
    }
