"""Figures of a study as broad as studies/full.yaml: they keep to pages, and no text runs into another."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import yaml

from advmerge import figures, figures_explain, figures_gallery, figures_heatmap, figures_ranks
from advmerge.study import load
from test_statistics import ROOT

FULL = yaml.safe_load((ROOT / "studies/full.yaml").read_text(encoding="utf-8"))
TARGETS = [*FULL["merging"], "multitask"]
SURROGATES, ATTACKS = list(FULL["surrogates"]), list(FULL["attacks"])
ORDER = figures.Order(list(FULL["tasks"]), TARGETS, SURROGATES, ATTACKS, FULL["labels"])
SURGERY = [name for name in TARGETS if "surgery" in name]


def table(**axes) -> pd.DataFrame:
    """A row for each of the product of the axes, with a random ``value`` in [0.1, 0.9)."""
    rows = pd.MultiIndex.from_product(axes.values(), names=axes).to_frame(index=False)
    return rows.assign(value=np.random.default_rng(0).uniform(0.1, 0.9, len(rows)))


def apart(texts) -> bool:
    boxes = [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]
    assert len(boxes) > 1
    return not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def inside(figure, artist) -> bool:
    box = artist.get_window_extent()
    return box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1


def dose(targets) -> pd.DataFrame:
    rows = table(target=targets, surrogate=SURROGATES, dose=[0, 0.5, 1])
    value = rows["value"]
    return rows.assign(representation_bias=value, accuracy=value, transfer_asr=value, low=value - 0.1, high=value + 0.1)


def test_the_study_is_as_broad_as_these_tests_say() -> None:
    assert (len(TARGETS), len(SURROGATES), len(ATTACKS), len(SURGERY)) == (37, 10, 23, 8)


def test_a_legend_of_many_entries_lies_inside_its_figure() -> None:
    figure = figures_explain.surgery_dose(dose(SURGERY[:2]), "PGD", ORDER)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == len(SURROGATES)
    assert inside(figure, legend)
    assert apart(legend.get_texts())


@pytest.mark.parametrize(("models", "shape"), [(8, (6, 4)), (5, (6, 4)), (4, (3, 4))])
def test_panels_of_surgery_have_titles_apart(models, shape) -> None:
    figure = figures_explain.surgery_dose(dose(SURGERY[-models:]), "PGD", ORDER)
    figure.draw_without_rendering()
    assert figure.axes[0].get_gridspec().get_geometry() == shape
    titles = [ax.title for ax in figure.axes if ax.get_title()]
    assert [title.get_text().replace("\n", " ") for title in titles] == [ORDER.label(t) for t in SURGERY[-models:]]
    assert apart(titles)
    assert all(inside(figure, title) for title in titles)
    shown = [ax for ax in figure.axes if ax.axison]
    assert len(shown) == 3 * models
    for kind in range(3):  # one scale for all models
        rows = [ax for ax in shown if ax.get_subplotspec().rowspan.start % 3 == kind]
        assert len({ax.get_ylim() for ax in rows}) == 1


def test_a_plane_of_many_surrogates_fits_on_a_page() -> None:
    share = [0, 0.5, 1]
    rows = table(surrogate=SURROGATES, toward_expert=share, toward_merged=share)
    rows = rows.assign(**dict.fromkeys(("loss", "accuracy", "transfer_asr"), rows["value"]))
    figure = figures_explain.weight_plane(rows, "task_arithmetic", "PGD, ε = 8/255", ORDER)
    figure.draw_without_rendering()
    assert figure.get_figheight() <= figures.PAGE
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert len(panels) == 2 + len(SURROGATES)
    assert apart([ax.title for ax in panels])
    assert all(apart(ax.texts) and inside(figure, ax.title) for ax in panels)


@pytest.mark.parametrize(("targets", "shown"), [(37, [1, *range(5, 36, 5)]), (12, [*range(1, 13)])])
def test_ranks_of_two_digits_are_apart(targets, shown) -> None:
    names = TARGETS[:targets]
    ranks = pd.DataFrame({"target": names, "mean_rank": np.linspace(1, targets, targets)})
    facts = {"surrogate": "pretrained", "critical_distance": 3.0, "power": 0.5, "detectable": 1.5}
    both = pd.concat([ranks.assign(unit=unit, blocks=n, **facts) for unit, n in (("task", 1), ("cell", 40))])
    figure = figures_ranks.critical_distance(both, ORDER)
    figure.draw_without_rendering()
    assert [ax.get_title("left") for ax in figure.axes] == [
        "crafted on Pretrained, 1 task",
        "crafted on Pretrained, 40 cells",
    ]
    for ax in figure.axes:
        ticks = [text for text in ax.texts if text.get_text().isdecimal()]
        assert [int(text.get_text()) for text in ticks] == shown
        assert apart(ax.texts)
        assert all(inside(figure, text) for text in ax.texts)
    assert figure.get_figheight() <= figures.PAGE


def test_pages_show_each_target_or_surrogate_once() -> None:
    drawn = load(ROOT / "studies/full.yaml").drawn
    for figure, shown, pages in (
        *((f"heatmap_{name}", [target for target in TARGETS if target != name], 8) for name in SURROGATES),
        *((f"relative_transfer{width}", TARGETS, 3) for width in ("", "_column")),
        ("critical_distance", SURROGATES, 10),
    ):
        found = {name: names for name, names in drawn.items() if name.partition("-")[0] == figure}
        assert [*found] == [figure, *(f"{figure}-{k}" for k in range(2, pages + 1))]
        assert [name for names in found.values() for name in names] == shown
    assert not any(load(ROOT / "params.yaml").drawn.values())


def ratios(levels, targets=TARGETS) -> pd.DataFrame:
    rows = table(surrogate=SURROGATES, target=targets, eps=levels)
    rows = rows.rename(columns={"value": "relative"}).assign(transfer_asr=0.7 * rows["value"])
    for prefix, value in (("", rows["relative"]), ("transfer_", rows["transfer_asr"])):
        rows = rows.assign(**{f"{prefix}low": value - 0.02, f"{prefix}high": value + 0.02})
    return rows


@pytest.mark.parametrize(("width", "levels"), [(figures.WIDTH, [4 / 255, 8 / 255]), (figures.COLUMN, [8 / 255])])
def test_rows_of_many_targets_are_thin_and_their_names_apart(width, levels) -> None:
    targets = TARGETS[-figures.ROWS :]
    ratio = ratios(levels, targets)
    by_seed = ratio.rename(columns={"target": "model", "relative": "value"}).assign(quantity="relative")
    by_seed = pd.concat([by_seed.assign(seed=seed) for seed in (0, 1)])
    white = ratio[ratio["surrogate"] == "pretrained"].assign(surrogate=lambda rows: rows["target"])
    figure = figures.relative_transfer(pd.concat([ratio, white]), ratio, ORDER, by_seed, width)
    figure.draw_without_rendering()
    assert figure.get_figwidth() == width
    assert figure.get_figheight() <= figures.PAGE
    assert inside(figure, figure.legends[0])
    assert len(figure.legends[0].get_texts()) == len(SURROGATES) + 3
    for ax in (figure.axes[0], figure.axes[len(levels)]):
        names = ax.get_yticklabels()
        assert [name.get_text() for name in names] == [ORDER.label(target) for target in targets]
        assert min(name.get_fontsize() for name in names) >= 5
        assert apart(names)
    heights = {round(float(y), 6) for bar in figure.axes[0].containers for y in bar.lines[0].get_ydata()}
    assert len(heights) == len(targets) * len(SURROGATES) - 1  # no two dots on one line; one target is a surrogate


def test_a_heatmap_of_many_attacks_fits_on_pages_and_its_numbers_are_apart() -> None:
    budgeted = [name for name in ATTACKS if isinstance(FULL["attacks"][name].get("eps"), list)]
    others = [name for name in ATTACKS if name not in (*budgeted, "pgd_l2")]
    (targets, *_) = load(ROOT / "studies/full.yaml").drawn.values()
    axes = {"task": list(FULL["tasks"]), "surrogate": ["pretrained"], "target": targets}
    parts = [table(**axes, attack=budgeted, eps=[4 / 255, 8 / 255]), table(**axes, attack=["pgd_l2"], eps=[0.5])]
    parts.append(table(**axes, attack=others, eps=[np.nan]))
    cells = pd.concat(parts).assign(transfer_asr=1.0, n=30, target_accuracy=0.8)  # 100: the widest of numbers
    cells["n"] = np.where(cells["value"] < 0.5, figures_heatmap.FEW - 1, cells["n"])
    pooled = cells[cells["task"] == "mnist"].drop(columns="task")
    figure = figures_heatmap.heatmap(cells, pooled, "pretrained", ORDER)
    figure.draw_without_rendering()
    assert figure.get_figwidth() == figures.WIDTH
    assert figure.get_figheight() <= figures.PAGE
    panels = [ax for ax in figure.axes if ax.get_title("left")]
    assert len(panels) == len(targets) == 5
    for ax in panels:
        assert apart([text for text in ax.texts if text.get_text() != "*"])
        assert min(text.get_fontsize() for text in ax.texts) >= 5
        assert all(inside(figure, text) for text in ax.texts)
        headings = [text for text in ax.texts if text.get_position()[1] < 0]
        assert len(headings) == 6
        assert all(text.get_window_extent().y1 < ax._right_title.get_window_extent().y0 for text in headings)
    stars = sum(text.get_text() == "*" for ax in panels for text in ax.texts)
    assert stars == (cells["n"] < figures_heatmap.FEW).sum() + (pooled["n"] < figures_heatmap.FEW).sum() > 0
    names = panels[-1].get_xticklabels()
    assert len(names) == 2 * len(budgeted) + 1 + len(others)
    assert apart(names)


@pytest.mark.parametrize(("width", "levels"), [(figures.WIDTH, [4 / 255, 8 / 255, np.nan]), (figures.COLUMN, [0.1])])
def test_many_points_have_numbers_apart_and_a_key(width, levels) -> None:
    rates = table(model=TARGETS).rename(columns={"value": "accuracy"})
    models = rates.assign(split="test", tasks=7, low=rates["accuracy"] - 0.01, high=rates["accuracy"] + 0.01)
    figure = figures.accuracy_transfer(ratios(levels), models, ORDER, width)
    figure.draw_without_rendering()
    assert figure.get_figwidth() == width
    key, legend = sorted(figure.legends, key=lambda legend: legend.get_window_extent().y0)
    assert [text.get_text() for text in key.get_texts()] == [
        f"{k + 1}  {ORDER.label(t)}" for k, t in enumerate(TARGETS)
    ]
    assert len(legend.get_texts()) == len(SURROGATES)
    panels = [ax for ax in figure.axes if ax.axison]
    assert len(panels) == len(levels)
    by_accuracy = [str(k + 1) for k in np.argsort(rates["accuracy"], kind="stable")]
    for ax in panels:
        numbers = sorted(ax.texts, key=lambda text: text.get_position()[0])
        assert [text.get_text() for text in numbers] == by_accuracy
        assert apart([*ax.texts, ax.title])
        assert all(inside(figure, text) for text in ax.texts)
        box = ax.get_window_extent()
        assert all(text.get_window_extent().y0 > box.y1 for text in ax.texts)
        assert box.height > 1.5 * figure.dpi
        leaders = [line.get_xydata() for line in ax.lines if line.get_linewidth() == 0.4]
        ends = sorted(line[-1, 0] for line in leaders)
        assert ends == pytest.approx(sorted(100 * rates["accuracy"]))
        for one, other in combinations([ax.transData.transform(line) for line in leaders], 2):
            left, right = sorted((one, other), key=lambda line: line[0, 0])
            assert left[0, 0] < right[0, 0] and left[-1, 0] <= right[-1, 0]
    for texts in (key.get_texts(), legend.get_texts()):
        assert apart(texts)
    assert inside(figure, key)
    assert inside(figure, legend)
    lowest = min(ax.get_tightbbox().y0 for ax in panels)
    assert key.get_window_extent().y1 <= lowest


def test_the_gallery_has_room_for_long_names_of_classes() -> None:
    """Eight merged models and classes of Stanford Cars: no name lies on another or beside the page."""
    targets = [f"weight_averaging_surgery_{k}" for k in range(9)]
    image = np.zeros((3, 8, 8), np.float32)
    shown = [
        figures_gallery.Example(
            task=f"task{k}",
            clean=image,
            adversarial=image + 8 / 255,
            label=name,
            surrogate=name[::-1],
            targets=dict.fromkeys(targets, name[::-1]),
            wrong_clean=frozenset(targets[1:]),
        )
        for k, name in enumerate(["Chevrolet Silverado 1500 Hybrid Crew Cab 2012", "auk", "rectangular farmland"])
    ]
    figure = figures_gallery.gallery(shown, "PGD", figures.Order(targets=targets))
    figure.canvas.draw()
    answers = [text for ax in figure.axes[3::4] for text in ax.texts]
    assert len(answers) == 30
    names = [ax.yaxis.label for ax in figure.axes[::4]] + [ax.title for ax in figure.axes[:3]]
    assert apart([*answers, *names])
    assert all(inside(figure, text) for text in [*answers, *names])
