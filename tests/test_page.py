"""The page: whole in itself, its numbers those of the tables, and usable by mouse, keyboard, phone and ear."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from advmerge import associations, claims, comparison, figures, page, statistics
from advmerge.errors import StudyError
from advmerge.figures_gallery import Example
from advmerge.study import Study, load
from test_associations import measured
from test_statistics import ATTACKS, ROOT, TASKS, synthetic

TARGETS = ["weight_averaging", "weight_averaging_surgery", "ties", "ties_surgery", "multitask"]
MERGED = TARGETS[:-1]
EVIL = "</script><b id=evil>evil</b>"
ORDER: dict[str, Any] = {
    "tasks": TASKS[:3],
    "targets": TARGETS,
    "surrogates": ["pretrained", "finetuned"],
    "attacks": [*ATTACKS[:5], "cw", "deepfool"],
    "controls": ["noise"],
    "labels": {"ties_surgery": "TIES + surgery", "mifgsm": EVIL},
}
CONFIG = {
    "order": ORDER,
    "statistics": {"confidence": 0.95, "bootstrap": 60},
    "seed": 0,
    "shown_seed": 0,
    "name": "synthetic",
    "merged": MERGED,
    "study": "study: synthetic\nlabels: {mifgsm: <b>}\n",
    "explained": {
        "attack": "pgd",
        "eps": 8 / 255,
        "path": {"vector": "sum", "vectors": 3},
        "plane": {"merged": "ties"},
    },
}


def computed(outcomes: pd.DataFrame, accuracy: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The page's tables, rounded as the CSV files are."""
    tasks, targets = (
        sorted(set(outcomes["task"].astype(str))),
        sorted(set(outcomes["target"].astype(str)) & set(TARGETS)),
    )
    found = statistics.tables(outcomes, accuracy, bootstrap=60)
    found |= comparison.tables(outcomes, accuracy, bootstrap=60)
    found |= associations.tables(measured(tasks, targets), outcomes, "pgd", 8 / 255)
    text = {name: found[name].to_csv(index=False, float_format="%.6g") for name in page.TABLES}
    return {name: pd.read_csv(io.StringIO(csv)) for name, csv in text.items()}


def judged(outcomes: pd.DataFrame, accuracy: pd.DataFrame) -> dict[str, Any]:
    names = claims.Names(
        tasks=TASKS[:3],
        surrogates=["pretrained", "finetuned"],
        attacks=ORDER["attacks"],
        eps=[4 / 255, 8 / 255],
        targets=TARGETS,
        controls=["noise"],
        joint=["multitask"],
        bases={"weight_averaging_surgery": "weight_averaging", "ties_surgery": "ties"},
    )
    return claims.evaluate(claims.load(ROOT / "claims.yaml"), outcomes, accuracy, names, bootstrap=400)


def models() -> dict[str, dict[str, Any]]:
    """Metadata as the workflow's scripts write them."""
    recipe = {"steps": 123, "batch": 16, "lr": 0.002}
    trained = ["pretrained", *(f"finetuned/{task}" for task in TASKS[:3]), "multitask"]
    made: dict[str, dict[str, Any]] = {
        name: {"slice": {"recipe": recipe}, "facts": {"train_loss": 0.1234}, "inputs": {}} for name in trained
    }
    tried = [{"options": {"scale": s}, "validation_accuracy": s / 2} for s in (0.5, 0.75)]
    made["weight_averaging"] = {
        "slice": {"method": "average"},
        "facts": {"chosen": {}, "tried": [{"options": {}, "validation_accuracy": None}]},
        "inputs": {},
    }
    made["ties"] = {
        "slice": {"method": "ties"},
        "facts": {"chosen": {"scale": 0.75}, "tried": tried, "coefficients": {"a": [0.1, 0.9]}},
        "inputs": {},
    }
    for base in ("weight_averaging", "ties"):
        made[f"{base}_surgery"] = {
            "slice": {"options": {"rank": 16}},
            "facts": {"a": {"distance_before": 0.8, "distance_after": 0.4}},
            "inputs": {f"results/x/merged/{base}.safetensors": "0"},
        }
    return made


def example(**changes: Any) -> Example:
    clean = np.random.default_rng(0).random((1, 8, 8)).astype(np.float32)
    says = dict.fromkeys(TARGETS, "3") | {"ties": "5", "multitask": "5"}
    values = {"task": TASKS[0], "clean": clean, "adversarial": np.clip(clean + np.float32(8 / 255), 0, 1)}
    values |= {"label": "3", "surrogate": "5", "targets": says, "wrong_clean": frozenset(["multitask"])}
    return Example(**(values | changes))


@pytest.fixture(scope="module")
def study() -> tuple[pd.DataFrame, pd.DataFrame]:
    return synthetic(images=48, tasks=TASKS[:3], targets=TARGETS)


@pytest.fixture(scope="module")
def tables(study: Any) -> dict[str, pd.DataFrame]:
    return computed(*study)


@pytest.fixture(scope="module")
def evaluated(study: Any) -> dict[str, Any]:
    return judged(*study)


@pytest.fixture(scope="module")
def html(tables: Any, evaluated: Any) -> str:
    return page.render(
        tables, evaluated, [example(), example(task=TASKS[1], label="क")], models(), CONFIG, inputs={"a.csv": "00ff"}
    )


