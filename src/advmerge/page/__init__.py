"""The study's page: one HTML file that asks nothing of the network, made from the tables, verdicts and examples.

Numbers come from the tables of :mod:`advmerge.statistics`, :mod:`advmerge.comparison` and :mod:`advmerge.claims`;
nothing is computed anew, only chosen, rounded and put into words. :func:`render` fills ``page.html`` with them,
``page.css`` and ``page.js``; Vega-Lite, which draws the plots, comes out of vl-convert's package. Equal inputs give
equal bytes, so the page holds no date and no time.
"""

from __future__ import annotations

import base64
import io
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advmerge import figures, statistics
from advmerge.errors import StudyError

if TYPE_CHECKING:
    import numpy
    import pandas

PARTS = [f"src/advmerge/page/page.{form}" for form in ("html", "css", "js")]
TEMPLATE, STYLE, SCRIPT = (Path(__file__).with_name(Path(part).name) for part in PARTS)

TABLES = (
    *("rates_by_cell.csv", "rates_by_target.csv", "relative_by_cell.csv", "relative_by_target.csv"),
    *("relative_by_method.csv", "accuracy.csv", "accuracy_by_model.csv", "comparison_ranks.csv"),
)
"""The tables that the page shows."""

VEGA_LITE = "6.4"
"""The version that the plots of ``page.js`` are written for; vl-convert's package holds several."""

VERSIONS = ("torch", "timm", "adversarial-robustness-toolbox", "numpy", "pandas", "scipy", "statsmodels", "snakemake")
"""The packages whose versions the page names."""

LIMIT = 10_000_000
"""No page is larger, in bytes."""

LOSSLESS = 64
"""Images with a longer side, in pixels, are stored as WebP instead of PNG: a page of photographs stays small."""

# seaborn's "colorblind" and "rocket_r", as in the figures; written out because importing seaborn costs a second
PALETTE = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9")
SCALE = ("#f7ccaf", "#f6ab83", "#f4865e", "#f06043", "#e43841", "#ca1a50", "#a8185a", "#841e5a", "#601f52", "#3f1b43",
         "#20122e")  # fmt: skip

SIGNS = {"supported": "✓", "contradicted": "✗", "undecided": "?"}


# ── words for numbers ───────────────────────────────────────────────────────────────────────────────────────


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


def quantity(claim: Mapping[str, Any], value: Any, unit: bool = True) -> str:
    r"""A value of a claim's effect: a share of cases or a level in percent, a difference in points, a correlation.

    >>> quantity({"test": "difference", "measure": "transfer_asr"}, -0.0934)
    '−9.3\xa0points'
    >>> quantity({"test": "level", "measure": "relative"}, 0.95, unit=False)
    '0.95'
    """
    if not known(value):
        return "–"
    compared = claim["test"] in ("difference", "extreme", "trend")
    sign = "−" if value < 0 else "+" if value > 0 and compared else ""
    if claim["test"] == "trend" or (claim["measure"] == "relative" and claim["test"] != "share"):
        return f"{sign}{abs(value):.2f}"
    of = ("\u00a0points" if compared else "\u00a0%") if unit else ""
    return f"{sign}{100 * abs(value):.1f}{of}"


MEASURED = {
    "transfer_asr": "transfer ASR",
    "surrogate_asr": "ASR on the surrogate",
    "excess": "transfer ASR less the ASR on the surrogate",
    "relative": "relative transfer ASR",
}


def found(claim: Mapping[str, Any]) -> str:
    """What a claim's effect is, in words, before its value."""
    measured = MEASURED.get(claim["measure"], claim["measure"])
    if claim["test"] == "share":
        return f"Holds in this share of {claim['n_cases']} cases"
    if claim["test"] == "trend":
        along = claim["along"].replace("_", " ")
        return f"Rank correlation of the {measured} with the {along}"
    if claim["test"] == "difference":
        return f"Difference in {measured}"
    if claim["test"] == "extreme":
        return f"Distance in {measured} from the closest rival"
    return measured[0].upper() + measured[1:]


