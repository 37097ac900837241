"""The tables for a paper and the headline numbers: what the study's tables say, in LaTeX that can be compiled."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from advmerge import figures, summary
from test_statistics import ENVIRONMENT, SCRIPTS

NAN = float("nan")
ORDER = figures.Order(
    tasks=["b_task", "a_task"],
    targets=["ties", "multitask"],
    labels={"ties": "TIES & more_50%", "pretrained": "Pretrained"},
)


@pytest.fixture
def sources():
    """Small tables with the columns that are read, and values worked by hand."""
    accuracy = [
        ("ties", "a_task", 0.5),
        ("ties", "b_task", 0.75),
        ("pretrained", "a_task", 1),
        ("multitask", "a_task", 0),
    ]
    means = [("ties", 0.625, 0.5, 0.7512), ("pretrained", 1, 0.9, 1), ("multitask", 0, 0, 0.1)]
    ratios = [
        ("pretrained", NAN, "ties", "both", 90, 0.3, 0.5, 0.456, 1.1),
        ("pretrained", 8 / 255, "ties", "both", 90, 0.2, 0.25, 0.2, 0.3),
        ("pretrained", 8 / 255, "ties", "all", 100, 0.4, 0.99, 0.9, 1),
        ("pretrained", 8 / 255, "multitask", "both", 90, 0, NAN, NAN, NAN),
        ("ties", 8 / 255, "ties", "both", 90, 1, 1, 1, 1),
    ]
    pairs = [
        ("pretrained", "(all)", "multitask", "ties", -0.1234, -0.2, -0.05, 1e-9, 2, 0, 80),
        ("pretrained", "pgd", "multitask", "ties", 0.7, 0.6, 0.8, 0.5, 2, 2, 80),
    ]
    claims = [
        ("one", "contradicted", -0.5, -0.75, -0.25, 0.004, "greater", 0, 70, "At 95 % & more_so."),
        ("two", "undecided", NAN, NAN, NAN, NAN, "less", 0.5, 0, "Never tested."),
    ]
    return {
        "accuracy.csv": pd.DataFrame(accuracy, columns=["model", "task", "accuracy"]).assign(split="test"),
        "accuracy_by_model.csv": pd.concat(
            pd.DataFrame(means, columns=["model", "accuracy", "low", "high"]).assign(split=split, accuracy=values)
            for split, values in (("test", [mean[1] for mean in means]), ("attack", 0.123))
        ),
        "relative_by_method.csv": pd.DataFrame(
            ratios,
            columns=["surrogate", "eps", "target", "denominator", "n", "transfer_asr", "relative", "low", "high"],
        ),
        "comparison_pairs.csv": pd.DataFrame(
            pairs,
            columns=[
                "surrogate",
                "attack",
                "a",
                "b",
                "difference",
                "low",
                "high",
                "p_holm",
                "tasks",
                "tasks_a_higher",
                "images",
            ],
        ),
        "claims.csv": pd.DataFrame(
            claims,
            columns=["name", "verdict", "effect", "low", "high", "p_adjusted", "direction", "margin", "images", "text"],
        ),
    }


def body(text):
    """The rows of a tabular: cells, stripped."""
    rows = re.split(r"\\(?:midrule|endlastfoot)\n", text)[-1].split(r"\bottomrule")[0].split("\\end")[0].splitlines()
    return [
        [cell.strip() for cell in row.removesuffix(r" \\").split(" & ")]
        for row in rows
        if row and "addlinespace" not in row
    ]


def test_tables_say_what_the_study_says(sources):
    made = summary.tables(sources, ORDER)
    assert list(made) == list(summary.TABLES)
    assert body(made["accuracy.tex"]) == [
        ["Pretrained", "--", "100.0", r"100.0 {\scriptsize [90.0, 100.0]}"],
        [r"TIES \& more\_50\%", "75.0", "50.0", r"62.5 {\scriptsize [50.0, 75.1]}"],
        ["multitask", "--", "0.0", r"0.0 {\scriptsize [0.0, 10.0]}"],
    ]
    assert r"model".title() + r" & b task & a task & mean \\" in made["accuracy.tex"]
    assert body(made["relative_transfer.tex"]) == [
        [r"TIES \& more\_50\%", "0.25", "0.50"],
        ["", r"{\scriptsize [0.20, 0.30]}", r"{\scriptsize [0.46, 1.10]}"],
        ["multitask", "--", "--"],
    ]
    assert r"\multicolumn{2}{c}{Pretrained}" in made["relative_transfer.tex"]
    assert r"$\varepsilon$ = 8/255 & no budget" in made["relative_transfer.tex"]
    assert body(made["comparison.tex"]) == [
        [
            "Pretrained",
            "multitask",
            r"TIES \& more\_50\%",
            r"$-$12.3 {\scriptsize [$-$20.0, $-$5.0]}",
            "$<$ 0.001",
            "0 of 2",
            "80",
        ]
    ]
    assert body(made["claims.tex"]) == [
        [
            r"At 95 \% \& more\_so.",
            r"$-$0.500 {\scriptsize [$-$0.750, $-$0.250]}",
            "$>$ 0",
            "0.004",
            "70",
            "contradicted",
        ],
        ["Never tested.", "--", "$<$ 0.5", "--", "0", "undecided"],
    ]


def unescaped(row):
    """Signs of a row that LaTeX would not print: specials without a backslash, braces and dollars without their pair."""
    plain = re.sub(r"\\\\|\\(?:text\w+|[a-zA-Z]+) ?|\\[%_#&$ ]", "", row)
    plain = re.sub(r"\\([{}])", "", plain)
    dollars = plain.count("$") % 2
    return re.findall(r"[%_#~^]", plain) + ["$"] * dollars + ["{"] * (plain.count("{") != plain.count("}"))


def test_what_latex_would_not_print_is_found():
    assert unescaped(r"a\_b & 50\% & $-$1 {\scriptsize [1, 2]} \\") == []
    assert unescaped(r"a_b & 5% & $-1 & {x & y~^# \\") == ["_", "%", "~", "^", "#", "$", "{"]


HOSTILE = figures.Order(
    tasks=["a_task"],
    targets=["ties"],
    labels={"ties": "[TIES] {x} ~ ^2 \\ # $1", "multitask": "*L∞ < 1", "a_task": "task ← café"},
)


@pytest.mark.parametrize("order", [ORDER, HOSTILE], ids=["plain", "hostile"])
def test_every_table_compiles_and_is_no_wider_than_both_columns(sources, order, tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("no LaTeX here (apt-get install texlive-latex-recommended)")
    made = {name: text for name, text in summary.tables(sources, order).items() if name.endswith(".tex")}
    inputs = "".join(f"\\noindent\\input{{{name}}}\n\n" for name in made)
    for name, text in made.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    article = r"\documentclass{article}\usepackage[textwidth=6.9in]{geometry}\usepackage{booktabs,longtable}"
    (tmp_path / "all.tex").write_text(f"{article}\\begin{{document}}\\footnotesize\n{inputs}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-1500:]
    assert "Overfull" not in done.stdout and "Missing" not in done.stdout


def test_every_table_is_a_tabular_that_compiles_as_far_as_can_be_told(sources):
    made = [*summary.tables(sources, ORDER).items(), *summary.tables(sources, HOSTILE).items()]
    for name, text in made:
        if not name.endswith(".tex"):
            continue
        assert text.replace("é", "").isascii(), name
        (environment, form) = re.search(r"\\begin\{(\w+)\}\{((?:p\{[^}]*\}|[lrc])+)\}", text).groups()
        assert text.rstrip().endswith(rf"\end{{{environment}}}")
        needed = ["booktabs", "longtable"] if environment == "longtable" else ["booktabs"]
        assert text.startswith(f"% \\usepackage{{{','.join(needed)}}}; ")
        columns = len(re.sub(r"p\{[^}]*\}", "l", form))
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        for row in rows:
            spans = sum(int(span) - 1 for span in re.findall(r"\\multicolumn\{(\d+)\}", row))
            assert len(re.findall(r"(?<!\\)&", row)) + spans + 1 == columns, (name, row)
            assert unescaped(row) == [], (name, row)
        for rule in ("toprule", "midrule", "bottomrule"):
            assert f"\\{rule}" in text


def test_headline_numbers_are_few_and_plain(sources):
    made = summary.headline(sources)
    assert made == {
        "accuracy": {"ties": 0.625, "pretrained": 1, "multitask": 0},
        "relative_transfer": {
            "pretrained": {
                "ties": {"no budget": 0.5, "8/255": 0.25},
                "multitask": {"8/255": None},
            }
        },
        "verdicts": {"supported": 0, "contradicted": 1, "undecided": 1},
        "claims": {"one": -0.5, "two": None},
    }


def test_a_study_with_nothing_to_compare_has_empty_tables(sources):
    for name in ("relative_by_method.csv", "comparison_pairs.csv", "claims.csv"):
        sources[name] = sources[name].iloc[:0]
    made = summary.tables(sources, ORDER)
    assert body(made["comparison.tex"]) == body(made["claims.tex"]) == []
    assert summary.headline(sources)["relative_transfer"] == {}


def test_the_script_writes_tables_and_numbers(sources, tmp_path):
    paths = {}
    for name, table in sources.items():
        paths[name] = tmp_path / "in" / name
        paths[name].parent.mkdir(exist_ok=True)
        table.to_csv(paths[name], index=False)
    config = {"order": {"tasks": ["a_task"], "targets": ["ties"], "labels": {}}}
    command = [sys.executable, SCRIPTS / "summary.py", "--config", json.dumps(config)]
    command += ["--table", *(f"{name}={path}" for name, path in paths.items())]
    command += ["--output-metrics", tmp_path / "metrics.json", "--output-dir", tmp_path / "tables"]
    subprocess.run(command, check=True, env=ENVIRONMENT)
    assert {path.name for path in (tmp_path / "tables").iterdir()} == set(summary.TABLES)
    assert json.loads((tmp_path / "metrics.json").read_text())["verdicts"]["contradicted"] == 1
    plotted = pd.read_csv(tmp_path / "tables/headline_transfer.csv")
    assert list(plotted["cell"]) == [
        "ties ← pretrained, no budget",
        "ties ← pretrained, 8/255",
        "multitask ← pretrained, 8/255",
    ]
    assert np.allclose(plotted["relative"], [0.5, 0.25, NAN], equal_nan=True)
