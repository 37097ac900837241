"""Figures: complete, byte for byte reproducible, true to their tables, and without overlapping text."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from itertools import combinations, pairwise

import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text
from seaborn.utils import relative_luminance

from advmerge import artifacts, comparison, figures, figures_gallery, figures_heatmap, figures_ranks, statistics
from advmerge.errors import StudyError
from test_statistics import ENVIRONMENT, ROOT, SCRIPTS, TASKS, synthetic

TARGETS = ["weight_averaging", "weight_averaging_surgery", "ties", "ties_surgery", "multitask"]
ORDER = figures.Order(
    tasks=TASKS[:3],
    targets=TARGETS,
    attacks=["pgd", "fgsm", "mifgsm", "autopgd", "cw", "deepfool", "noise"],
    labels={"pgd": "PGD", "ties_surgery": "TIES + surgery"},
)


@pytest.fixture(scope="module")
def study():
    return synthetic(images=64, tasks=TASKS[:3], targets=TARGETS)


HEATMAPS = ["heatmap_pretrained", "heatmap_finetuned"]
DRAWN = [*HEATMAPS, *(name for name in figures.FIGURES if name != "gallery")]


@pytest.fixture(scope="module")
def drawn(study):
    return {name: figures.draw(name, *study, ORDER, bootstrap=50) for name in DRAWN}


def texts(figure):
    return [text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))]


def arguments(name, **options):
    command = [sys.executable, SCRIPTS / f"{name}.py"]
    for key, value in options.items():
        command += [f"--{key.replace('_', '-')}", *(value if isinstance(value, list) else [value])]
    return command


def test_the_gallery_is_drawn_from_examples_and_other_names_are_refused(study):
    for name in ("gallery", "histogram"):
        with pytest.raises(StudyError, match=f"unknown figure '{name}'; choose one of: accuracy_transfer"):
            figures.draw(name, *study, ORDER)


def test_every_figure_has_a_caption():
    template = jinja2.Template((ROOT / "workflow/report/figure.rst").read_text(encoding="utf-8"))
    captions = {name: template.render(snakemake={"wildcards": {"figure": name}}).strip() for name in DRAWN}
    assert captions["heatmap_pretrained"] == captions["heatmap_finetuned"]
    assert len(set(captions.values())) == len(DRAWN) - 1
    assert captions["heatmap_pretrained"].startswith("Transfer attack success rate in percent")
    assert captions["relative_transfer"].startswith("Upper row: relative transfer ASR")
    assert captions["accuracy_transfer"].startswith("Does merging better mean")
    assert captions["critical_distance"].startswith("Which targets are told apart")


def test_budgets_are_written_as_readers_write_them():
    assert [figures.budget(eps) for eps in (4 / 255, 8 / 255, 0.5 / 255, 0.1, 1.0, math.nan)] == [
        "4/255", "8/255", "0.5/255", "25.5/255", "255/255", "no budget",
    ]  # fmt: skip
    assert figures.budget(0.3137) == "80/255"
    assert figures.budget(0.017) == "0.017"
    found = figures.budgets([math.nan, 0.2, 0.1, math.nan, 0.2])
    assert found[:2] == [0.1, 0.2]
    assert math.isnan(found[2])
    assert len(found) == 3


def test_order_puts_unlisted_names_last():
    assert figures.Order.among(["z", "b", "a", "b"], ["b", "c"]) == ["b", "a", "z"]
    assert ORDER.label("weight_averaging") == "weight averaging"
    assert ORDER.label("pgd") == "PGD"


def test_heatmap_shows_the_numbers_of_its_table(study, drawn):
    figure = drawn["heatmap_pretrained"]
    panel = next(ax for ax in figure.axes if ax.get_title("left") == "TIES + surgery")
    cells = statistics.rates(study[0], statistics.CELL)
    cells = cells[(cells["surrogate"] == "pretrained") & (cells["target"] == "ties_surgery")]
    shown = {tuple(np.round(text.get_position(), 2)): text.get_text() for text in panel.texts}
    first = cells[(cells["task"] == TASKS[0]) & (cells["attack"] == "pgd") & (cells["eps"] == 4 / 255)]
    assert shown[(0.5, 0.53)] == f"{100 * first['transfer_asr'].item():.0f}"
    accuracy = 100 * cells.drop_duplicates("task")["target_accuracy"].mean()
    note = f"accuracy {accuracy:.0f} %, n = {cells['n'].min()}–{cells['n'].max()}"
    assert panel.get_title("right") == note
    # 4 attacks at two budgets, 2 without, and noise at both; 3 tasks and their pool; 5 headings
    assert len(panel.texts) == 12 * 4 + 5
    headings = [text.get_text() for text in panel.texts if text.get_position()[1] < 0]
    assert headings == ["ε = 4/255", "ε = 8/255", "no budget", "4/255", "8/255"]
    last = next(ax for ax in figure.axes if ax.get_title("left") == "multitask")
    ticks = [tick.get_text() for tick in last.get_xticklabels()]
    assert ticks == ["PGD", "fgsm", "mifgsm", "autopgd"] * 2 + ["cw", "deepfool", "noise", "noise"]


def test_a_page_shows_those_that_it_is_told(study):
    heatmap = figures.draw("heatmap_pretrained-2", *study, ORDER, shown=TARGETS[1:3])
    assert {ax.get_title("left") for ax in heatmap.axes} == {"", *(ORDER.label(target) for target in TARGETS[1:3])}
    ranks = figures.draw("critical_distance-2", *study, ORDER, shown=["finetuned"])
    assert all(ax.get_title("left").startswith("crafted on finetuned, ") for ax in ranks.axes)
    rows = figures.draw("relative_transfer-3", *study, ORDER, bootstrap=20, shown=TARGETS[-1:])
    assert [name.get_text() for name in rows.axes[0].get_yticklabels()] == ["multitask"]


@pytest.mark.parametrize("attacks", [["pgd"], ["pgd", "cw"], None])
def test_heatmap_headings_do_not_run_into_each_other(study, attacks):
    outcomes = study[0] if attacks is None else study[0][study[0]["attack"].isin(attacks)]
    cells, pooled = statistics.rates(outcomes, statistics.CELL), statistics.rates(outcomes, statistics.TARGET)
    figure = figures_heatmap.heatmap(cells, pooled, "pretrained", ORDER)
    figure.draw_without_rendering()
    panels = [ax for ax in figure.axes if ax.get_title("left")]
    assert len(panels) == len(TARGETS)
    for ax in panels:
        name, note = ax._left_title.get_window_extent(), ax._right_title.get_window_extent()
        assert name.x1 < note.x0
        assert all(text.get_window_extent().y1 < note.y0 for text in ax.texts)


def test_heatmap_marks_few_images_and_none(study):
    outcomes = study[0][study[0]["target"] == "ties"]
    few = outcomes[outcomes["image"] < 8]
    wrong = few.assign(target_clean=np.where(few["task"] == TASKS[0], few["label"] + 1, few["target_clean"]))
    cells, pooled = statistics.rates(wrong, statistics.CELL), statistics.rates(wrong, statistics.TARGET)
    shown = texts(figures_heatmap.heatmap(cells, pooled, "finetuned", ORDER))
    assert shown.count("–") == 12  # the first task has no image in any of its cells
    assert sum(text.endswith("*") for text in shown) == 36


def test_a_surrogate_the_study_lacks_is_said_in_words(study):
    outcomes = study[0][study[0]["surrogate"] != "finetuned"]
    drawn = {name: figures.draw(name, outcomes, study[1], ORDER, bootstrap=20) for name in DRAWN}
    assert texts(drawn["heatmap_finetuned"]) == ["This study crafts no examples on the surrogate 'finetuned'."]
    assert len(drawn["relative_transfer"].axes) == 6


def points(figure, panel):
    """The dots of a panel's error bars, by label-free order of drawing."""
    ax = figure.axes[panel]
    return [container.lines[0].get_xydata() for container in ax.containers]


