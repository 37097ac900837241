"""The study's page: one HTML file that asks nothing of the network, made from the tables, verdicts and examples.

Numbers come from the tables of :mod:`advmerge.statistics`, :mod:`advmerge.comparison` and :mod:`advmerge.claims`;
nothing is computed anew, only chosen, rounded and put into words. A section has a module, a template and a script of
one name. :func:`render` fills ``page.html``, which includes the others; Vega-Lite, which draws the plots, comes out of
vl-convert's package. Equal inputs give equal bytes, so the page holds no date and no time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advmerge import figures
from advmerge.errors import StudyError
from advmerge.figures_gallery import Example
from advmerge.page import compared, explained, explore, gallery, making, seeds, verdicts, words

if TYPE_CHECKING:
    import pandas

FOLDER = Path(__file__).parent
TEMPLATES = ("page", "plot", "claims", "explore", "compared", "seeds", "explained", "gallery", "making")
SCRIPTS = ("shared", "claims", "explore", "compared", "seeds", "explained", "page")
PARTS = [
    f"src/advmerge/page/{name}"
    for name in (*(f"{name}.html" for name in TEMPLATES), "page.css", *(f"{name}.js" for name in SCRIPTS))
]
"""What the page is made from beside Python: templates, a style, and scripts, which share one scope in this order."""

TABLES = (
    *("rates_by_cell.csv", "rates_by_target.csv", "relative_by_cell.csv", "relative_by_target.csv"),
    *("relative_by_method.csv", "accuracy.csv", "accuracy_by_model.csv", "seeds.csv", "seeds_spread.csv"),
    *("comparison_ranks.csv", "comparison_pairs.csv", "comparison_model.csv", *explained.TABLES),
)
"""The tables that the page shows."""

VEGA_LITE = "6.4"
"""The version that the scripts' plots are written for; vl-convert's package holds several."""

LIMIT = 10_000_000
"""No page is larger, in bytes."""

# seaborn's "colorblind" and "rocket_r", as in the figures; written out because importing seaborn costs a second
PALETTE = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9")
SCALE = ("#f7ccaf", "#f6ab83", "#f4865e", "#f06043", "#e43841", "#ca1a50", "#a8185a", "#841e5a", "#601f52", "#3f1b43",
         "#20122e")  # fmt: skip


def _script(code: str) -> str:
    """JavaScript that no HTML parser ends early."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def render(
    tables: Mapping[str, pandas.DataFrame],
    evaluated: Mapping[str, Any],
    examples: Sequence[Example],
    models: Mapping[str, Mapping[str, Any]],
    config: Mapping[str, Any],
    *,
    data: Mapping[str, Mapping[str, Any]] | None = None,
    gallery_title: str = "",
    inputs: Mapping[str, str] | None = None,
    limit: int = LIMIT,
) -> str:
    """The page.

    Args:
        tables: file name → table, as statistics.TABLES and comparison.TABLES name them.
        evaluated: the content of claims.json.
        examples: of the gallery.
        models: name → metadata of its file, as ``Study.page_models()`` names them.
        config: ``Study.page_slice()``.
        data: task → metadata of its images.
        gallery_title: what the examples are.
        inputs: path → SHA-256 of what the page was made from.
        limit: bytes.

    Raises:
        StudyError: the page would be larger than ``limit``.
    """
    import jinja2
    import vl_convert

    order = figures.Order(**config["order"])
    merged, confidence = config["merged"], config["statistics"]["confidence"]
    cells, cases = verdicts.behind(evaluated, order)
    over_seeds, regression = seeds.seeds(tables, order), compared.regression(tables, order)
    ranks, alignment = compared.ranking(tables, order), explained.explained(tables, config["explained"], order)
    content = {
        **explore.explorer(tables, merged, order, confidence),
        "cases": cases,
        "ranks": ranks,
        "pairs": compared.pairs(tables, order),
        "regression": regression,
        "seeds": over_seeds,
        "explained": alignment,
        "palette": PALETTE,
        "scale": SCALE,
    }
    plotted = json.dumps(
        content,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": words.percent, "plain": words.plain}
    page = environment.get_template("page.html").render(
        study=config["name"],
        yaml=config["study"],
        confidence=confidence,
        resamples=evaluated["resamples"],
        answer=explore.answer(tables, merged, order),
        claims=[claim | {"behind": found} for claim, found in zip(verdicts.verdicts(evaluated), cells, strict=True)],
        counted=verdicts.counted(evaluated),
        denominators=explore.DENOMINATOR_WORDS,
        ranks=ranks,
        units=compared.UNITS,
        regression=regression,
        seeds=over_seeds["seeds"],
        explained=alignment,
        gallery=gallery.gallery(examples, order),
        gallery_title=gallery_title,
        training=making.training(models, tables, order),
        merging=making.merging(models, merged, tables, order),
        accuracies=making.accuracies(tables, order),
        skipped=making.skipped(data or {}, order),
        versions=making.versions(),
        inputs=inputs or {},
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        data=plotted.replace("<", "\\u003c"),
        library=_script(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)),
        scripts=[_script((FOLDER / f"{name}.js").read_text(encoding="utf-8")) for name in SCRIPTS],
    )
    if (size := len(page.encode())) > limit:
        raise StudyError(f"the page of the study '{config['name']}' has {size} bytes, more than {limit}")
    return page
