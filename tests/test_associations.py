"""What goes with transfer: correlations worked in another way, mistakes counted by hand, tables and figures complete."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from advmerge import artifacts, associations, explanations, figures, figures_explain, statistics
from advmerge.errors import StudyError
from advmerge.seeding import numpy_generator
from test_statistics import ENVIRONMENT, ROOT, SCRIPTS, TASKS, synthetic

TARGETS = ["weight_averaging", "weight_averaging_surgery", "ties", "multitask"]
SURROGATES = ["pretrained", "finetuned"]
ORDER = figures.Order(tasks=TASKS[:4], targets=TARGETS, labels={"ties": "TIES of all experts", "pgd": "PGD"})
CONFIG = {
    "seed": 0,
    "shown_seed": 0,
    "attack": "pgd",
    "eps": 8 / 255,
    "path": {"vector": "sum", "vectors": 4},
    "plane": {"merged": "ties"},
}


def landscape(places: list[dict], seed: int, tasks: Sequence[str] = TASKS[:4]) -> pd.DataFrame:
    """Rows as explanations.outcome makes them, for every place, task and surrogate."""
    rng = numpy_generator(seed, "landscape")
    rows = []
    for place in places:
        for task in tasks:
            common = {"images": 64, "loss": float(rng.random()), "correct": int(rng.integers(30, 64)),
                      "representation_bias": float(rng.random())}  # fmt: skip
            for surrogate in SURROGATES:
                n = int(rng.integers(10, 30))
                rows.append({**place, "task": task, "surrogate": surrogate, **common,
                             "n": n, "fooled": int(rng.integers(0, n))})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def outcomes() -> pd.DataFrame:
    return synthetic(images=48, tasks=TASKS[:4], targets=TARGETS)[0]


def measured(tasks: Sequence[str] = TASKS[:4], targets: Sequence[str] = TARGETS) -> dict[str, pd.DataFrame]:
    """What the rules of explain.smk make, with random numbers in it."""
    rng = numpy_generator(0, "pairs")
    rows = []
    for task in tasks:
        for surrogate in SURROGATES:
            for target in targets:
                names = {"task": task, "surrogate": surrogate, "target": target}
                for measure in ("gradient_cosine", "sign_agreement", "surrogate_gradient_norm", "target_gradient_norm",
                                "feature_distance", "representation_bias", "boundary_distance", "boundary_ratio"):  # fmt: skip
                    values = rng.random(8)
                    if measure.startswith("boundary"):
                        values[: int(rng.integers(0, 8))] = math.inf
                    rows += [{**names, "measure": measure, "image": k, "value": v} for k, v in enumerate(values)]
                for block in ("blocks.0", "blocks.1", explanations.FEATURES):
                    rows.append({**names, "measure": "cka", "block": block, "value": rng.random()})
    surgical = "weight_averaging_surgery"
    grid = (0.0, 0.5, 1.0)
    return {
        "pairs": pd.DataFrame(rows),
        "dose": landscape([{"target": surgical, "dose": dose} for dose in grid], 1, tasks),
        "path": landscape([{"scale": scale} for scale in (0.0, 0.25, 0.5, 1.0)], 2, tasks),
        "plane": landscape([{"toward_expert": a, "toward_merged": b} for a in grid for b in grid], 3, tasks),
    }


@pytest.fixture(scope="module")
def parts() -> dict[str, pd.DataFrame]:
    return measured()


@pytest.fixture(scope="module")
def tables(parts, outcomes) -> dict[str, pd.DataFrame]:
    return associations.tables(parts, outcomes, "pgd", 8 / 255)


# ── correlations ────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.floats(-5, 5)), min_size=4, max_size=30))
def test_given_nothing_it_is_spearmans(pairs: list[tuple[int, float]]) -> None:
    x, y = (np.array(part, dtype=float) for part in zip(*pairs, strict=True))
    found = associations.partial_rank_correlation(x, y)
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert found == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
    else:
        assert math.isnan(found)


def test_given_one_number_it_is_the_textbooks_formula() -> None:
    rng = numpy_generator(0, "partial")
    z = rng.random(40)
    x, y = z + rng.random(40), z**2 + rng.random(40)

    def rho(one, other) -> float:
        return stats.spearmanr(one, other).statistic

    expected = (rho(x, y) - rho(x, z) * rho(y, z)) / math.sqrt((1 - rho(x, z) ** 2) * (1 - rho(y, z) ** 2))
    assert associations.partial_rank_correlation(x, y, numbers=[z]) == pytest.approx(expected, abs=1e-12)


def test_given_names_it_is_the_correlation_of_ranks_within_them() -> None:
    rng = numpy_generator(1, "partial")
    group = np.repeat(["a", "b", "c"], 12)
    x = rng.random(36) + 5 * (group == "b")
    y = rng.random(36) - 3 * (group == "b") + x * (group != "b") / 2
    ranks = pd.DataFrame({"x": stats.rankdata(x), "y": stats.rankdata(y), "g": group})
    centred = ranks[["x", "y"]] - ranks.groupby("g")[["x", "y"]].transform("mean")
    expected = np.corrcoef(centred["x"], centred["y"])[0, 1]
    assert associations.partial_rank_correlation(x, y, [group]) == pytest.approx(expected, abs=1e-12)
    assert associations.partial_rank_correlation(x, y) < 0 < expected


def test_by_hand() -> None:
    # within both groups y falls as x rises; across them both rise
    x, y = [1, 2, 3, 4, 5, 6], [3, 2, 1, 6, 5, 4]
    assert associations.partial_rank_correlation(x, y) == pytest.approx(1 - 6 * 16 / (6 * 35))
    assert associations.partial_rank_correlation(x, y, [["a"] * 3 + ["b"] * 3]) == pytest.approx(-1)


def test_what_does_not_vary_beside_the_rest_or_is_too_little_has_none() -> None:
    x, y = np.arange(6.0), np.array([2.0, 1, 4, 3, 6, 5])
    assert math.isnan(associations.partial_rank_correlation(x, y, numbers=[x]))
    assert math.isnan(associations.partial_rank_correlation(x, y, [list("abcdef")]))
    assert math.isnan(associations.partial_rank_correlation(x, np.ones(6)))
    assert associations.partial_rank_correlation([1, 2, math.inf], [1, 2, 3]) == pytest.approx(1)


def test_a_correlations_range_is_over_the_tasks_left_out(tables) -> None:
    cells = tables["explanations_by_cell.csv"]
    found = tables["explanations_correlation.csv"]
    row = found[
        (found["attack"] == "pgd") & np.isclose(found["eps"], 8 / 255) & (found["measure"] == "gradient_cosine")
    ].set_index("given")
    own = cells[(cells["attack"] == "pgd") & np.isclose(cells["eps"], 8 / 255)]
    assert len(own) == row.loc["", "n"] == 4 * 2 * 4

    def rho(part: pd.DataFrame) -> float:
        return stats.spearmanr(part["gradient_cosine"], part["transfer_asr"]).statistic

    without = [rho(own[own["task"] != task]) for task in TASKS[:4]]
    assert row.loc["", ["rho", "lowest", "highest"]].tolist() == pytest.approx([rho(own), min(without), max(without)])
    assert set(row.index) == set(associations.GIVEN)
    assert row["rho"].nunique() == len(associations.GIVEN)


# ── mistakes and cells ──────────────────────────────────────────────────────────────────────────────────────


def test_mistakes_by_hand() -> None:
    # label, surrogate clean and adversarial, target clean and adversarial
    rows = [
        (0, 0, 1, 0, 1),  # the same mistake
        (0, 0, 1, 0, 2),  # another
        (0, 0, 1, 0, 0),  # none
        (0, 0, 1, 0, 1),  # the same
        (0, 0, 0, 0, 1),  # the surrogate is not fooled
        (0, 1, 1, 0, 1),  # the surrogate is wrong when clean
        (0, 0, 1, 2, 1),  # the target is
    ]
    columns = ["label", "surrogate_clean", "surrogate_adversarial", "target_clean", "target_adversarial"]
    table = pd.DataFrame(rows, columns=columns).assign(target="t", eps=math.nan)
    (row,) = associations.same_mistake_share(table, ["target", "eps"]).to_dict("records")
    assert row["n_fooled"] == 4
    assert (row["same_mistake"], row["other_mistake"], row["not_fooled"]) == (0.5, 0.25, 0.25)


def test_cells_hold_the_rates_of_the_outcomes_and_every_measure(parts, outcomes, tables) -> None:
    cells = tables["explanations_by_cell.csv"]
    attacks = statistics.without_controls(outcomes, ["noise"])
    rates = statistics.rates(attacks[attacks["surrogate"].isin(SURROGATES)], statistics.CELL)
    assert len(cells) == len(rates) > 0
    joined = cells.merge(rates, on=statistics.CELL, suffixes=("", "_rates"))
    assert (joined["transfer_asr"].fillna(-1) == joined["transfer_asr_rates"].fillna(-1)).all()
    assert cells[["same_mistake", "other_mistake", "not_fooled"]].sum(axis=1)[cells["n_fooled"] > 0].to_numpy() == (
        pytest.approx(1)
    )
    assert set(associations.MEASURES) <= set(cells.columns)
    along = (cells["attack"] == "pgd") & np.isclose(cells["eps"], 8 / 255)
    assert cells["boundary_ratio"].notna().equals(along)

    pairs = parts["pairs"]
    one = pairs[(pairs["task"] == TASKS[0]) & (pairs["surrogate"] == "finetuned") & (pairs["target"] == "ties")]
    row = cells[along & (cells["task"] == TASKS[0]) & (cells["surrogate"] == "finetuned") & (cells["target"] == "ties")]
    values = {name: part["value"].to_numpy() for name, part in one.groupby("measure")}
    (found,) = row.to_dict("records")
    assert found["gradient_cosine"] == pytest.approx(values["gradient_cosine"].mean())
    assert found["target_gradient_norm"] == pytest.approx(np.median(values["target_gradient_norm"]))
    assert found["boundary_ratio"] == pytest.approx(np.median(values["boundary_ratio"]))
    assert [found["cka_blocks"], found["cka_features"]] == pytest.approx([values["cka"][:2].mean(), values["cka"][2]])


def test_a_surrogate_is_not_compared_with_itself(parts, outcomes) -> None:
    white = outcomes[outcomes["surrogate"] == "finetuned"].assign(surrogate="ties")
    own = pd.concat([outcomes, white[white["target"] == "ties"]])
    tables = associations.tables(parts, own, "pgd", 8 / 255)
    assert set(tables["explanations_by_cell.csv"]["surrogate"]) == set(SURROGATES)
    assert set(tables["explanations_mistakes.csv"]["surrogate"]) == set(SURROGATES)


def test_tasks_are_pooled_before_dividing() -> None:
    rows = pd.DataFrame(
        {
            "scale": 0.5, "task": ["a", "b"], "surrogate": "pretrained", "images": [10, 10], "loss": [1.0, 3.0],
            "correct": [4, 8], "representation_bias": [0.2, 0.4], "n": [1, 9], "fooled": [1, 0],
        }
    )  # fmt: skip
    (row,) = associations.pooled(rows, ["scale"]).to_dict("records")
    assert row["transfer_asr"] == 0.1
    assert (row["accuracy"], row["loss"], row["n"], row["tasks"]) == (0.6, 2.0, 10, 2)
    assert row["representation_bias"] == pytest.approx(0.3)
    assert row["low"] < 0.1 < row["high"]


# ── figures ─────────────────────────────────────────────────────────────────────────────────────────────────


def lines(figure) -> list:
    return [line for ax in figure.axes for line in ax.lines]


@pytest.fixture(scope="module")
def drawn(tables) -> dict:
    return {name: figures_explain.draw(name, tables, ORDER, CONFIG) for name in figures_explain.FIGURES}


def test_every_figure_has_a_caption_that_names_its_table(drawn) -> None:
    table = {
        "alignment_transfer": "correlation",
        "surgery_dose": "dose",
        "weight_path": "path",
        "weight_plane": "plane",
    }
    for name in figures_explain.FIGURES:
        text = (ROOT / "workflow/report" / f"{name}.rst").read_text(encoding="utf-8")
        assert f"explanations_{table[name]}.csv" in text
        assert f"explanations_{table[name]}.csv" in associations.TABLES


def test_unknown_figures_are_refused(tables) -> None:
    with pytest.raises(StudyError, match="unknown figure 'pie'; choose one of: alignment_transfer"):
        figures_explain.draw("pie", tables, ORDER, CONFIG)


def test_a_point_for_every_cell_and_those_beyond_the_search_open(drawn, tables) -> None:
    cells = tables["explanations_by_cell.csv"]
    own = cells[(cells["attack"] == "pgd") & np.isclose(cells["eps"], 8 / 255) & (cells["n"] > 0)]
    panels = [ax for ax in drawn["alignment_transfer"].axes if ax.lines]
    assert [ax.get_xlabel() for ax in panels] == [associations.MEASURES[name] for name in figures_explain.SHOWN]
    for ax, measure in zip(panels, figures_explain.SHOWN, strict=True):
        points = [line for line in ax.lines if line.get_linestyle() == "None"]
        assert sum(len(line.get_xdata()) for line in points) == len(own)
        opened = sum(len(line.get_xdata()) for line in points if line.get_markerfacecolor() == "none")
        assert opened == np.isinf(own[measure]).sum()
    assert np.isinf(own["boundary_ratio"]).any()


def test_curves_are_the_tables(drawn, tables) -> None:
    path = tables["explanations_path.csv"]
    once = path[path["surrogate"] == "pretrained"]
    loss, accuracy, bias, transfer = drawn["weight_path"].axes
    for ax, column, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100), (bias, "representation_bias", 1)):
        assert list(ax.lines[0].get_ydata()) == pytest.approx(list(scale * once[column]))
        assert ax.lines[1].get_xdata()[0] == pytest.approx(1 / 4)  # weight averaging of four tasks
    for container, surrogate in zip(transfer.containers, SURROGATES, strict=True):
        part = path[path["surrogate"] == surrogate]
        assert list(container[0].get_ydata()) == pytest.approx(list(100 * part["transfer_asr"]))
    mean = figures_explain.weight_path(path, "mean", 4, "PGD", ORDER)
    assert mean.axes[0].lines[1].get_xdata()[0] == 1
    dose = tables["explanations_dose.csv"]
    assert list(drawn["surgery_dose"].axes[0].lines[0].get_ydata()) == pytest.approx(
        list(dose[dose["surrogate"] == "finetuned"]["representation_bias"])
    )


def test_the_plane_has_a_panel_a_quantity_with_its_corners_named(drawn) -> None:
    panels = [ax for ax in drawn["weight_plane"].axes if ax.get_title()]
    assert len(panels) == 4
    for ax in panels:
        assert [text.get_text() for text in ax.texts] == ["pretrained", "expert", "TIES of all experts"]
        assert [tuple(text.xy) for text in ax.texts] == [(0, 0), (1, 0), (0, 1)]


def test_a_surrogate_without_a_right_answer_has_an_empty_plane(tables) -> None:
    rows = tables["explanations_plane.csv"].copy()
    rows.loc[rows["surrogate"] == "finetuned", "transfer_asr"] = np.nan
    some = rows["surrogate"] == "pretrained"
    rows.loc[rows[some].index[:1], "transfer_asr"] = np.nan  # a hole, which takes nothing else with it
    figure = figures_explain.weight_plane(rows, "ties", "PGD", ORDER)
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [len(ax.collections) for ax in panels] == [1, 1, 1, 0]
    assert panels[3].get_xlabel().startswith("no image")
    assert len(panels[2].lines[0].get_xdata()) == len(panels[0].lines[0].get_xdata()) == some.sum()


def test_no_title_or_label_leaves_the_page_or_covers_another(drawn) -> None:
    for figure in drawn.values():
        figure.draw_without_rendering()
        renderer, page = figure.canvas.get_renderer(), figure.bbox
        texts = [*figure.texts, *(legend for legend in figure.legends)]
        for ax in figure.axes:
            texts += [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
        boxes = [text.get_window_extent(renderer) for text in texts if not hasattr(text, "get_text") or text.get_text()]
        assert len(boxes) > 4
        for box in boxes:
            assert page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1 and page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1
        for one, other in combinations(boxes, 2):
            assert not one.overlaps(other)


def test_correlations_are_written_as_readers_write_them() -> None:
    found = [figures_explain._number(value) for value in (0.618, -0.049, 1.0, -1.0, 0.0, math.nan)]
    assert found == [".62", "−.05", "1.00", "−1.00", ".00", "–"]


def test_the_script_writes_the_same_bytes_again_and_needs_no_torch(tmp_path: Path, parts, outcomes) -> None:
    artifacts.save_table(tmp_path / "outcomes.parquet", outcomes, {})
    paths = {}
    for name, table in parts.items():
        if name != "dose":  # a study without surgery
            paths[name] = tmp_path / f"{name}.parquet"
            artifacts.save_table(paths[name], table, {})
    drawn = ["weight_path"]
    order = {"tasks": TASKS[:4], "targets": TARGETS, "surrogates": SURROGATES, "controls": ["noise"], "labels": {}}
    config = {**CONFIG, "figures": drawn, "order": order, "statistics": {"confidence": 0.95, "bootstrap": 10}}
    contents = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        program = (
            f"import sys, runpy; sys.argv = {['explanations', '--config', json.dumps(config), '--outcomes', str(tmp_path / 'outcomes.parquet'), '--parts', *(f'{n}={p}' for n, p in paths.items()), '--output-dir', str(folder)]!r}; "
            f"runpy.run_path({str(SCRIPTS / 'explanations.py')!r}, run_name='__main__'); assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, check=True, capture_output=True)
        contents.append({str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {
        *(f"tables/{name}" for name in associations.TABLES),
        *(f"figures/{name}.{form}" for name in drawn for form in figures.FORMATS),
    }