def test_relative_transfer_shows_the_ratios_and_both_controls(study, drawn):
    attacks = statistics.without_controls(study[0], ["noise"])
    ratio = statistics.relative(attacks, statistics.METHOD, bootstrap=50)
    ratio = ratio[(ratio["surrogate"] == "pretrained") & (ratio["eps"] == 4 / 255)].set_index("target")
    pretrained, finetuned = points(drawn["relative_transfer"], 0)
    assert pretrained[:, 0] == pytest.approx(ratio.loc[sorted(TARGETS), "relative"].to_numpy())
    assert (finetuned[:, 1] - pretrained[:, 1]).min() > 0.2  # dodged, not on top of each other
    lower = drawn["relative_transfer"].axes[3]
    assert {"x", "|"} <= {line.get_marker() for line in lower.lines}
    legend = [text.get_text() for text in drawn["relative_transfer"].legends[0].get_texts()]
    assert legend[2:] == ["noise of the same budget", "white box: crafted on the target"]


def test_every_seed_has_a_mark_beside_the_mean(study):
    outcomes, accuracy = study
    fooled = outcomes["target_adversarial"].where(outcomes["image"] % 2 == 0, outcomes["label"])
    outcomes = pd.concat([outcomes, outcomes.assign(seed=4, target_adversarial=fooled)])
    figure = figures.draw("relative_transfer", outcomes, accuracy, ORDER, bootstrap=20)
    assert "each seed of fine-tuning" in [text.get_text() for text in figure.legends[0].get_texts()]
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "|"]
    (_, eps), *_ = sorted({(np.isnan(e), e) for e in outcomes["eps"].unique()})
    by_seed = statistics.seeds(statistics.without_controls(outcomes, ORDER.controls), accuracy)
    chosen = by_seed[(by_seed["quantity"] == "relative") & (by_seed["denominator"] == statistics.PRIMARY)]
    chosen = chosen[np.isclose(chosen["eps"], eps) & chosen["surrogate"].isin(["pretrained", "finetuned"])]
    shown = sorted(value for line in marks for value in line.get_xdata())
    assert shown == pytest.approx(sorted(chosen["value"]))
    assert len(shown) == 2 * 2 * len(TARGETS)