class Elements(HTMLParser):
    """Every element of a page, with its attributes and the text within."""

    VOID = ("meta", "link", "img", "br", "input", "rect", "line", "circle")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.stack: list[int] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs), []))
        if tag not in self.VOID:
            self.stack.append(len(self.all) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.all[self.stack.pop()][0] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        for k in self.stack:
            self.all[k][2].append(data)

    def text(self, identity: str) -> str:
        """What an element says, spaces made single."""
        ((_, _, parts),) = (entry for entry in self.all if entry[1].get("id") == identity)
        return " ".join("".join(parts).split())


@pytest.fixture(scope="module")
def elements(html: str) -> Elements:
    return Elements(html)


# ── whole in itself ─────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_loaded_from_elsewhere(html: str, elements: Elements) -> None:
    for tag, attributes, _ in elements.all:
        for key in ("src", "href", "srcset", "action", "data", "poster", "background"):
            if key in attributes:
                assert (attributes[key] or "").startswith(("#", "data:")), f"<{tag} {key}={attributes[key]}>"
    style = (page.FOLDER / "page.css").read_text()
    assert "url(" not in style and "@import" not in style
    (policy,) = (a["content"] for _, a, _ in elements.all if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none';") and "http" not in policy
    assert len(html.encode()) < 2_000_000


def test_names_with_markup_stay_names(elements: Elements) -> None:
    assert [a["id"] for _, a, _ in elements.all if a.get("id") == "evil"] == []
    assert sum(tag == "script" for tag, _, _ in elements.all) == 3
    assert "<b>" in elements.text("study-file")


def test_equal_inputs_give_equal_bytes_and_too_many_are_refused(html: str, tables: Any, evaluated: Any) -> None:
    again = [example(), example(task=TASKS[1], label="क")]
    shuffled = {name: table.sample(frac=1, random_state=1) for name, table in tables.items()}
    assert page.render(shuffled, evaluated, again, models(), CONFIG, inputs={"a.csv": "00ff"}) == html
    with pytest.raises(StudyError, match=r"the page of the study 'synthetic' has \d+ bytes, more than 1000"):
        page.render(tables, evaluated, [], models(), CONFIG, limit=1000)


def test_structure_for_screen_readers(elements: Elements) -> None:
    identities = [a["id"] for _, a, _ in elements.all if "id" in a]
    assert len(identities) == len(set(identities))
    for tag, attributes, _ in elements.all:
        for name in (attributes.get("aria-labelledby") or "").split():
            assert name in identities, f"<{tag}> is named by {name}, which is not there"
        if tag == "a":
            assert (attributes["href"] or "#")[1:] in identities
        if tag == "img":
            assert attributes["alt"]
        if tag == "th":
            assert attributes["scope"] in ("col", "row")
        if "tabindex" in attributes and attributes["tabindex"] == "0":
            assert attributes["role"] == "region" and ("aria-label" in attributes or "aria-labelledby" in attributes)
    headings = [int(tag[1]) for tag, _, _ in elements.all if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))
    assert {"header", "nav", "main"} <= {tag for tag, _, _ in elements.all}
    assert elements.all[0][1]["lang"] == "en"


def luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_contrast_as_wcag_asks(theme: int) -> None:
    pairs = re.findall(r"--([a-z]+): light-dark\((#\w{6}), (#\w{6})\)", (page.FOLDER / "page.css").read_text())
    colours = {name: both[theme] for name, *both in pairs}

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(colours[one]), luminance(colours[other])))
        return (high + 0.05) / (low + 0.05)

    for text in ("ink", "muted", "link"):
        for ground in ("paper", "raised"):
            assert contrast(text, ground) >= 4.5, f"{text} on {ground}"
    for mark in ("supported", "contradicted", "undecided"):
        assert contrast(mark, "paper") >= 3, mark


def test_colours_are_those_of_the_figures() -> None:
    import seaborn as sns

    assert list(page.PALETTE) == list(sns.color_palette("colorblind").as_hex())
    assert list(page.SCALE) == list(sns.color_palette("rocket_r", len(page.SCALE)).as_hex())


# ── its numbers ─────────────────────────────────────────────────────────────────────────────────────────────


def test_every_claim_stands_there_with_its_verdict(elements: Elements, evaluated: Any) -> None:
    assert {claim["verdict"] for claim in evaluated["claims"]} == {"supported", "contradicted", "undecided"}
    for claim in evaluated["claims"]:
        said = elements.text(f"claim-{claim['name']}")
        assert claim["verdict"].capitalize() in said
        assert claim["text"] in said and claim["source"] in said and claim["reason"] in said
        if claim["effect"] is None:
            assert "Not tested" in said
            continue
        scale, digits = (1, 2) if claim["test"] == "trend" or claim["measure"] == "relative" else (100, 1)
        for key in ("effect", "low", "high"):
            assert f"{abs(scale * claim[key]):.{digits}f}" in said, (claim["name"], key)
        assert f"n (rows)</dt><dd>{claim['n']}".rpartition(">")[2] in said
        assert f"{claim['tasks_agreeing']} of {claim['tasks']}" in said
        p = claim["p_adjusted"]
        assert (f"{p:.3f}" if p >= 0.001 else "< 0.001") in said
    counts = page.verdicts.counted(evaluated)
    heading = elements.text("claims-title")
    assert all(f"{count} {verdict}" in heading for verdict, count in counts.items())
    assert sum(counts.values()) == len(evaluated["claims"])


@pytest.mark.parametrize(
    ("test", "measure", "value", "said"),
    [
        ("share", "excess", 0.724107, "72.4\u00a0%"),
        ("share", "relative", 0.5, "50.0\u00a0%"),
        ("level", "relative", 0.540168, "0.54"),
        ("level", "transfer_asr", 0.25, "25.0\u00a0%"),
        ("level", "excess", -0.25, "−25.0\u00a0%"),
        ("difference", "transfer_asr", -0.0934018, "−9.3\u00a0points"),
        ("difference", "relative", 0.5, "+0.50"),
        ("extreme", "transfer_asr", 0.0387, "+3.9\u00a0points"),
        ("trend", "transfer_asr", -0.490393, "−0.49"),
        ("trend", "transfer_asr", None, "–"),
    ],
)
def test_effects_in_words(test: str, measure: str, value: float, said: str) -> None:
    assert page.verdicts.quantity({"test": test, "measure": measure}, value) == said


def test_the_strip_puts_the_margin_in_the_middle() -> None:
    claim = {"low": 0.6, "high": 1.0, "effect": 0.8, "margin": 0.5}
    drawn = page.verdicts.strip(claim, width=230)
    assert drawn is not None
    # reach 1.15 · 0.5: the farthest end is at 115 + 100
    assert [drawn[key] for key in ("low", "effect", "high", "middle")] == [135.0, 175.0, 215.0, 115.0]
    assert page.verdicts.strip({**claim, "low": None}) is None


