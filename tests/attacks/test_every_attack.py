"""One table: what every attack of the study owes, whoever wrote it."""

from __future__ import annotations

from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from victims import Victim

from advmerge.attacks import resolve
from advmerge.attacks.bridge import check_budget, craft
from advmerge.study import load

EPS = 0.1


@dataclass(frozen=True)
class Row:
    """An attack, its options, and what is particular to it."""

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    random: bool = False
    norm: float = np.inf
    least_fooled: float = 0.0
    transformer: bool = False
    together: bool = False  # what an image gets depends on the others of its batch
    certain: float = 0.9999  # share of unfooled images that end nearer to an error than they began

    def __str__(self) -> str:
        named = ("norm", "loss_type", "nesterov", "diversity")
        return "-".join([self.method, *(str(self.options[key]) for key in named if key in self.options)])

    @property
    def eps(self) -> float | None:
        return self.options.get("eps")


STEPS = {"eps": EPS, "eps_step": EPS / 4, "max_iter": 8}
TABLE = [
    Row("UniformNoise", {"eps": EPS}, random=True),
    Row("FastGradientMethod", {"eps": EPS}, least_fooled=0.3),
    Row("ProjectedGradientDescent", STEPS, least_fooled=0.4),
    Row(
        "ProjectedGradientDescent",
        {**STEPS, "num_random_init": 1, "norm": "inf"},
        random=True,
        least_fooled=0.4,
    ),
    Row("MomentumIterativeMethod", STEPS, least_fooled=0.4),
    Row("BatchedAutoPGD", {"eps": EPS, "max_iter": 8}, random=True, least_fooled=0.4),
    Row(
        "BatchedAutoPGD",
        {"eps": EPS, "max_iter": 8, "loss_type": "difference_logits_ratio", "nb_random_init": 2},
        random=True,
        least_fooled=0.4,
        certain=0.95,
    ),
    Row("BatchedAutoPGD", {"eps": 0.5, "max_iter": 8, "norm": 2}, random=True, norm=2, least_fooled=0.3),
    Row(
        "ProjectedGradientDescent",
        {"eps": 0.5, "eps_step": 0.1, "max_iter": 8, "norm": 2},
        norm=2,
        least_fooled=0.3,
    ),
    Row("NIFGSM", STEPS, least_fooled=0.4),
    Row("DIFGSM", STEPS, random=True, least_fooled=0.4),
    Row("TIFGSM", {**STEPS, "kernel_size": 3}, least_fooled=0.4),
    Row("SIFGSM", {**STEPS, "scales": 3}, least_fooled=0.4),
    Row("VMIFGSM", {**STEPS, "neighbours": 3}, random=True, least_fooled=0.4),
    Row("Admix", {**STEPS, "mixes": 2, "scales": 2}, random=True, least_fooled=0.4),
    Row("PGN", {**STEPS, "neighbours": 3}, random=True, least_fooled=0.4),
    Row("IterativeFGSM", {**STEPS, "nesterov": True, "kernel_size": 3, "scales": 2}, least_fooled=0.4),
    Row(
        "IterativeFGSM",
        {**STEPS, "diversity": 0.5, "kernel_size": 3, "scales": 2, "mixes": 1, "neighbours": 2},
        random=True,
        least_fooled=0.4,
        certain=0.98,
    ),
    Row("PNAPatchOut", STEPS, random=True, transformer=True, least_fooled=0.4),
    Row("TGR", STEPS, transformer=True, least_fooled=0.3, certain=0.9),
    Row("AutoPGDTargeted", {"eps": EPS, "max_iter": 8, "nb_targets": 3}, random=True, least_fooled=0.4, certain=0.95),
    Row("AutoPGDTargeted", {"eps": 0.5, "max_iter": 8, "norm": 2}, random=True, norm=2, least_fooled=0.3, certain=0.95),
    Row("BatchedSquare", {"eps": EPS, "max_iter": 150}, random=True, least_fooled=0.3),
    Row("BatchedSquare", {"eps": 0.6, "max_iter": 150, "norm": 2}, random=True, norm=2, least_fooled=0.3),
    Row(
        "StandardAutoAttack",
        {"eps": EPS, "max_iter": 5, "nb_targets": 3, "queries": 20},
        random=True,
        least_fooled=0.4,
    ),
    Row(
        "StandardAutoAttack",
        {"eps": 0.6, "max_iter": 5, "nb_targets": 3, "queries": 20, "norm": 2},
        random=True,
        norm=2,
        least_fooled=0.4,
    ),
    Row("BatchedUniversal", {"eps": EPS, "max_iter": 20}, together=True),
    Row("FastAdaptiveBoundary", {"max_iter": 5, "nb_targets": 3}, least_fooled=0.95),
    Row("FastAdaptiveBoundary", {"max_iter": 5, "nb_targets": 3, "norm": 2}, least_fooled=0.95),
    Row("BatchedCarliniLInf", {"search_steps": 3, "max_iter": 25}, least_fooled=0.95),
    Row("BatchedDeepFool", least_fooled=0.95),
    Row("BatchedCarliniL2", {"binary_search_steps": 3, "max_iter": 20}, least_fooled=0.95),
]
every = pytest.mark.parametrize("row", TABLE, ids=str)
gradient = pytest.mark.parametrize("row", [row for row in TABLE if row.method != "UniformNoise"], ids=str)