def test_relative_transfer_survives_a_surrogate_that_is_never_fooled(study):
    outcomes = study[0].assign(surrogate_adversarial=study[0]["surrogate_clean"])
    ratio = statistics.relative(outcomes, statistics.METHOD, bootstrap=20)
    assert ratio["relative"].isna().all()
    figure = figures.relative_transfer(ratio, ratio.iloc[:0], ORDER, statistics.seeds(outcomes, study[1]))
    assert all(len(dots) == 0 for dots in points(figure, 0))
    assert len(points(figure, 3)[0]) == len(TARGETS)


def boxes(ax, figure):
    renderer = figure.canvas.get_renderer()
    return {text.get_text(): text.get_window_extent(renderer) for text in ax.texts}


@pytest.mark.parametrize("spread", [1.0, 0.1])
def test_labels_of_the_scatter_overlap_neither_each_other_nor_points(study, spread):
    outcomes, accuracy = study
    ratio = statistics.relative(statistics.without_controls(outcomes, ["noise"]), statistics.METHOD, bootstrap=50)
    models = statistics.accuracy_by_model(accuracy)
    for column in ("accuracy", "low", "high"):
        models[column] = 0.8 + spread * (models[column] - 0.8)
    unrelated = ratio["surrogate"] == "pretrained"  # near the axis
    ratio.loc[unrelated, ["transfer_asr", "transfer_low", "transfer_high"]] *= 0.02
    figure = figures.accuracy_transfer(ratio, models, ORDER)
    for ax in figure.axes[:3]:
        found = boxes(ax, figure)
        assert set(found) == {ORDER.label(target) for target in TARGETS}
        for (one, a), (other, b) in combinations(found.items(), 2):
            assert not a.overlaps(b), (one, other)
        frame = ax.get_window_extent()
        dots = np.concatenate([container.lines[0].get_xydata() for container in ax.containers])
        for name, box in found.items():
            assert frame.x0 < box.x0 and frame.y0 < box.y0, name  # nor the axes
            assert box.x1 <= frame.x1 and box.y1 <= frame.y1, name
            assert not any(box.contains(*dot) for dot in ax.transData.transform(dots)), name


def test_files_are_equal_byte_by_byte_and_pdf_embeds_truetype(study, tmp_path):
    both = [name for name in DRAWN if not name.endswith("_column")]  # those are drawn by the same functions
    for folder in ("one", "two"):
        for name in both:
            figures.save(figures.draw(name, *study, ORDER, bootstrap=20), tmp_path / folder, name)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(f"{name}.{form}" for name in both for form in figures.FORMATS)
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    pdf = (tmp_path / "one" / "relative_transfer.pdf").read_bytes()
    assert b"/CreationDate" not in pdf
    assert b"/FontFile2" in pdf  # TrueType
    assert b"/Type3" not in pdf


def test_figures_fit_both_columns_of_a_page_and_are_legible_there(drawn):
    for name, figure in {**drawn, "gallery": figures_gallery.gallery([example()], "PGD", ORDER)}.items():
        assert figure.get_figwidth() == (figures.COLUMN if name.endswith("_column") else figures.WIDTH), name
        assert figure.get_figheight() < 9.3, name
        small = {text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_fontsize() < 5.5}
        assert not small, name