def test_the_answer_is_the_range_over_merged_models() -> None:
    rows = [
        ("pretrained", 0.1, "ties", "both", 0.2, 0.5), ("pretrained", 0.1, "average", "both", 0.4, 0.8),
        ("pretrained", 0.1, "average", "all", 0.9, 0.9), ("pretrained", 0.1, "multitask", "both", 0.01, 0.1),
        ("pretrained", 0.05, "ties", "both", 0.1, 0.3), ("ties", 0.1, "ties", "both", 0.7, 1.0),
        ("pretrained", np.nan, "ties", "both", 0.05, 0.05),
    ]  # fmt: skip
    methods = pd.DataFrame(rows, columns=["surrogate", "eps", "target", "denominator", "transfer_asr", "relative"])
    noise = pd.DataFrame(
        [("pretrained", "noise", 0.1, "ties", "both", 0.02), ("pretrained", "pgd", 0.1, "ties", "both", 0.5)],
        columns=["surrogate", "attack", "eps", "target", "denominator", "transfer_asr"],
    )
    order = figures.Order(surrogates=["pretrained"], controls=["noise"])
    found = page.explore.answer(
        {"relative_by_method.csv": methods, "rates_by_target.csv": noise}, ["ties", "average"], order
    )
    assert found is not None
    said = {
        line["name"]: [cell and (cell["rates"], cell["ratio"]) for cell in line["cells"]] for line in found["lines"]
    }
    assert found["eps"] == ["0.05", "25.5/255", "no budget"]
    assert said["crafted on pretrained"][1] == ("20.0–40.0\u00a0%", "0.50–0.80")
    assert said["crafted on pretrained"][2] == ("5.0–5.0\u00a0%", "0.05–0.05")
    assert said["crafted on the merged model itself"] == [None, ("70.0–70.0\u00a0%", ""), None]
    assert said["random noise of the same size"][1] == ("2.0–2.0\u00a0%", "")
    assert "crafted on pretrained in 20.0–40.0\u00a0%" in found["lead"]
    assert (
        page.explore.answer({"relative_by_method.csv": methods[:0], "rates_by_target.csv": noise}, ["ties"], order)
        is None
    )


def content(html: str) -> dict[str, Any]:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_what_the_plots_are_drawn_from_is_every_row_of_the_tables(html: str, tables: Any) -> None:
    data = content(html)
    denominators = [entry["name"] for entry in data["denominators"]]
    names = {key: [entry["name"] for entry in data[key]] for key in ("tasks", "models", "attacks", "targets")}
    seen = {}
    for task, surrogate, attack, eps, target, *values in data["cells"]:
        key = ("(all)" if task < 0 else names["tasks"][task], names["models"][surrogate], names["attacks"][attack],
               data["eps"][eps], names["targets"][target])  # fmt: skip
        assert key not in seen
        seen[key] = {d: dict(zip(data["rates"], values[9 * k :], strict=False)) for k, d in enumerate(denominators)}
    checked = 0
    for rates, ratios in (
        ("rates_by_cell.csv", "relative_by_cell.csv"),
        ("rates_by_target.csv", "relative_by_target.csv"),
    ):
        for rows, columns in (
            (tables[rates], {c: c for c in ("asr", "transfer_asr", "low", "high", "unchanged")}),
            (tables[ratios], {"relative": "relative", "relative_low": "low", "relative_high": "high"}),
        ):
            for row in rows.to_dict("records"):
                key = (
                    row.get("task", "(all)"),
                    row["surrogate"],
                    row["attack"],
                    figures.budget(row["eps"]),
                    row["target"],
                )
                shown = seen[key][row["denominator"]]
                assert shown["n"] == row["n"]
                for ours, theirs in columns.items():
                    if np.isnan(row[theirs]):
                        assert shown[ours] is None
                    else:
                        assert shown[ours] / 10_000 == pytest.approx(row[theirs], abs=5.1e-5), (key, ours)
                checked += 1
    assert checked == 2 * (len(tables["rates_by_cell.csv"]) + len(tables["rates_by_target.csv"]))
    assert len(seen) * len(denominators) * 2 == checked

    methods = {
        (names["models"][row[0]], data["eps"][row[1]], names["targets"][row[2]], d): row[3 + 8 * k : 11 + 8 * k]
        for row in data["methods"]
        for k, d in enumerate(denominators)
    }
    table = tables["relative_by_method.csv"]
    assert len(methods) == len(table)
    for row in table.to_dict("records"):
        n, images, transfer, *_, relative, low, high = methods[
            row["surrogate"], figures.budget(row["eps"]), row["target"], row["denominator"]
        ]
        assert (n, images) == (row["n"], row["images"])
        for value, column in ((transfer, "transfer_asr"), (relative, "relative"), (low, "low"), (high, "high")):
            assert value is None if np.isnan(row[column]) else value / 10_000 == pytest.approx(row[column], abs=5.1e-5)


def test_a_large_study_has_one_denominator_by_task(
    html: str, tables: Any, evaluated: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, browser: Any
) -> None:
    monkeypatch.setattr(page.explore, "WHOLE", 100)
    monkeypatch.setattr(page.compared, "PAIRS", 100)
    monkeypatch.setattr(page.verdicts, "CASES", 100)
    less = page.render(tables, evaluated, [], models(), CONFIG)
    whole, cut = content(html)["cells"], content(less)["cells"]
    assert len(cut) == len(whole) > 100
    for before, after in zip(whole, cut, strict=True):
        assert after == (before if before[0] < 0 else before[:5] + before[5 + 2 * 9 : 5 + 3 * 9])
    assert content(less)["pairs"]["settings"] == ["All attacks together"]
    assert "Too many to list here" in less
    (tmp_path / "index.html").write_text(less, encoding="utf-8")
    tab = Tab(browser, tmp_path / "index.html")
    tab.choose(task=TASKS[0])
    assert "transfer ASR" in tab.page.inner_text("#cell")
    tab.choose(denominator="all")
    assert "holds the denominator “both” alone" in tab.page.inner_text("#cell")
    assert tab.complaints == []


