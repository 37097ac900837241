"""A study in brief: its main tables for a paper (LaTeX, booktabs), and its headline numbers for DVC.

Pure functions on the tables of :mod:`advmerge.statistics`, :mod:`advmerge.comparison` and :mod:`advmerge.claims`; nothing
is computed anew. The module imports nothing heavy, so that the Snakefile may read :data:`TABLES`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from advmerge import comparison, statistics
from advmerge.figures import Order, budget, budgets

if TYPE_CHECKING:
    import pandas

TABLES: dict[str, str] = {
    "accuracy.tex": "Clean accuracy of every model, by task and over tasks.",
    "relative_transfer.tex": "Relative transfer ASR of every target, by surrogate and budget.",
    "comparison.tex": "Every pair of targets over all attacks: difference, adjusted p, tasks that agree.",
    "claims.tex": "Every claim's effect, adjusted p and verdict.",
    "headline_accuracy.csv": "Clean accuracy of every model over tasks, for dvc plots.",
    "headline_transfer.csv": "Relative transfer ASR of every target, surrogate and budget, for dvc plots.",
}
"""The files of this module: file name -> what it holds. :func:`tables` makes them all."""

SOURCES = ("accuracy.csv", "accuracy_by_model.csv", "relative_by_method.csv", "comparison_pairs.csv", "claims.csv")
"""The tables that all this is made of, by file name."""


def _interval(value: Any, low: Any, high: Any, digits: int, factor: float = 1) -> str:
    """``0.74 [0.70, 0.79]``; a dash for NaN."""
    value, low, high = (
        f"{factor * end:.{digits}f}".replace("-", "−") if end == end else "–" for end in (value, low, high)
    )
    return "–" if value == "–" else f"{value} [{low}, {high}]"


def _p(value: float) -> str:
    return "–" if value != value else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _at_budget(eps: float) -> str:
    """A budget as tables and metrics name it: ``ε = 8/255``, or ``no budget``."""
    return budget(eps) if eps != eps else f"ε = {budget(eps)}"


def accuracy(sources: Mapping[str, pandas.DataFrame], order: Order) -> pandas.DataFrame:
    """Clean test accuracy in percent: a row a model, a column a task, and the mean over tasks with its interval."""
    by_task = sources["accuracy.csv"].query("split == 'test'")
    means = sources["accuracy_by_model.csv"].query("split == 'test'").set_index("model")
    models = order.among(means.index, [*order.surrogates, *order.targets])
    tasks = order.among(by_task["task"], order.tasks)
    wide = (100 * by_task.pivot_table(index="model", columns="task", values="accuracy")).reindex(models)[tasks]
    table = wide.map(lambda value: "–" if value != value else f"{value:.1f}")
    ends = means.loc[models, ["accuracy", "low", "high"]].itertuples(index=False)
    table["mean"] = [_interval(value, low, high, 1, 100) for value, low, high in ends]
    return table.rename(index=order.label, columns=order.label).rename_axis(index="Model", columns=None)


def _transferred(sources: Mapping[str, pandas.DataFrame]) -> pandas.DataFrame:
    """Rows of the primary denominator whose surrogate is not the target itself."""
    ratio = sources["relative_by_method.csv"]
    return ratio[(ratio["denominator"] == statistics.PRIMARY) & (ratio["surrogate"] != ratio["target"])]


def relative_transfer(sources: Mapping[str, pandas.DataFrame], order: Order) -> pandas.DataFrame:
    """Relative transfer ASR with its interval: a row a target, a column a surrogate and budget."""
    import pandas as pd

    ratio = _transferred(sources)
    columns = {}
    for surrogate in order.among(ratio["surrogate"], order.surrogates):
        for eps in budgets(ratio["eps"]):
            here = ratio[
                (ratio["surrogate"] == surrogate) & (ratio["eps"].isna() if eps != eps else ratio["eps"] == eps)
            ]
            column = {row.target: _interval(row.relative, row.low, row.high, 2) for row in here.itertuples()}
            columns[order.label(surrogate), _at_budget(eps)] = pd.Series(column, dtype=object)
    table = pd.DataFrame(columns).reindex(order.among(ratio["target"], order.targets)).fillna("–")
    return table.rename(index=order.label).rename_axis(index="Target")


def pairs(sources: Mapping[str, pandas.DataFrame], order: Order) -> pandas.DataFrame:
    """Differences in transfer ASR, in points, of every pair of targets over all attacks."""
    import pandas as pd

    rows = sources["comparison_pairs.csv"].query(f"attack == '{comparison.ALL}'")
    found = [
        {
            "Surrogate": order.label(row.surrogate),
            "A": order.label(row.a),
            "B": order.label(row.b),
            "A − B": _interval(row.difference, row.low, row.high, 1, 100),
            "p (Holm)": _p(row.p_holm),
            "A > B in": f"{row.tasks_a_higher} of {row.tasks}",
            "images": str(row.images),
        }
        for row in rows.itertuples()
    ]
    columns = ["Surrogate", "A", "B", "A − B", "p (Holm)", "A > B in", "images"]
    return pd.DataFrame(found, columns=columns).set_index(["Surrogate", "A", "B"])


def verdicts(sources: Mapping[str, pandas.DataFrame], order: Order) -> pandas.DataFrame:
    """Every claim in words, its effect with its interval, the margin, adjusted p and the verdict."""
    import pandas as pd

    found = [
        {
            "Claim": row.text,
            "effect": _interval(row.effect, row.low, row.high, 3),
            "claimed": f"{'>' if row.direction == 'greater' else '<'} {row.margin:g}",
            "p (Holm)": _p(row.p_adjusted),
            "images": str(row.images),
            "verdict": row.verdict,
        }
        for row in sources["claims.csv"].itertuples()
    ]
    columns = ["Claim", "effect", "claimed", "p (Holm)", "images", "verdict"]
    return pd.DataFrame(found, columns=columns).set_index("Claim")


SIGNS = {"ε": r"$\varepsilon$", "−": "$-$", "–": "--", "∞": r"$\infty$", "←": r"$\leftarrow$", "×": r"$\times$"}
"""Signs of ours, and likely ones of labels, as LaTeX writes them."""

INTERVAL = re.compile(r"(?<=[\d.]) (\[[^\]\[&]*\])")
"""An interval behind its number, in a cell."""


def latex(table: pandas.DataFrame, first: str = "l", environment: str | None = None, below: bool = False) -> str:
    """A tabular with booktabs' rules, every cell and heading escaped; ``first`` is the format of the index columns.

    Intervals are in a smaller size, or with ``below`` in a row of their own. So the tables of the embedded study are
    no wider than both columns of a page, 6.9 inches, in footnotesize. A line of comment says which packages it needs.
    Captions and floats are the paper's business.
    """
    if table.columns.nlevels == 1:
        style = table.reset_index().style.hide(axis=0)  # else the index has a line of headings of its own
    else:
        style = table.rename_axis(index=None).style.format_index(escape="latex", axis=0)
    style = style.format(escape="latex").format_index(escape="latex", axis=1)
    form = first + "r" * table.shape[1]
    text = style.to_latex(hrules=True, environment=environment, column_format=form, multicol_align="c")
    text = "\n".join(_row(line, below) for line in text.splitlines()) + "\n"
    for sign, command in {**SIGNS, " < ": " $<$ ", " > ": " $>$ "}.items():
        text = text.replace(sign, command)
    packages = ["booktabs", *(["longtable"] if environment else [])]
    return f"% \\usepackage{{{','.join(packages)}}}; {{\\footnotesize ...}} fits both columns\n" + text


def _row(line: str, below: bool) -> str:
    """A row with its intervals in a smaller size; with ``below`` in a row of their own."""
    if line.startswith(("[", "*")):
        line = "{}" + line  # else the line break before it takes it for an option
    if not below:
        return INTERVAL.sub(r" {\\scriptsize \1}", line)
    cells = [INTERVAL.search(cell) for cell in line.removesuffix(r" \\").split(" & ")]
    if not any(cells):
        return line
    under = " & ".join(rf"{{\scriptsize {found[1]}}}" if found else "" for found in cells)
    return f"{INTERVAL.sub('', line)}\n{under} \\\\\n\\addlinespace[2pt]"


def headline(sources: Mapping[str, pandas.DataFrame]) -> dict[str, Any]:
    """The numbers that ``dvc metrics`` shows: accuracy a model, relative transfer ASR, and the verdicts.

    One number a name, and no interval: those are in the plots, and would be two lines in three of every difference.
    """
    models = sources["accuracy_by_model.csv"].query("split == 'test'")
    found: dict[str, Any] = {"accuracy": {row.model: row.accuracy for row in models.itertuples()}}
    transfer: dict[str, Any] = {}
    for row in _transferred(sources).itertuples():
        transfer.setdefault(row.surrogate, {}).setdefault(row.target, {})[budget(row.eps)] = _known(row.relative)
    claims = sources["claims.csv"]
    counts = {
        verdict: int((claims["verdict"] == verdict).sum()) for verdict in ("supported", "contradicted", "undecided")
    }
    effects = {row.name: _known(row.effect) for row in claims.itertuples(index=False)}
    return {**found, "relative_transfer": transfer, "verdicts": counts, "claims": effects}


def _known(value: float) -> float | None:
    return None if value != value else value


def tables(sources: Mapping[str, pandas.DataFrame], order: Order) -> dict[str, str]:
    """Every file of :data:`TABLES` from the tables of :data:`SOURCES`: file name -> content."""
    ratio = _transferred(sources)
    names = [
        f"{order.label(row.target)} ← {order.label(row.surrogate)}, {budget(row.eps)}" for row in ratio.itertuples()
    ]
    columns = ["relative", "low", "high", "transfer_asr", "n"]
    plotted = ratio[columns].set_axis(names).rename_axis("cell").reset_index()
    models = sources["accuracy_by_model.csv"].query("split == 'test'")[["model", "accuracy", "low", "high"]]
    models = models.assign(model=models["model"].map(order.label))
    return {
        "accuracy.tex": latex(accuracy(sources, order)),
        "relative_transfer.tex": latex(relative_transfer(sources, order), below=True),
        "comparison.tex": latex(pairs(sources, order), "lll", "longtable"),
        "claims.tex": latex(verdicts(sources, order), "p{0.36\\linewidth}"),
        "headline_accuracy.csv": models.to_csv(index=False, lineterminator="\n"),
        "headline_transfer.csv": plotted.to_csv(index=False, lineterminator="\n"),
    }