def test_a_column_shows_the_largest_budget_as_both_columns_do(drawn):
    for name in ("relative_transfer", "accuracy_transfer"):
        one, both = drawn[f"{name}_column"], drawn[name]
        assert [ax.get_title() for ax in one.axes if ax.get_title()] == ["ε = 8/255"]
        (at,) = (k for k, ax in enumerate(both.axes) if ax.get_title() == "ε = 8/255")
        marks = [[np.asarray(line.get_xdata(), dtype=float).round(9).tolist() for line in ax.lines if line.get_marker() in ("o", "s")]
                 for ax in (one.axes[0], both.axes[at])]  # fmt: skip
        assert marks[0] == marks[1] != []
    assert figures.largest(pd.DataFrame({"eps": [math.nan, 0.1, 0.2]})) == 0.2
    assert math.isnan(figures.largest(pd.DataFrame({"eps": [math.nan]})))


def test_a_file_is_as_wide_as_its_figure(drawn, tmp_path):
    figures.save(drawn["critical_distance"], tmp_path, "one")
    box = re.search(rb"/MediaBox \[ ([\d. ]+) \]", (tmp_path / "one.pdf").read_bytes())[1].split()
    assert [float(end) for end in box[:3]] == [0, 0, pytest.approx(6.9 * 72)]
    svg = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert 'width="496.8pt"' in svg
    assert "<text" not in svg  # outlines: no font is needed to see it


def test_panels_stand_beside_each_other_while_they_fit_on_a_page():
    assert figures_heatmap._grid(9, figures_heatmap._Panel(3.4, 1.7, False)) == (2, 5)
    assert figures_heatmap._grid(9, figures_heatmap._Panel(3.5, 1.7, False)) == (1, 9)
    assert figures_heatmap._grid(5, figures_heatmap._Panel(8.0, 1.7, False)) == (1, 5)
    assert figures_heatmap._grid(4, figures_heatmap._Panel(1.7, 1.6, False)) == (1, 4)  # the shape of a page
    assert figures_heatmap._grid(12, figures_heatmap._Panel(1.7, 2.2, False)) == (3, 4)  # two would be 13 inches


def test_colours_are_told_apart_without_hue():
    marks = figures._marks(["pretrained", "finetuned", "a", "b", "c"])
    assert len({mark["marker"] for mark in marks.values()}) == 5
    first = [relative_luminance(marks[name]["color"]) for name in ("pretrained", "finetuned")]
    assert max(first) / min(first) > 2
    steps = [relative_luminance(mpl.colormaps["rocket_r"](level)) for level in np.linspace(0, 1, 21)]
    assert all(darker < lighter for lighter, darker in pairwise(steps))


def ranked(mean_rank, **constant):
    """A table of ranks of one surrogate and unit."""
    facts = {"surrogate": "pretrained", "unit": "task", "blocks": 14, "critical_distance": 1.25, "friedman_p": 0.01}
    table = pd.DataFrame({"target": list(mean_rank), "mean_rank": list(mean_rank.values())})
    return table.assign(**{**facts, "power": 0.5, "detectable": 1.5, **constant})


def test_critical_distance_joins_what_the_literature_joins():
    """Demšar's example (2006, fig. 1): C4.5+m+cf and C4.5+m differ from C4.5 … here by its ranks and distance."""
    example_ranks = {"C4.5+m+cf": 1.964, "C4.5+m": 2.0, "C4.5+cf": 2.893, "C4.5": 3.143}
    assert figures_ranks.alike(list(example_ranks.values()), 1.25) == [(1.964, 3.143)]
    assert figures_ranks.alike(list(example_ranks.values()), 1.15) == [(1.964, 2.893), (2.0, 3.143)]
    assert figures_ranks.alike([1, 2, 3], 0.5) == []
    assert figures_ranks.alike([1, 1, 3], 0.5) == []
    assert figures_ranks.alike([1, 1.2, 3, 3.1], 0.5) == [(1, 1.2), (3, 3.1)]
    figure = figures_ranks.critical_distance(ranked(example_ranks, critical_distance=1.15), ORDER)
    thick = [line.get_xdata() for line in figure.axes[0].lines if line.get_linewidth() > 2]
    assert [(round(low + 0.04, 3), round(high - 0.04, 3)) for low, high in thick] == [(1.964, 2.893), (2.0, 3.143)]
    said = texts(figure)
    assert "C4.5+m+cf  1.96" in said and "3.14  C4.5" in said
    assert " critical distance 1.15" in said
    assert "power for two targets 1 sd apart: 50 %; 80 % from 1.5 sd" in said
    unknown = figures_ranks.critical_distance(ranked(example_ranks, detectable=math.nan), ORDER)
    assert any(text.endswith("80 % from over 6 sd") for text in texts(unknown))