def test_comparisons_are_those_of_the_tables(html: str, tables: Any) -> None:
    data, order = content(html), figures.Order(**ORDER)
    ranks = tables["comparison_ranks.csv"]
    assert len(data["ranks"]) == len(ranks.groupby(["surrogate", "unit"]))
    for shown in data["ranks"]:
        rows = ranks[(ranks["surrogate"] == shown["surrogate"]) & (ranks["unit"] == shown["unit"])]
        mean = dict(zip(map(order.label, rows["target"]), rows["mean_rank"], strict=True))
        assert dict(zip(shown["targets"], shown["ranks"], strict=True)) == pytest.approx(mean, abs=1e-4)
        assert shown["ranks"] == sorted(shown["ranks"])
        together = {
            (a, b) for first, last in shown["cliques"] for a in range(first, last + 1) for b in range(a, last + 1)
        }
        near = {(a, b) for a in range(len(rows)) for b in range(a, len(rows))
                if shown["ranks"][b] - shown["ranks"][a] <= shown["critical_distance"]}  # fmt: skip
        assert together | {(k, k) for k in range(len(rows))} == near

    sent = data["pairs"]
    seen = {}
    for surrogate, setting, a, b, *values in sent["rows"]:
        key = sent["surrogates"][surrogate], sent["settings"][setting], sent["targets"][a], sent["targets"][b]
        seen[key] = dict(zip(sent["columns"], values, strict=True))
    table = tables["comparison_pairs.csv"]
    assert len(seen) == len(table) and sent["settings"][0] == "All attacks together"
    for row in table.to_dict("records"):
        within = "no budget" if np.isnan(row["eps"]) else f"ε\u00a0=\u00a0{figures.budget(row['eps'])}"
        named = "All attacks together" if row["attack"] == "(all)" else f"{order.label(row['attack'])}, {within}"
        shown = seen[row["surrogate"], named, row["a"], row["b"]]
        assert shown["difference"] / 1e4 == pytest.approx(row["difference"], abs=5.1e-5)
        assert shown["p_holm"] / 1e6 == pytest.approx(row["p_holm"], abs=5.1e-7)
        assert (shown["images"], shown["tasks_a_higher"]) == (row["images"], row["tasks_a_higher"])

    rows = data["regression"]["rows"]
    assert [row["term"] for row in rows] == ["Target"] * 4 + ["Crafted on"] + ["Attack"] * 5 + [
        "ε doubled",
        "10 points more accuracy",
    ]
    model = tables["comparison_model.csv"].query("model == 'mixed'").set_index(["term", "level"])
    pgd = next(row for row in rows if row["level"] == "pgd")
    odds, low, high, _ = pgd["estimates"]["mixed"]
    wanted = model.loc[("attack", "pgd")]
    assert (odds, low, high) == pytest.approx(np.exp([wanted["estimate"], wanted["low"], wanted["high"]]), rel=1e-3)
    assert pgd["reference"] == wanted["reference"] == "autopgd"


def test_explanations_are_those_of_the_tables(html: str, tables: Any) -> None:
    sent = content(html)["explained"]
    table = tables["explanations_by_cell.csv"]
    names = [measure["name"] for measure in sent["measures"]]
    packed = {(sent["task"][t], sent["surrogate"][s], sent["target"][g]): rest for t, s, g, *rest in sent["cells"]}
    order, beyond = figures.Order(**ORDER), 0
    for row in table.to_dict("records"):
        values, rates = packed[row["task"], row["surrogate"], row["target"]]
        within = "no budget" if np.isnan(row["eps"]) else f"ε\u00a0=\u00a0{figures.budget(row['eps'])}"
        rate, n = rates[sent["settings"].index(f"{order.label(row['attack'])}, {within}")]
        assert rate == pytest.approx(row["transfer_asr"], rel=1e-3) and n == row["n"]
        for name, value in zip(names, values, strict=True):
            if np.isinf(row[name]):
                assert value == "inf"
                beyond += 1
            elif not np.isnan(row[name]):
                assert value == pytest.approx(row[name], rel=1e-3)
    assert beyond > 0
    correlation = (
        tables["explanations_correlation.csv"].fillna({"given": ""}).set_index(["attack", "eps", "measure", "given"])
    )
    at = sent["settings"].index("pgd, ε\u00a0=\u00a08/255")
    eps = next(value for value in table["eps"] if figures.budget(value) == "8/255")
    for given, numbers in zip(sent["given"], sent["correlations"][at]["cka_features"], strict=True):
        assert numbers == pytest.approx(
            correlation.loc["pgd", eps, "cka_features", given][["rho", "lowest", "highest"]].tolist(), rel=1e-3
        )
    path = tables["explanations_path.csv"]
    assert [row[:2] for row in sent["path"]] == [
        [s, n] for s in sorted(set(path["scale"])) for n in ("finetuned", "pretrained")
    ]


def test_the_cases_behind_a_verdict_are_counted_by_hand() -> None:
    rows = [
        ["a", "finetuned", "pgd", 0.1, name, n, s, t] for name, n, s, t in (("ties", 10, 8, 4), ("multitask", 10, 5, 7))
    ]
    rows += [["b", "finetuned", "pgd", 0.1, "ties", 20, 10, 10], ["b", "finetuned", "pgd", 0.1, "multitask", 0, 0, 0]]
    columns = ["task", "surrogate", "attack", "eps", "target", "n", "surrogate_fooled", "target_fooled"]
    common = {"denominator": "both", "direction": "greater", "margin": 0}
    share = {"name": "share", "test": "share", "measure": "excess", "holds": "at_most", **common} | {
        "cases": [{"a": [k], "b": [], "value": v} for k, v in ((0, -0.4), (1, 0.2), (2, 0.0), (3, None))]
    }
    pair = {"name": "pair", "test": "difference", "measure": "transfer_asr", **common} | {
        "cases": [{"a": [0], "b": [1], "value": -0.3}]
    }
    level = {"name": "level", "test": "level", "measure": "relative", **common, "margin": 0.95} | {
        "cases": [{"a": [0, 1, 2, 3], "b": [], "value": 0.91}]
    }
    untested = {**pair, "name": "untested", "cases": []}
    evaluated = {"claims": [share, pair, level, untested], "cells": {"both": {"columns": columns, "rows": rows}}}
    said, sent = page.verdicts.behind(evaluated, figures.Order(labels={"ties": "TIES"}))

    def listed(name: str, names: int) -> list[list[Any]]:
        return [[*(sent["texts"][k] for k in row[:names]), *row[names:]] for row in sent["claims"][name]["rows"]]

    assert [(entry.get("agreeing"), entry["of"], entry.get("total")) for entry in said] == [
        (2, 3, 4), (0, 1, 1), (2, 3, 4), (None, 0, None)
    ]  # fmt: skip
    assert said[0]["by"] == [
        {"axis": "Task", "counts": [["a", 1, 2], ["b", 1, 1]]},
        {"axis": "Target", "counts": [["multitask", 0, 1], ["TIES", 2, 2]]},
    ]
    assert listed("share", 5)[1] == ["a", "finetuned", "pgd", "25.5/255", "multitask", 2000, 10]
    assert sent["claims"]["pair"]["axes"] == ["Task", "Crafted on", "Attack", "Budget"]
    assert listed("pair", 6) == [["a", "finetuned", "pgd", "25.5/255", "TIES", "multitask", 4000, 7000, -3000, 10]]
    assert [row[-2:] for row in listed("level", 5)] == [[5000, 10], [14000, 10], [10000, 20], [None, 0]]
    assert said[2]["noun"] == "cells" and "untested" not in sent["claims"]


