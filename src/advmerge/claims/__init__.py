"""Claims as data, and their verdicts: what was said about transfer to merged models, held against a study.

A claim of ``claims.yaml`` selects cells (task, surrogate, attack, budget, target) of the outcomes by the values of
:data:`COLUMNS`, takes one of :data:`MEASURES` over the rows of a denominator, and compares one number, made of them
by one of :data:`TESTS`, with a margin. docs/claims.md says how to write one. :func:`load` and :func:`check` refuse
a claim that asks for what there is not, before the first job; :func:`evaluate` gives the verdicts.
"""

from advmerge.claims.cells import described, matching, tally
from advmerge.claims.evaluation import TABLES, evaluate, summary
from advmerge.claims.inference import interval, widened
from advmerge.claims.language import COLUMNS, MEASURES, TESTS, Claim, Names, check, load

__all__ = [
    "COLUMNS",
    "MEASURES",
    "TABLES",
    "TESTS",
    "Claim",
    "Names",
    "check",
    "described",
    "evaluate",
    "interval",
    "load",
    "matching",
    "summary",
    "tally",
    "widened",
]