@pytest.fixture
def victim(victim: Victim, request: pytest.FixtureRequest) -> Victim:
    """Of the kind that the row's attack is made for."""
    row = request.node.callspec.params.get("row") if hasattr(request.node, "callspec") else None
    return request.getfixturevalue("transformer") if row and row.transformer else victim


def run(victim: Victim, row: Row, batch_size: int = 64, seed: int = 0, **other: Any) -> torch.Tensor:
    return craft(
        victim.model,
        other.get("images", victim.images),
        other.get("labels", victim.labels),
        row.method,
        {**row.options, **other.get("options", {})},
        seed=(seed, "test"),
        classes=10,
        batch_size=batch_size,
    )


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).flatten(1).norm(dim=1)


@every
def test_keeps_ball_range_shape_and_type(victim: Victim, row: Row) -> None:
    found = run(victim, row)
    assert found.shape == victim.images.shape
    assert found.dtype == torch.float32
    check_budget(victim.images, found, row.eps, row.norm)


@every
def test_fools_more_than_noise_of_its_size(victim: Victim, row: Row) -> None:
    share = victim.fooled(run(victim, row)).float().mean()
    assert share >= row.least_fooled
    if row.method == "UniformNoise":
        assert share < 0.25


@every
def test_same_seed_same_examples(victim: Victim, row: Row) -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = run(victim, row)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert torch.equal(first, run(victim, row))
    assert torch.equal(first, run(victim, row, seed=1)) is not row.random


@every
def test_a_chunk_depends_on_no_other(victim: Victim, row: Row) -> None:
    whole = run(victim, row, batch_size=40)
    assert torch.equal(whole[:40], run(victim, row, 40, images=victim.images[:40], labels=victim.labels[:40]))


@pytest.mark.parametrize("row", [row for row in TABLE if not row.random and not row.together], ids=str)
def test_batch_size_changes_nothing(victim: Victim, row: Row) -> None:
    """But for rounding: it may flip the sign of a gradient that is all but zero, so few pixels may differ."""
    one, other = run(victim, row, batch_size=120), run(victim, row, batch_size=7)
    assert ((one - other).abs() > 1e-3).float().mean() < 2e-3
    assert (victim.fooled(one) == victim.fooled(other)).float().mean() > 0.98


# Not the logits ratios: for a label that is not the likeliest, they may rise by narrowing the other logits.
RATIOS = [row for row in TABLE if "loss_type" in row.options or row.method == "AutoPGDTargeted"]


@pytest.mark.parametrize("row", [row for row in TABLE if row.method != "UniformNoise" and row not in RATIOS], ids=str)
def test_attacks_the_true_label_and_not_the_prediction(victim: Victim, row: Row) -> None:
    """Given false labels, an attack moves away from those, whatever the model predicts."""
    false = (victim.labels + 1) % 10
    # A universal perturbation neglects images that are fooled by far, as most are here.
    found = run(victim, row, labels=false, options={"cutoff": 100.0} if row.together else {})
    wrong = victim.model(victim.images).argmax(1) != false
    if row.eps is None:  # already wrong for that label: nothing to do
        assert torch.equal(found[wrong], victim.images[wrong])
    else:
        rise = victim.odds(found, false) - victim.odds(victim.images, false)
        rise = rise.mean(0, keepdim=True) if row.together else rise
        assert (rise > 0).float().mean() > (0.9 if row.certain > 0.9 else 0.8)