def test_a_verdicts_cases_make_its_effect(html: str, evaluated: Any) -> None:
    said, sent = page.verdicts.behind(evaluated, figures.Order(**ORDER))
    for claim, found in zip(evaluated["claims"], said, strict=True):
        if claim["test"] == "share":
            assert found["agreeing"] / found["of"] == pytest.approx(claim["effect"], rel=1e-5)
            for axis in found["by"]:
                assert [sum(column) for column in zip(*(count[1:] for count in axis["counts"]), strict=True)] == [
                    found["agreeing"], found["of"]
                ]  # fmt: skip
        if claim["cases"]:
            assert len(sent["claims"][claim["name"]]["rows"]) == found["total"] >= claim["n_cases"]
            assert f"cases-{claim['name']}" in html


@pytest.fixture(scope="module")
def two_seeds(study: Any, tables: Any) -> dict[str, pd.DataFrame]:
    """The tables of a study whose second seed is another draw of everything."""
    outcomes, accuracy = study
    other, again = synthetic(images=48, tasks=TASKS[:3], targets=TARGETS, seed=1)
    both = pd.concat([outcomes.assign(seed=0), other.assign(seed=5)], ignore_index=True)
    by_seed = statistics.seeds(
        statistics.without_controls(both, ["noise"]), pd.concat([accuracy.assign(seed=0), again.assign(seed=5)])
    )
    found = {"seeds.csv": by_seed, "seeds_spread.csv": statistics.spread(by_seed)}
    return tables | {
        name: pd.read_csv(io.StringIO(table.to_csv(index=False, float_format="%.6g"))) for name, table in found.items()
    }


def test_seeds_are_those_of_the_tables_and_one_is_said_to_be_one(html: str, elements: Elements, two_seeds: Any) -> None:
    assert "one seed of fine-tuning (0)" in elements.text("seeds") and content(html)["seeds"]["rows"] == []
    sent = page.seeds.seeds(two_seeds, figures.Order(**ORDER))
    assert sent["seeds"] == [0, 5]
    rows = {tuple(row[:5]): row[5:] for row in sent["rows"]}
    key = ("relative", "ties", "finetuned", "8/255", "fooled")
    of = "quantity == 'relative' and model == 'ties' and surrogate == 'finetuned' and denominator == 'fooled'"
    each = two_seeds["seeds.csv"].query(of)
    each = each[each["eps"].map(figures.budget) == "8/255"].set_index("seed")["value"]
    values, (mean, sd, low, high) = rows[key]
    assert values == pytest.approx([each[0], each[5]], abs=5e-5)
    assert (mean, sd) == pytest.approx((each.mean(), each.std()), abs=1e-4) and low < mean < high
    assert ("accuracy", "ties", "", "", "") in rows and not any(name[1] == name[2] for name in rows)


def test_models_say_how_they_were_made(html: str, tables: Any) -> None:
    order = figures.Order(**ORDER)
    trained = page.making.training(models(), tables, order)
    assert [row["name"] for row in trained] == ["pretrained", *(f"finetuned: {t}" for t in TASKS[:3]), "multitask"]
    assert {(row["steps"], row["batch"], row["lr"], row["loss"]) for row in trained} == {(123, 16, "0.002", "0.123")}
    foreign = {"finetuned/net/letters": models()["pretrained"], "finetuned/bait": models()["pretrained"]}
    assert [(row["name"], row["accuracy"]) for row in page.making.training(foreign, tables, order)] == [
        ("net: letters", "–"),
        ("finetuned: bait", "–"),
    ]
    accuracy = tables["accuracy.csv"].query("model == 'finetuned' and split == 'test'").set_index("task")["accuracy"]
    assert trained[1]["accuracy"] == f"{100 * accuracy[TASKS[0]]:.1f}\u00a0%"
    made = {row["name"]: row for row in page.making.merging(models(), MERGED, tables, order)}
    assert made["ties"]["chosen"] == "scale 0.75" and made["ties"]["validation"] == "37.5\u00a0%"
    assert [entry["options"] for entry in made["ties"]["tried"]] == ["scale 0.5", "scale 0.75"]
    assert made["ties"]["more"] == ["coefficients 0.1 to 0.9"]
    assert made["weight averaging"]["tried"] == [] and made["weight averaging"]["chosen"] == "none"
    assert made["TIES + surgery"]["method"] == "surgery on ties" and made["TIES + surgery"]["chosen"] == "rank 16"
    assert "0.8 before" in made["TIES + surgery"]["more"][0] and "0.4 after" in made["TIES + surgery"]["more"][0]


def test_images_that_were_left_out_are_counted(html: str, tables: Any, evaluated: Any) -> None:
    data = {TASKS[0]: {"facts": {"skipped": {"train": ["a.png: …", "b.png: …"], "attack": ["c.png: …"]}}}, TASKS[1]: {}}
    found = page.render(tables, evaluated, [], models(), CONFIG, data=data)
    said = "name: " + figures.Order(**ORDER).label(TASKS[0]) + " 3 (2 of train, 1 of attack)."
    assert said in found
    assert "corrupt: skip" not in html