def test_critical_distance_ranks_each_surrogate_by_tasks_and_by_cells(study, drawn):
    figure = drawn["critical_distance"]
    titles = [ax.get_title("left") for ax in figure.axes]
    assert titles == [f"crafted on {s}, {b}" for s in ("pretrained", "finetuned") for b in ("3 tasks", "30 cells")]
    assert [ax.get_title("right").split()[0] for ax in figure.axes] == ["power", "cells"] * 2
    ranks = comparison.ranks(study[0])
    first = ranks[(ranks["surrogate"] == "pretrained") & (ranks["unit"] == "task")]
    said = {text.get_text() for text in figure.axes[0].texts}
    for row in first.itertuples():
        name = ORDER.label(row.target)
        assert {f"{name}  {row.mean_rank:.2f}", f"{row.mean_rank:.2f}  {name}"} & said
    figure.draw_without_rendering()
    for ax in figure.axes:
        for (one, a), (other, b) in combinations(boxes(ax, figure).items(), 2):
            assert not a.overlaps(b), (one, other)
        inside = figure.bbox
        assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes(ax, figure).values())
    alone = study[0][study[0]["target"] == "ties"]
    assert texts(figures.draw("critical_distance", alone, study[1], ORDER)) == [
        "This study has no two targets to rank."
    ]


def test_the_script_draws_the_figure_it_is_told(study, tmp_path):
    wrong = study[0].assign(seed=1, target_adversarial=study[0]["label"])  # another seed's answers are not shown
    artifacts.save_table(tmp_path / "outcomes.parquet", pd.concat([wrong, study[0]]), {})
    artifacts.save_table(tmp_path / "accuracy.parquet", study[1], {})
    order = {
        "tasks": TASKS[:3],
        "targets": TARGETS,
        "surrogates": ["pretrained"],
        "attacks": [],
        "labels": {},
    }
    config = {
        "statistics": {"confidence": 0.9, "bootstrap": 20},
        "seed": 0,
        "order": order,
        "figure": DRAWN[0],
        "shown": [],
    }
    command = arguments(
        "figure",
        config=json.dumps(config),
        outcomes=tmp_path / "outcomes.parquet",
        accuracy=tmp_path / "accuracy.parquet",
        output_dir=tmp_path / "figures",
    )
    subprocess.run(command, check=True, env=ENVIRONMENT)
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        f"{DRAWN[0]}.{form}" for form in sorted(figures.FORMATS)
    ]


# ── the gallery ─────────────────────────────────────────────────────────────────────────────────────────────


def example(**changes):
    clean = np.full((1, 4, 4), 0.5, dtype=np.float32)
    options = {
        "task": "digits",
        "clean": clean,
        "adversarial": clean + np.float32(0.02) * np.sign(np.arange(16).reshape(1, 4, 4) - 7.5).astype(np.float32),
        "label": "7",
        "surrogate": "1",
        "targets": {"ties": "7", "weight_averaging": "1", "multitask": "2"},
        "wrong_clean": frozenset({"multitask"}),
    }
    return figures_gallery.Example(**options | changes)


def test_gallery_says_who_is_right_wrong_and_was_wrong_before():
    figure = figures_gallery.gallery([example()], "PGD", ORDER)
    said = {text.get_text(): text.get_color() for text in figure.axes[3].texts}
    assert list(said) == [
        "✗ surrogate: 1",
        "✗ weight averaging: 1",
        "✓ ties: 7",
        "✗ multitask: 2 (clean too)",
    ]
    colours = list(said.values())
    assert colours[0] == colours[1]
    assert len({*map(str, colours)}) == 3


def test_gallery_amplifies_all_rows_alike_and_saturates_nothing():
    weak = example(adversarial=example().clean + np.float32(0.01))
    figure = figures_gallery.gallery([example(), weak], "PGD", ORDER)
    assert figure.axes[2].get_title() == "difference × 25"
    strong, faint = (figure.axes[row + 2].images[0].get_array() for row in (0, 4))
    assert strong.min() == pytest.approx(0, abs=1e-6)
    assert strong.max() == pytest.approx(1, abs=1e-6)
    assert np.allclose(faint, 0.75)
    unchanged = figures_gallery.gallery([example(adversarial=example().clean)], "PGD", ORDER)
    assert unchanged.axes[2].get_title() == "difference × 1"