def strip(claim: Mapping[str, Any], width: float = 200.0) -> dict[str, float] | None:
    """Where to draw margin, interval and effect on a line of some width, the margin in the middle."""
    ends = [claim[key] for key in ("low", "high", "effect")]
    if not all(known(end) for end in ends):
        return None
    reach = 1.15 * max(abs(end - claim["margin"]) for end in ends) or 1.0
    at = [round(width / 2 * (1 + (end - claim["margin"]) / reach), 1) for end in ends]
    return {"low": at[0], "high": at[1], "effect": at[2], "width": width, "middle": width / 2}


def verdicts(evaluated: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the page says of each claim of claims.json, in its order."""
    return [
        {
            **claim,
            "sign": SIGNS[claim["verdict"]],
            "found": found(claim),
            "effect_words": quantity(claim, claim["effect"]),
            "low_words": quantity(claim, claim["low"], unit=False),
            "high_words": quantity(claim, claim["high"], unit=False),
            "side": "above" if claim["direction"] == "greater" else "below",
            "margin_words": quantity(claim, claim["margin"]).replace(".0\u00a0", "\u00a0") if claim["margin"] else "0",
            "p_words": probability(claim["p_adjusted"]),
            "elsewhere": {name: quantity(claim, value) for name, value in claim["by_denominator"].items()},
            "strip": strip(claim),
        }
        for claim in evaluated["claims"]
    ]


def counted(evaluated: Mapping[str, Any]) -> dict[str, int]:
    """How many claims have each verdict."""
    given = [claim["verdict"] for claim in evaluated["claims"]]
    return {verdict: given.count(verdict) for verdict in SIGNS}


def answer(
    tables: Mapping[str, pandas.DataFrame], merged: Sequence[str], order: figures.Order
) -> dict[str, Any] | None:
    """The question answered under the primary denominator: a line each kind of example, a column each budget.

    A cell holds the least and the largest transfer ASR over the merged models and, for examples of a surrogate, the
    range of relative transfer ASR; ``lead`` says in a sentence what stands at the largest budget. None where no
    example was transferred.
    """
    methods, noise = tables["relative_by_method.csv"], tables["rates_by_target.csv"]
    methods, noise = (
        table[(table["denominator"] == statistics.PRIMARY) & table["target"].isin(list(merged))]
        for table in (methods, noise)
    )
    noise = noise[noise["attack"].isin(list(order.controls))]
    white = methods["surrogate"] == methods["target"]
    surrogates = order.among(methods.loc[~white, "surrogate"], order.surrogates)
    if not surrogates:
        return None
    levels = figures.budgets(methods["eps"])

    def cell(rows: pandas.DataFrame, eps: float, ratios: bool) -> dict[str, str] | None:
        rows = rows[(rows["eps"].isna() if math.isnan(eps) else rows["eps"] == eps) & rows["transfer_asr"].notna()]
        if rows.empty:
            return None
        rates, ratio = 100 * rows["transfer_asr"], rows["relative"].dropna() if ratios else []
        return {
            "rates": f"{rates.min():.1f}–{rates.max():.1f}\u00a0%",
            "ratio": f"{min(ratio):.2f}–{max(ratio):.2f}" if len(ratio) else "",
        }

    kinds = [
        *((f"crafted on {order.label(s)}", methods[~white & (methods["surrogate"] == s)], True) for s in surrogates),
        ("crafted on the merged model itself", methods[white], False),
        ("random noise of the same size", noise, False),
    ]
    cells = {name: [cell(rows, eps, ratios) for eps in levels] for name, rows, ratios in kinds}
    cells = {name: row for name, row in cells.items() if any(row)}
    largest = max(range(len(levels)), key=lambda k: -1 if math.isnan(levels[k]) else levels[k])
    said = [f"{name} in {shown['rates']}" for name, row in cells.items() if (shown := row[largest])]
    eps = levels[largest]
    within = "without a budget" if math.isnan(eps) else f"at ε\u00a0=\u00a0{figures.budget(eps)}"
    return {
        "lead": f"Share of images that fool the merged models, from the least to the most often fooled one, {within}: "
        f"{'; '.join(said)}.",
        "eps": [figures.budget(eps) for eps in levels],
        "lines": [{"name": name, "cells": row} for name, row in cells.items()],
        "models": methods["target"].nunique(),
    }


# ── what the plots are drawn from ───────────────────────────────────────────────────────────────────────────


def _named(names: Iterable[str], order: figures.Order) -> list[dict[str, str]]:
    return [{"name": name, "label": order.label(name)} for name in names]


RATES = ("n", "asr", "transfer_asr", "low", "high", "relative", "relative_low", "relative_high", "unchanged")
"""What the page knows of a cell under a denominator; all but n in ten-thousandths, which is more than it shows."""

METHODS = ("n", "images", "transfer_asr", "transfer_low", "transfer_high", "relative", "low", "high")
"""What the page knows of a method under a denominator, attacks pooled."""


def explorer(
    tables: Mapping[str, pandas.DataFrame], merged: Sequence[str], order: figures.Order, confidence: float
) -> dict[str, Any]:
    """What the interactive plots are drawn from: every cell and method under every denominator, small enough to send.

    ``cells`` are [task, surrogate, attack, eps, target, …], names as positions in the lists beside it, the task −1
    for all together, and then :data:`RATES` under each denominator in turn; ``methods`` are [surrogate, eps, target,
    …] and :data:`METHODS`.
    """
    import pandas as pd

    keys = ["task", "surrogate", "attack", "eps", "target", "denominator"]
    parts = []
    for rates, ratios in (("rates_by_cell", "relative_by_cell"), ("rates_by_target", "relative_by_target")):
        shared = [key for key in keys if key in tables[f"{rates}.csv"]]
        ratio = tables[f"{ratios}.csv"][[*shared, "relative", "low", "high"]]
        ratio = ratio.rename(columns={"low": "relative_low", "high": "relative_high"})
        parts.append(tables[f"{rates}.csv"].merge(ratio, on=shared, how="left"))
    cells = pd.concat(parts, ignore_index=True)
    methods = tables["relative_by_method.csv"]
    accuracy = tables["accuracy_by_model.csv"]
    accuracy = accuracy[accuracy["split"] == "test"]

    tasks = order.among(parts[0]["task"], order.tasks)
    targets = order.among(cells["target"], order.targets)
    surrogates = order.among(set(cells["surrogate"]) & set(order.surrogates), order.surrogates)
    models = list(dict.fromkeys([*surrogates, *targets, *sorted(set(cells["surrogate"]))]))
    attacks = order.among(cells["attack"], order.attacks)
    eps = [figures.budget(value) for value in figures.budgets(cells["eps"])]
    denominators = list(statistics.DENOMINATORS)

    def positions(column: pandas.Series, names: Sequence[str]) -> pandas.Series:
        return column.map({name: k for k, name in enumerate(names)}).fillna(-1).astype(int)

    def packed(table: pandas.DataFrame, axes: Mapping[str, Sequence[str]], columns: Sequence[str]) -> list[list[Any]]:
        table = table.assign(eps=table["eps"].map({value: figures.budget(value) for value in table["eps"].unique()}))
        table = table.assign(**{key: positions(table[key], names) for key, names in axes.items()})
        whole = [column for column in columns if column in ("n", "images")]
        shares = [column for column in columns if column not in whole]
        table[shares] = (10_000 * table[shares]).round()
        rows: dict[tuple[int, ...], list[Any]] = {}
        at = dict(zip(denominators, range(len(denominators)), strict=True))
        table = table.sort_values(list(axes), kind="stable")
        for *key, denominator, values in zip(
            *(table[axis].tolist() for axis in axes),
            table["denominator"].tolist(),
            table[list(columns)].to_numpy(dtype=float).tolist(),
            strict=True,
        ):
            row = rows.setdefault(tuple(key), [None] * (len(denominators) * len(columns)))
            start = at[denominator] * len(columns)
            row[start : start + len(columns)] = [int(value) if value == value else None for value in values]
        return [[*key, *row] for key, row in rows.items()]

    # NaN has no equal, so the names of budgets are keys, not the budgets
    axes = {"task": tasks, "surrogate": models, "attack": attacks, "eps": eps, "target": targets}
    return {
        "confidence": confidence,
        "denominators": [
            {"name": name, "label": f"{name}: {DENOMINATOR_WORDS.get(name, name)}"} for name in denominators
        ],
        "primary": statistics.PRIMARY,
        "rates": list(RATES),
        "method_rates": list(METHODS),
        "tasks": _named(tasks, order),
        "models": _named(models, order),
        "surrogates": surrogates,
        "targets": _named(targets, order),
        "merged": [name for name in targets if name in merged],
        "attacks": [{**entry, "control": entry["name"] in order.controls} for entry in _named(attacks, order)],
        "eps": eps,
        "cells": packed(cells, axes, RATES),
        "methods": packed(methods, {key: axes[key] for key in ("surrogate", "eps", "target")}, METHODS),
        "accuracy": sorted(
            [targets.index(row.model), *(round(10_000 * rate) for rate in (row.accuracy, row.low, row.high))]
            for row in accuracy.itertuples()
            if row.model in targets
        ),
        "palette": list(PALETTE),
        "scale": list(SCALE),
    }


DENOMINATOR_WORDS = {
    "all": "all images",
    "target": "target right when clean",
    "both": "surrogate and target right when clean",
    "fooled": "and the surrogate fooled",
}


def ranking(tables: Mapping[str, pandas.DataFrame], order: figures.Order) -> list[dict[str, Any]]:
    """Average ranks over tasks under each surrogate, with how far apart two must lie and the power of telling so."""
    ranks = tables["comparison_ranks.csv"]
    ranks = ranks[ranks["unit"] == "task"]
    return [
        {
            "surrogate": order.label(name),
            "blocks": int(rows["blocks"].iloc[0]),
            "critical_distance": rows["critical_distance"].iloc[0],
            "friedman_p": probability(rows["friedman_p"].iloc[0]),
            "power": rows["power"].iloc[0],
            "rows": [
                {"target": order.label(row.target), "rank": row.mean_rank}
                for row in rows.sort_values(["mean_rank", "target"]).itertuples()
            ],
        }
        for name in order.among(ranks["surrogate"], order.surrogates)
        for rows in (ranks[ranks["surrogate"] == name],)
    ]


# ── the gallery ─────────────────────────────────────────────────────────────────────────────────────────────


def image_uri(image: numpy.ndarray) -> str:
    """An image [C, H, W] in [0, 1], C being 1 or 3, as a data URI."""
    import numpy as np
    from PIL import Image

    pixels = np.clip(np.rint(255 * image), 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    form, options = ("png", {"optimize": True}) if max(picture.size) <= LOSSLESS else ("webp", {"quality": 90})
    content = io.BytesIO()
    picture.save(content, form, **options)
    return f"data:image/{form};base64,{base64.b64encode(content.getvalue()).decode()}"


def spelt(name: str) -> str:
    """A class name; a single foreign letter with its name, for fonts and screen readers that lack it.

    >>> spelt("क"), spelt("grass")
    ('क (ka)', 'grass')
    """
    if len(name) == 1 and not name.isascii():
        return f"{name} ({unicodedata.name(name, f'U+{ord(name):04X}').split()[-1].lower()})"
    return name


def gallery(examples: Sequence[figures.Example], order: figures.Order) -> dict[str, Any]:
    """The rows of the gallery: pictures as data URIs, and who says what of the adversarial one."""
    factor = figures.amplification(examples) if examples else 1
    rows = []
    for example in examples:
        answers = [("surrogate", example.surrogate, False)]
        answers += [
            (order.label(name), example.targets[name], name in example.wrong_clean)
            for name in order.among(example.targets, order.targets)
        ]
        rows.append(
            {
                "task": order.label(example.task),
                "label": spelt(example.label),
                "clean": image_uri(example.clean),
                "adversarial": image_uri(example.adversarial),
                "difference": image_uri(0.5 + factor * (example.adversarial - example.clean)),
                "answers": [
                    {
                        "model": model,
                        "says": spelt(says),
                        "state": "right" if says == example.label else "wrong before" if already else "wrong",
                    }
                    for model, says, already in answers
                ],
                "fooled": sum(e != example.label for e in example.targets.values()),
                "targets": len(example.targets),
            }
        )
    return {"rows": rows, "factor": factor}


# ── how the models came about ───────────────────────────────────────────────────────────────────────────────


def _options(options: Mapping[str, Any]) -> str:
    """Options as words: ``keep 0.4, scale 0.6``."""
    return ", ".join(f"{key.replace('_', ' ')} {plain(v) if isinstance(v, float) else v}" for key, v in options.items())


def _accuracies(tables: Mapping[str, pandas.DataFrame]) -> dict[str, Any]:
    accuracy = tables["accuracy_by_model.csv"]
    return {row.model: row for row in accuracy[accuracy["split"] == "test"].itertuples()}


def training(models: Mapping[str, Mapping[str, Any]], tables: Mapping[str, pandas.DataFrame], order: figures.Order
) -> list[dict[str, Any]]:  # fmt: skip
    """A row a trained model, from its metadata: steps, batch, rate, what it ended at, and its clean test accuracy.

    An expert's accuracy is that on its own task, none for a bait's; the others' are averaged over tasks.
    """
    by_task = tables["accuracy.csv"]
    by_task = by_task[by_task["split"] == "test"]
    own = dict(zip(zip(by_task["model"], by_task["task"], strict=True), by_task["accuracy"], strict=True))
    overall = _accuracies(tables)
    rows = []
    for name, metadata in models.items():
        if "recipe" not in metadata["slice"]:
            continue
        recipe, (kind, _, expert) = metadata["slice"]["recipe"], name.partition("/")
        other, _, task = expert.rpartition("/")
        mean = overall.get(name)
        rows.append(
            {
                "name": f"{order.label(other or kind)}: {order.label(task)}" if task else order.label(name),
                "steps": recipe["steps"],
                "batch": recipe["batch"],
                "lr": plain(recipe["lr"]),
                "loss": plain(metadata["facts"].get("train_loss")),
                "accuracy": percent(own.get((other or kind, task)) if task else mean and mean.accuracy),
            }
        )
    return rows


def _extra(facts: Mapping[str, Any]) -> list[str]:
    """Facts beside the choice, in words: a value, or the least and the largest of many."""

    def numbers(value: Any) -> list[float]:
        if isinstance(value, Mapping):
            return [number for item in value.values() for number in numbers(item)]
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [number for item in value for number in numbers(item)]
        return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []

    lines = []
    for key, value in facts.items():
        if key in ("chosen", "tried") or not (values := numbers(value)):
            continue
        words = plain(min(values)) if min(values) == max(values) else f"{plain(min(values))} to {plain(max(values))}"
        lines.append(f"{key.replace('_', ' ')} {words}")
    return lines


def merging(models: Mapping[str, Mapping[str, Any]], merged: Sequence[str], tables: Mapping[str, pandas.DataFrame],
            order: figures.Order) -> list[dict[str, Any]]:  # fmt: skip
    """A row a merged model, from its metadata: the method and options chosen, among how many, and what came of it."""
    overall = _accuracies(tables)
    rows = []
    for name in merged:
        metadata = models[name]
        facts, given, mean = metadata["facts"], metadata["slice"], overall.get(name)
        tried = [] if "method" not in given else facts.get("tried", [])
        if "method" in given:
            chosen = facts.get("chosen", {})
            best = [entry["validation_accuracy"] for entry in tried if entry["options"] == chosen]
            what, validation, more = given["method"], best[0] if best else None, _extra(facts)
        else:
            base = Path(next(path for path in metadata["inputs"] if "/merged/" in path)).stem
            chosen, validation = given["options"], None
            what = f"surgery on {order.label(base)}"
            before, after = ([fact[f"distance_{when}"] for fact in facts.values()] for when in ("before", "after"))
            more = [
                f"distance of features from the expert's: {plain(min(before))} to {plain(max(before))} before, "
                f"{plain(min(after))} to {plain(max(after))} after"
            ]
        rows.append(
            {
                "name": order.label(name),
                "method": what,
                "chosen": _options(chosen) or "none",
                "tried": [
                    {"options": _options(entry["options"]), "accuracy": percent(entry["validation_accuracy"])}
                    for entry in tried
                    if len(tried) > 1
                ],
                "validation": percent(validation),
                "accuracy": percent(mean and mean.accuracy),
                "low": percent(mean and mean.low),
                "high": percent(mean and mean.high),
                "normalised": percent(mean and mean.normalised),
                "more": more,
            }
        )
    return rows


def accuracies(tables: Mapping[str, pandas.DataFrame], order: figures.Order) -> dict[str, Any]:
    """Clean test accuracy of every model on every task."""
    table = tables["accuracy.csv"]
    table = table[table["split"] == "test"]
    tasks = order.among(table["task"], order.tasks)
    models = order.among(table["model"], ["pretrained", statistics.EXPERT, *order.targets])
    rates = {(row.model, row.task): row.accuracy for row in table.itertuples()}
    return {
        "tasks": [order.label(task) for task in tasks],
        "rows": [
            {"name": order.label(model), "values": [percent(rates.get((model, task))) for task in tasks]}
            for model in models
        ],
    }


def versions() -> dict[str, str]:
    """Package → version in this environment, of Python and :data:`VERSIONS`."""
    import platform
    from importlib import metadata

    return {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONS}}


# ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────


def _script(code: str) -> str:
    """JavaScript that no HTML parser ends early."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def render(
    tables: Mapping[str, pandas.DataFrame],
    evaluated: Mapping[str, Any],
    examples: Sequence[figures.Example],
    models: Mapping[str, Mapping[str, Any]],
    config: Mapping[str, Any],
    *,
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
    data = json.dumps(
        explorer(tables, merged, order, confidence), separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "plain": plain}
    page = environment.get_template(TEMPLATE.name).render(
        study=config["name"],
        yaml=config["study"],
        confidence=confidence,
        resamples=evaluated["resamples"],
        answer=answer(tables, merged, order),
        claims=verdicts(evaluated),
        counted=counted(evaluated),
        denominators=DENOMINATOR_WORDS,
        ranks=ranking(tables, order),
        gallery=gallery(examples, order),
        gallery_title=gallery_title,
        training=training(models, tables, order),
        merging=merging(models, merged, tables, order),
        accuracies=accuracies(tables, order),
        versions=versions(),
        inputs=inputs or {},
        style=STYLE.read_text(encoding="utf-8"),
        data=data.replace("<", "\\u003c"),
        library=_script(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)),
        script=_script(SCRIPT.read_text(encoding="utf-8")),
    )
    if (size := len(page.encode())) > limit:
        raise StudyError(f"the page of the study '{config['name']}' has {size} bytes, more than {limit}")
    return page