def test_pictures_are_the_images() -> None:
    image = example().clean
    head, _, body = page.gallery.image_uri(image).partition(",")
    assert head == "data:image/png;base64"
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))
    assert np.array_equal(shown, np.rint(255 * image[0]))
    photo = np.linspace(0, 1, 3 * 224 * 224, dtype=np.float32).reshape(3, 224, 224)
    head, _, body = page.gallery.image_uri(photo).partition(",")
    assert head == "data:image/webp;base64" and len(body) < 20_000
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))).transpose(2, 0, 1) / 255
    assert np.abs(shown - photo).max() < 0.05


def test_the_gallery_says_who_is_right_and_who_was_wrong_before() -> None:
    found = page.gallery.gallery([example(), example(task=TASKS[1], label="क")], figures.Order(**ORDER))
    assert found["factor"] == 15  # 0.5 / (8 / 255)
    states = {answer["model"]: answer["state"] for answer in found["rows"][0]["answers"]}
    assert states["ties"] == "wrong" and states["multitask"] == "wrong before" and states["TIES + surgery"] == "right"
    assert (found["rows"][0]["fooled"], found["rows"][0]["targets"]) == (1, len(states) - 2)
    assert found["rows"][1]["label"] == "क (ka)"
    assert page.gallery.gallery([], figures.Order()) == {"rows": [], "factor": 1}


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *(ROOT / "studies").glob("*.yaml")], ids=lambda p: p.name)
def test_the_study_on_the_page_is_the_study(path: Path) -> None:
    study = load(path)
    assert Study.model_validate(yaml.safe_load(study.page_slice()["study"])) == study
    assert set(study.page_models().values()) <= set(study.artifacts())


# ── in a browser ────────────────────────────────────────────────────────────────────────────────────────────

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        reason = "no Chromium here (apt-get install chromium)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """The page in a browser tab, and everything it complained of or asked for."""

    def __init__(self, browser: Any, path: Path, width: int = 1200, scheme: str = "light") -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        self.page = context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.settle()

    def settle(self) -> None:
        self.page.wait_for_selector("body[data-drawn=yes]", timeout=30_000)

    def choose(self, **choices: str) -> None:
        for control, value in choices.items():
            self.page.select_option(f"#{control}", value)
            self.settle()

    def written(self, plot: str) -> list[str]:
        """The numbers in a heatmap's cells, row by row."""
        return self.page.locator(f"#{plot}-plot svg g.mark-text.role-mark text").all_text_contents()

    def table(self, plot: str) -> list[list[str]]:
        script = "t => [...t.rows].map(r => [...r.cells].map(c => c.textContent))"
        return self.page.locator(f"#{plot}-table table").evaluate(script)