def test_signs_that_the_font_lacks_are_named(recwarn, tmp_path):
    figure = figures_gallery.gallery([example(label="क", surrogate="ж", targets={"ties": "क"})], "PGD", ORDER)
    assert [text.get_text() for text in figure.axes[3].texts] == ["✗ surrogate: ж", "✓ ties: ‹ka›"]
    figures.save(figure, tmp_path, "gallery")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


@pytest.fixture
def crafted(study, tmp_path):
    """Arguments of the gallery script on two tasks whose examples lie in a shuffled order."""
    rng = np.random.default_rng(0)
    data, adversarial = [], []
    for task in TASKS[:2]:
        clean = rng.integers(0, 256, (64, 3, 8, 8), dtype=np.uint8)
        index = rng.permutation(64)
        images = np.clip(clean[index] / 255 + 8 / 255, 0, 1).astype(np.float32)
        artifacts.save_tensors(
            tmp_path / f"{task}.safetensors",
            {"attack_images": torch.from_numpy(clean)},
            {"slice": {"kind": "mnist"}, "classes": [f"{task} {k}" for k in range(11)]},
        )
        made = {"task": task, "surrogate": "pretrained", "attack": "pgd", "eps": 8 / 255}
        tensors = {"images": torch.from_numpy(images), "index": torch.from_numpy(index)}
        artifacts.save_tensors(tmp_path / f"{task}_pgd.safetensors", tensors, {"slice": made})
        data.append(f"{task}={tmp_path / task}.safetensors")
        adversarial.append(f"{task}={tmp_path / task}_pgd.safetensors")
    artifacts.save_table(tmp_path / "outcomes.parquet", study[0], {})
    return {
        "config": json.dumps({"shown_seed": 0, "order": {"tasks": TASKS[:2], "targets": TARGETS}}),
        "outcomes": tmp_path / "outcomes.parquet",
        "data": data,
        "adversarial": adversarial,
        "output_dir": tmp_path / "figures",
    }


def test_script_draws_the_representative_examples(study, crafted, tmp_path):
    subprocess.run(arguments("gallery", **crafted), check=True, env=ENVIRONMENT)
    svg = (tmp_path / "figures" / "gallery.svg").read_text(encoding="utf-8")
    rows = study[0].query("task == 'letters' and surrogate == 'pretrained' and attack == 'pgd' and eps > 0.03")
    chosen = rows[rows["image"] == statistics.representative(rows)]
    ties = chosen[chosen["target"] == "ties"].iloc[0]
    sign = "✓" if ties["target_adversarial"] == ties["label"] else "✗"
    assert f"<!-- {sign} ties: letters {ties['target_adversarial']}" in svg
    # were an example paired with another clean image, the largest difference would be far above 8/255
    assert "<!-- difference × 15 -->" in svg
    assert len(list((tmp_path / "figures").iterdir())) == 3


def test_script_refuses_examples_of_several_attacks(crafted, tmp_path):
    path = tmp_path / f"{TASKS[1]}_pgd.safetensors"
    tensors, metadata = artifacts.load_tensors(path)
    metadata["slice"]["attack"] = "fgsm"
    artifacts.save_tensors(path, tensors, metadata)
    failed = subprocess.run(arguments("gallery", **crafted), capture_output=True, text=True, env=ENVIRONMENT)
    assert failed.returncode == 1
    assert failed.stderr == "error: the gallery shows one attack on one surrogate; the examples given are of several\n"
    assert not (tmp_path / "figures").exists()


def test_a_failed_save_leaves_nothing(drawn, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    figure = drawn["relative_transfer"]
    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(StudyError, match="No space left on device"):
        figures.save(figure, tmp_path, "relative_transfer")
    assert list(tmp_path.iterdir()) == []


def test_no_data_is_said_in_words(study):
    none = statistics.relative(study[0], statistics.METHOD, bootstrap=5).iloc[:0]
    models = statistics.accuracy_by_model(study[1])
    assert texts(figures.relative_transfer(none, none, ORDER, statistics.seeds(study[0].iloc[:0], study[1]))) == [
        "This study has no transferred examples."
    ]
    assert "No merged model" in texts(figures.accuracy_transfer(none, models, ORDER))[0]
    assert texts(figures_gallery.gallery([], "PGD", ORDER)) == ["No examples to show."]
    assert isinstance(none, pd.DataFrame)