@gradient
def test_unfooled_images_get_the_strongest_example_not_the_clean_one_or_noise(victim: Victim, row: Row) -> None:
    """With a budget too small to fool, each image moves towards the boundary, and farther than by noise."""
    small = {"eps": row.eps / 20} if row.eps else {"max_iter": 2}
    if "eps_step" in row.options:
        small["eps_step"] = row.eps / 80
    one = {"BatchedCarliniL2": "binary_search_steps", "BatchedCarliniLInf": "search_steps"}
    if row.method in one:
        small[one[row.method]] = 1
    if row.method == "FastAdaptiveBoundary":
        small = {"max_iter": 1, "nb_targets": 1, "eta": 0.5}
    found = run(victim, row, options=small)
    left = ~victim.fooled(found)
    assert left.float().mean() > 0.5 or row.method == "BatchedDeepFool"
    assert left.any()
    assert (distance(found, victim.images)[left] > 0).all()

    size = (found - victim.images).flatten(1).abs().amax(1).reshape(-1, 1, 1, 1)
    noise = size * (torch.rand(found.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    noisy = (victim.images + noise).clamp(0, 1)
    clean, noisy, reached = (victim.odds(x)[left] for x in (victim.images, noisy, found))
    if row.together:
        clean, noisy, reached = (odds.mean(0, keepdim=True) for odds in (clean, noisy, reached))
    # A ratio of logits may rise a little while the odds fall a little.
    assert (reached > clean).float().mean() >= row.certain
    assert (reached > noisy).float().mean() > min(row.certain, 0.95)


@pytest.mark.parametrize(
    "method", ["BatchedDeepFool", "BatchedCarliniL2", "BatchedCarliniLInf", "FastAdaptiveBoundary"]
)
def test_smallest_perturbation_of_an_image_already_wrong_is_none(victim: Victim, method: str) -> None:
    wrong = victim.fooled(victim.images)
    few = {"max_iter": 5} if method == "FastAdaptiveBoundary" else {}
    found = run(victim, Row(method, few))
    assert wrong.any()
    assert torch.equal(found[wrong], victim.images[wrong])
    assert (distance(found, victim.images)[~wrong] > 0).all()


def test_apgd_attacks_images_already_wrong(victim: Victim) -> None:
    wrong = victim.fooled(victim.images)
    found = run(victim, Row("BatchedAutoPGD", {"eps": EPS, "max_iter": 8}))
    assert (victim.odds(found)[wrong] > victim.odds(victim.images)[wrong] + 1).all()


@pytest.mark.parametrize("norm", [np.inf, 2])
def test_random_restarts_never_weaken_apgd(victim: Victim, norm: float) -> None:
    options = {"eps": 0.08 if norm != 2 else 0.3, "max_iter": 3, "norm": norm}
    once = run(victim, Row("BatchedAutoPGD", options))
    often = run(victim, Row("BatchedAutoPGD", {**options, "nb_random_init": 4}))
    was, now = victim.fooled(once), victim.fooled(often)
    assert (now | ~was).all()
    assert (now & ~was).any()
    assert torch.equal(often[was], once[was])
    left = ~now
    assert (victim.odds(often)[left] >= victim.odds(once)[left]).all()
    assert (victim.odds(often)[left] > victim.odds(once)[left]).any()


def test_restarts_of_apgd_t_fool_more(victim: Victim) -> None:
    options = {"eps": 0.1, "max_iter": 2, "nb_targets": 1}
    once, often = (run(victim, Row("AutoPGDTargeted", {**options, "nb_random_init": n})) for n in (1, 4))
    was, now = victim.fooled(once), victim.fooled(often)
    assert (now | ~was).all()
    assert (now & ~was).any()


def test_confidence_is_reached_where_carlini_succeeds(victim: Victim) -> None:
    options = {"confidence": 2.0, "binary_search_steps": 4, "max_iter": 30}
    found = run(victim, Row("BatchedCarliniL2", options))
    column = victim.labels[:, None]
    logits = victim.model(found)
    lead = logits.scatter(1, column, -torch.inf).amax(1) - logits.gather(1, column)[:, 0]
    assert (lead > 2 - 1e-3).float().mean() > 0.95
    plain = run(victim, Row("BatchedCarliniL2", {**options, "confidence": 0.0}))
    assert distance(found, victim.images).median() > 1.1 * distance(plain, victim.images).median()


def test_noise_fills_its_interval(victim: Victim) -> None:
    grey = torch.full_like(victim.images, 0.5)
    delta = run(victim, Row("UniformNoise", {"eps": EPS}), images=grey) - grey
    assert delta.abs().max() > 0.99 * EPS
    assert abs(delta.mean()) < 0.005
    assert delta.std() == pytest.approx(EPS / 3**0.5, rel=0.03)


def test_no_images_no_examples(victim: Victim) -> None:
    found = run(victim, Row("BatchedDeepFool"), images=victim.images[:0], labels=victim.labels[:0])
    assert found.shape == (0, 1, 8, 8)


def test_progress_sees_every_chunk(victim: Victim) -> None:
    seen: list[int] = []

    def progress(chunks: Any) -> Any:
        for chunk in chunks:
            seen.append(chunk)
            yield chunk

    craft(
        victim.model,
        victim.images[:10],
        victim.labels[:10],
        "UniformNoise",
        {"eps": EPS},
        seed=(0,),
        classes=10,
        batch_size=4,
        progress=progress,
    )
    assert seen == [0, 1, 2]


def test_global_random_states_are_left_alone(victim: Victim) -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = torch.rand(1), np.random.rand()  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    run(victim, TABLE[3])
    assert (torch.rand(1), np.random.rand()) == expected  # noqa: NPY002


def test_every_attack_of_the_full_study(transformer: Victim) -> None:
    """Its options as the study gives them, but for fewer steps, stay in the ball and change what is right."""
    few = transformer.right(6)
    fewest = {"max_iter": 2, "queries": 3, "nb_targets": 2, "binary_search_steps": 2, "search_steps": 2}
    for cell in load(Path(__file__).parents[2] / "studies/full.yaml").cells().values():
        known = signature(resolve(cell.method)).parameters
        options = cell.options | {name: value for name, value in fewest.items() if name in known}
        found = few.attacked(cell.method, **options)
        check_budget(few.images, found, cell.options.get("eps"), cell.options.get("norm", "inf"))
        assert (found != few.images).flatten(1).any(1).all(), cell.name