@pytest.fixture(scope="module")
def saved(html: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tab(browser: Any, saved: Path) -> Tab:
    return Tab(browser, saved)


def rounds(shown: list[str], values: Any, digits: int) -> bool:
    """Whether each text is its number to some digits; the page holds four, and halves may go either way."""
    assert all(len(text.partition(".")[2]) == digits for text in shown)
    return np.allclose([float(text) for text in shown], list(values), rtol=0, atol=0.5 * 10.0**-digits + 0.0051)


def rates(tables: Any, **wanted: Any) -> pd.DataFrame:
    name = "rates_by_cell.csv" if "task" in wanted else "rates_by_target.csv"
    rows = tables[name].assign(eps=tables[name]["eps"].map(figures.budget))
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    return rows.set_index("target").loc[TARGETS].reset_index()


def test_choices_change_the_plots_to_what_the_tables_say(tab: Tab, tables: Any) -> None:
    seen = set()
    for surrogate, eps, denominator, attack, task in (
        ("finetuned", "8/255", "both", "pgd", TASKS[0]),
        ("pretrained", "8/255", "both", "pgd", TASKS[0]),
        ("pretrained", "4/255", "both", "pgd", TASKS[0]),
        ("pretrained", "4/255", "all", "pgd", TASKS[0]),
        ("pretrained", "4/255", "all", "fgsm", TASKS[0]),
        ("pretrained", "4/255", "all", "fgsm", TASKS[2]),
        ("pretrained", "no budget", "fooled", "cw", TASKS[1]),
    ):
        tab.choose(surrogate=surrogate, eps=eps, denominator=denominator, attack=attack, task=task)
        common = {"surrogate": surrogate, "eps": eps, "denominator": denominator}
        columns = [rates(tables, **common, attack=attack)]
        columns += [rates(tables, **common, attack=attack, task=name) for name in TASKS[:3]]
        wanted = [100 * column["transfer_asr"][k] for k in range(len(TARGETS)) for column in columns]
        assert rounds(tab.written("tasks"), wanted, 0)
        seen.add(tuple(tab.written("attacks")))
        cell = rates(tables, **common, attack=attack, task=task).set_index("target").loc[TARGETS[0]]
        said = tab.page.inner_text("#cell")
        assert rounds(re.findall(r"transfer ASR ([\d.]+)", said), [100 * cell["transfer_asr"]], 1)
        assert rounds(re.findall(r"interval ([\d.]+)", said), [100 * cell["low"]], 1) and f"n = {cell['n']}." in said
        shown = [re.fullmatch(r"([\d.]+)\u00a0% \(n = (\d+)\)", row[1]) for row in tab.table("tasks")[1:]]
        assert rounds([found[1] for found in shown], 100 * columns[0]["transfer_asr"], 1)
        assert [int(found[2]) for found in shown] == columns[0]["n"].tolist()
    assert len(seen) == 6  # each choice but the attack's changes the plot by attack
    assert tab.complaints == []
    assert len(tab.requests) == 1
    assert tab.page.locator("#evil").count() == 0


def test_methods_are_ranked_by_what_the_table_says(tab: Tab, tables: Any) -> None:
    table = tables["relative_by_method.csv"]
    for measure, denominator in (("transfer_asr", "both"), ("relative", "target")):
        tab.choose(surrogate="finetuned", eps="8/255", denominator=denominator, measure=measure)
        rows = table[(table["denominator"] == denominator) & (table["surrogate"] == "finetuned")]
        rows = rows[rows["eps"].map(figures.budget) == "8/255"].sort_values(measure, ascending=False)
        shown = tab.table("ranking")
        assert [row[0] for row in shown[1:]] == [figures.Order(**ORDER).label(name) for name in rows["target"]]
        scale, digits = (100, 1) if measure == "transfer_asr" else (1, 2)
        column = shown[0].index("crafted on finetuned")
        assert rounds([row[column].split("\u00a0")[0] for row in shown[1:]], scale * rows[measure], digits)
        assert tab.page.locator("#ranking-plot svg g.mark-symbol.role-mark path").count() == 2 * len(TARGETS)
    tab.choose(measure="transfer_asr", denominator="both")
    names = [figures.Order(**ORDER).label(name) for name in TARGETS]
    drawn = tab.page.locator("#scatter-plot svg g.mark-text.role-mark text").all_text_contents()
    assert set(drawn) - {""} <= set(names) and len(set(drawn) - {""}) >= 3


def test_a_click_on_a_cell_chooses_it(tab: Tab) -> None:
    tab.choose(surrogate="finetuned", eps="4/255", attack="pgd", target="weight_averaging")
    row, column = TARGETS.index("ties"), 1
    attacks = tab.page.locator("#attack option").count()
    tab.page.locator("#attacks-plot svg g.mark-text.role-mark text").nth(row * attacks + column).click()
    tab.settle()
    assert tab.page.input_value("#target") == "ties"
    assert tab.page.input_value("#attack") == tab.page.locator("#attack option").nth(column).get_attribute("value")
    assert tab.page.inner_text("#cell").startswith("ties")


def test_the_white_box_is_a_surrogate_too(tab: Tab, tables: Any) -> None:
    tab.choose(surrogate="(itself)", task="(all)")
    assert tab.page.locator("#attack option").all_inner_texts() == ["pgd"]
    rows = tables["rates_by_target.csv"]
    rows = rows[(rows["surrogate"] == rows["target"]) & (rows["denominator"] == "both")]
    rows = rows[rows["eps"].map(figures.budget) == tab.page.input_value("#eps")].set_index("target")
    assert rounds(tab.written("attacks"), [100 * rows["transfer_asr"][name] for name in TARGETS], 0)
    assert tab.complaints == []


def test_comparisons_follow_their_choices(tab: Tab, tables: Any) -> None:
    pairs = tables["comparison_pairs.csv"]
    seen = set()
    for surrogate, setting, attack, eps in (
        ("finetuned", "0", "(all)", None),
        ("pretrained", "0", "(all)", None),
        ("pretrained", "1", "fgsm", "4/255"),
    ):
        tab.choose(**{"compared-surrogate": surrogate, "compared-setting": setting})
        rows = pairs[(pairs["surrogate"] == surrogate) & (pairs["attack"] == attack)]
        rows = rows[rows["eps"].map(figures.budget) == eps] if eps else rows
        shown = {frozenset(row[:2]): float(row[2].replace("−", "-")) for row in tab.table("pairs")[1:]}
        label = figures.Order(**ORDER).label
        for row in rows.itertuples():
            assert abs(shown[frozenset([label(row.a), label(row.b)])]) == pytest.approx(
                abs(100 * row.difference), abs=0.06
            )
        assert tab.page.locator("#pairs-plot svg g.mark-rect.role-mark path").count() == 2 * len(rows) == 2 * len(shown)
        seen.add(tuple(tab.written("pairs")))
    assert len(seen) == 3
    over_tasks = tab.table("ranks")
    tab.choose(**{"compared-unit": "cell"})
    ranks = (
        tables["comparison_ranks.csv"].query("surrogate == 'pretrained' and unit == 'cell'").sort_values("mean_rank")
    )
    assert [row[2] for row in tab.table("ranks")[1:]] == [f"{rank:.2f}" for rank in ranks["mean_rank"]]
    assert tab.table("ranks") != over_tasks
    assert tab.page.locator("#ranks-plot svg g.mark-symbol.role-mark path").count() == len(TARGETS)
    fitted = tables["comparison_model.csv"]
    terms = fitted[~fitted["term"].isin(["constant", "sd of image"]) & fitted["low"].notna()]
    assert tab.page.locator("#regression-plot svg g.mark-symbol.role-mark path").count() == len(terms)
    assert tab.complaints == []


def test_explanations_follow_their_choices(tab: Tab, tables: Any) -> None:
    cells, rho = tables["explanations_by_cell.csv"], tables["explanations_correlation.csv"].fillna({"given": ""})
    seen = set()
    for measure, setting, attack, eps in (
        ("gradient_cosine", "pgd, ε\u00a0=\u00a08/255", "pgd", "8/255"),
        ("boundary_ratio", "pgd, ε\u00a0=\u00a08/255", "pgd", "8/255"),
        ("cka_features", "cw, no budget", "cw", "no budget"),
    ):
        tab.page.select_option("#explained-setting", label=setting)
        tab.choose(**{"explained-measure": measure})
        rows = cells[(cells["attack"] == attack) & (cells["eps"].map(figures.budget) == eps) & (cells["n"] > 0)]
        drawn = tab.page.locator("#alignment-plot svg g.mark-symbol.role-mark path")
        assert drawn.count() == len(rows) == len(tab.table("alignment")) - 1
        shown = sorted(row[4].removesuffix("\u00a0%") for row in tab.table("alignment")[1:])
        assert np.allclose(np.sort(np.array(shown, dtype=float)), np.sort(100 * rows["transfer_asr"]), atol=0.06)
        seen.add(drawn.first.get_attribute("transform"))
        whole = rho[
            (rho["attack"] == attack) & (rho["eps"].map(figures.budget) == eps) & (rho["measure"] == measure)
        ].set_index("given")["rho"]
        said = re.findall(
            r"Rank correlation (−?[\d.]+); partial, given [^:]*: (−?[\d.]+)", tab.page.inner_text("#alignment-caption")
        )
        assert [float(text.replace("−", "-")) for text in said[0]] == pytest.approx(
            [whole.iloc[0], whole.iloc[-1]], abs=0.0051
        )
    assert len(seen) == 3
    before = drawn.first.get_attribute("fill")
    tab.choose(**{"explained-colour": "target"})
    assert drawn.nth(3).get_attribute("fill") != before
    assert tab.page.locator("#alignment-legend li").count() == 2 + len(TARGETS)
    assert tab.page.locator("#dose-plot svg").count() == 4 and tab.page.locator("#path-plot svg").count() == 4
    assert len(tab.table("plane")) == 1 + 9
    assert tab.complaints == []


def test_plots_drawn_again_are_as_wide_as_before(browser: Any, saved: Path) -> None:
    tab = Tab(browser, saved)
    widths = "[...document.querySelectorAll('.plot svg')].map(e => e.getBoundingClientRect().width)"
    before = tab.page.evaluate(widths)
    for _ in range(2):
        tab.page.click("#theme")
        tab.settle()
    assert tab.page.evaluate(widths) == pytest.approx(before, abs=1) and len(before) > 10


def test_every_case_of_a_verdict_is_listed_when_asked_for(tab: Tab, evaluated: Any) -> None:
    claim = next(claim for claim in evaluated["claims"] if claim["test"] == "share")
    place = tab.page.locator(f"#cases-{claim['name']}")
    assert place.locator("tr").count() == 0
    tab.page.locator(f"details[data-claim={claim['name']}] summary").click()
    place.locator("tr").first.wait_for()
    assert place.locator("tr").count() == 1 + claim["n_cases"]
    assert tab.complaints == []


def test_seeds_are_marked_one_by_one(browser: Any, two_seeds: Any, evaluated: Any, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(page.render(two_seeds, evaluated, [], models(), CONFIG), encoding="utf-8")
    tab = Tab(browser, tmp_path / "index.html", 360)
    assert tab.page.locator("#trained-plot svg g.mark-rect.role-mark path").count() == 2 * len(TARGETS)
    assert tab.page.locator("#seeds-plot svg g.mark-rect.role-mark path").count() == 2 * 2 * len(TARGETS)
    before = tab.table("seeds")
    assert before[0] == ["Model", "crafted on", "seed 0", "seed 5", "mean", "sd", "95\u00a0% interval"]
    tab.choose(measure="relative")
    assert tab.table("seeds") != before
    tab.page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")
    assert tab.page.evaluate("document.documentElement.scrollWidth") == 360
    assert tab.complaints == []


def test_the_keyboard_reaches_everything_and_shows_where_it_is(browser: Any, saved: Path) -> None:
    tab = Tab(browser, saved)
    reached: list[str] = []
    for _ in range(400):
        tab.page.keyboard.press("Tab")
        where, outlined = tab.page.evaluate(
            """() => { const e = document.activeElement, s = getComputedStyle(e);
               return [e.id || e.getAttribute("href") || e.tagName, s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2] }"""
        )
        if where == "BODY":
            break
        assert outlined, f"nothing shows that {where} has the focus"
        reached.append(where)
    assert reached[0] == "#main"
    controls = ["surrogate", "eps", "attack", "task", "target", "measure", "denominator"]
    assert [name for name in reached if name in controls] == controls
    drawn = {
        f"{name}-plot"
        for name in ("attacks", "tasks", "ranking", "scatter", "ranks", "pairs", "regression", "alignment", "rho")
    }
    assert {"theme", "dose-plot-0", "path-plot-3", "plane-plot-1"} | drawn <= set(reached)
    own = [
        "compared-surrogate",
        "compared-unit",
        "compared-setting",
        "explained-measure",
        "explained-setting",
        "explained-colour",
    ]
    assert [name for name in reached if name in own] == own
    assert reached.count("SUMMARY") == tab.page.locator("summary").count()

    before = tab.written("tasks")
    tab.page.focus("#denominator")
    tab.page.keyboard.press("Home")
    tab.settle()
    assert tab.page.input_value("#denominator") == "all" and tab.written("tasks") != before
    before = tab.table("alignment")
    tab.page.focus("#explained-measure")
    tab.page.keyboard.press("End")
    tab.settle()
    assert tab.page.input_value("#explained-measure") == "boundary_ratio" and tab.table("alignment") != before
    for name in (*controls, *own):
        assert tab.page.locator(f"#{name}").evaluate("e => e.labels.length") == 1


@pytest.mark.parametrize("width", [360, 768])
def test_no_width_scrolls_the_page_sideways(browser: Any, saved: Path, width: int) -> None:
    tab = Tab(browser, saved, width)
    for scheme in ("(itself)", "finetuned"):
        tab.choose(surrogate=scheme)
        tab.page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")
        assert tab.page.evaluate("document.documentElement.scrollWidth") == width
    assert tab.complaints == []


def test_dark_where_it_is_asked_for(browser: Any, saved: Path) -> None:
    def ground(tab: Tab) -> str:
        return tab.page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = Tab(browser, saved), Tab(browser, saved, scheme="dark")
    assert (ground(light), ground(dark)) == ("rgb(255, 255, 255)", "rgb(20, 23, 26)")
    cells = "#tasks-plot svg g.mark-rect.role-mark path"
    colours = [[e.get_attribute("fill") for e in tab.page.locator(cells).all()] for tab in (light, dark)]
    assert colours[0] != colours[1]
    light.page.click("#theme")
    light.settle()
    assert ground(light) == ground(dark)
    assert [e.get_attribute("fill") for e in light.page.locator(cells).all()] == colours[1]
    dark.page.click("#theme")
    assert ground(dark) == "rgb(255, 255, 255)"
    assert light.complaints == dark.complaints == []


def test_the_smallest_study_has_a_page(browser: Any, study: Any, tmp_path: Path) -> None:
    """One surrogate, attack and target; no control, no budget, nothing to rank, no example."""
    outcomes, accuracy = study
    outcomes = outcomes.query("surrogate == 'finetuned' and attack == 'cw' and target == 'ties'")
    evaluated = {"confidence": 0.9, "resamples": 60, "claims": [], "cells": {}}
    order = {**ORDER, "surrogates": ["finetuned"], "targets": ["ties"], "attacks": ["cw"], "controls": []}
    config = {**CONFIG, "order": order, "merged": ["ties"], "statistics": {"confidence": 0.9, "bootstrap": 60}}
    made = {name: models()[name] for name in ("pretrained", "ties")}
    text = page.render(computed(outcomes, accuracy), evaluated, [], made, config)
    (tmp_path / "index.html").write_text(text, encoding="utf-8")
    tab = Tab(browser, tmp_path / "index.html", 360)
    assert tab.complaints == []
    assert len(tab.written("attacks")) == 1 and len(tab.written("tasks")) == 4
    for scheme in ("all", "relative"):
        tab.choose(**({"denominator": scheme} if scheme == "all" else {"measure": scheme}))
    assert tab.complaints == []
