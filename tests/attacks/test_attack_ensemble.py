"""C&W L-infinity, APGD-T, FAB-T, Square, the ensemble of AutoAttack and the universal perturbation."""

from __future__ import annotations

from typing import Any

import foolbox
import numpy as np
import pytest
import torch
import torchattacks
from torch import nn
from victims import Victim

from advmerge.attacks.auto_pgd_targeted import AutoPGDTargeted, likeliest_others
from advmerge.attacks.batched_auto_pgd import BatchedAutoPGD
from advmerge.attacks.batched_square import BatchedSquare, _bump, _squares
from advmerge.attacks.bridge import art_classifier, craft
from advmerge.attacks.fast_adaptive_boundary import FastAdaptiveBoundary
from advmerge.attacks.standard_auto_attack import StandardAutoAttack


def share(victim: Victim, found: torch.Tensor) -> float:
    return victim.fooled(found).float().mean().item()


def typical(victim: Victim, found: torch.Tensor, norm: float) -> float:
    """Median distance, the unfooled being at infinity."""
    size = torch.linalg.vector_norm((found - victim.images).flatten(1), ord=norm, dim=1)
    return size.where(victim.fooled(found), torch.tensor(torch.inf)).median().item()


# --- C&W L-infinity


def test_carlini_linf_is_as_good_as_apgd_at_every_radius(victim: Victim) -> None:
    few = victim.right(60)
    found = few.attacked("BatchedCarliniLInf")
    reach = (found - few.images).flatten(1).abs().amax(1)
    assert share(few, found) == 1
    for eps in (0.06, 0.08, 0.1, 0.12, 0.14):
        apgd = few.attacked("BatchedAutoPGD", eps=eps, max_iter=40)
        assert (reach <= eps).float().mean() >= share(few, apgd) - 2 / 60


def test_carlini_linf_is_near_foolbox_deepfool(victim: Victim) -> None:
    """It descends towards the likeliest other class, DeepFool towards the nearest, which may be another."""
    few = victim.right(60)
    wrapped = foolbox.PyTorchModel(victim.model, bounds=(0, 1), device="cpu")
    peer = foolbox.attacks.LinfDeepFoolAttack(steps=50, candidates=10, overshoot=0.02)
    _, theirs, _ = peer(wrapped, few.images, few.labels, epsilons=None)
    assert typical(few, few.attacked("BatchedCarliniLInf"), np.inf) <= 1.12 * typical(few, theirs, np.inf)
    boundary = few.attacked("FastAdaptiveBoundary", max_iter=10)
    assert typical(few, boundary, np.inf) <= 1.005 * typical(few, theirs, np.inf)


def test_carlini_linf_gains_from_its_search(victim: Victim) -> None:
    few = victim.right(60)
    once, often = (few.attacked("BatchedCarliniLInf", search_steps=steps) for steps in (1, 8))
    size = [(x - few.images).flatten(1).abs().amax(1) for x in (once, often)]
    assert share(few, once) == 1
    assert (size[1] <= size[0]).all()
    assert size[1].mean() < 0.99 * size[0].mean()


def test_carlini_linf_reaches_its_confidence(victim: Victim) -> None:
    few = victim.right(30)
    logits = victim.model(few.attacked("BatchedCarliniLInf", confidence=2.0, search_steps=3))
    column = few.labels[:, None]
    lead = logits.scatter(1, column, -torch.inf).amax(1) - logits.gather(1, column)[:, 0]
    assert (lead >= 2 - 1e-4).all()


# --- APGD-T


def test_targets_are_the_likeliest_other_classes() -> None:
    logits = torch.tensor([[1.0, 4.0, 3.0, 2.0], [9.0, 1.0, 3.0, 2.0]])
    assert likeliest_others(logits, torch.tensor([1, 2]), 2).tolist() == [[2, 3], [0, 3]]
    assert likeliest_others(logits, torch.tensor([1, 2]), 9).tolist() == [[2, 3, 0], [0, 3, 1]]


@pytest.mark.parametrize(("norm", "name", "eps"), [("inf", "Linf", 0.08), (2, "L2", 0.4)])
def test_apgd_t_is_as_good_as_torchattacks(victim: Victim, norm: float | str, name: str, eps: float) -> None:
    few = victim.right(60)
    found = few.attacked("AutoPGDTargeted", eps=eps, norm=norm, max_iter=20)
    theirs = torchattacks.APGDT(victim.model, norm=name, eps=eps, steps=20, seed=0)(few.images, few.labels)
    assert share(few, found) >= share(few, theirs)
    left = ~few.fooled(found)
    assert left.any()
    assert (few.odds(found)[left] > few.odds(few.images)[left]).all()


class Away(nn.Module):
    """Class 1 is the likeliest after class 0, but only class 3 can be reached."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        light = images.flatten(1).mean(1)
        return torch.stack([0 * light, -1 - light, -2 - 0 * light, 40 * light - 24, -30 - 0 * light], dim=1)


@pytest.mark.parametrize(("targets", "fooled"), [(1, False), (3, True)])
def test_apgd_t_goes_on_to_the_next_target(targets: int, fooled: bool) -> None:
    images, labels = torch.full((4, 1, 2, 2), 0.5), torch.zeros(4, dtype=torch.int64)
    options = {"eps": 0.15, "max_iter": 10, "nb_targets": targets}
    found = craft(Away(), images, labels, "AutoPGDTargeted", options, seed=(0,), classes=5, batch_size=4)
    assert (Victim(Away(), images, labels).fooled(found) == fooled).all()


# --- FAB-T


@pytest.mark.parametrize(("norm", "name"), [("inf", "Linf"), (2, "L2")])
def test_fab_is_as_good_as_torchattacks(victim: Victim, norm: float | str, name: str) -> None:
    few = victim.right(40)
    found = few.attacked("FastAdaptiveBoundary", norm=norm, max_iter=15, nb_targets=5)
    # Its targeted form stops at the first class that fools within eps; this one looks for the nearest of all.
    peer = torchattacks.FAB(victim.model, norm=name, eps=10.0, steps=15, multi_targeted=False, seed=0)
    theirs = peer(few.images, few.labels)
    assert share(few, found) == 1
    assert typical(few, found, float(norm)) <= 1.005 * typical(few, theirs, float(norm))


@pytest.mark.parametrize("norm", ["inf", 2])
def test_fab_projects_on_the_plane_inside_the_box(victim: Victim, norm: float | str) -> None:
    """Against bisection of the radius; of 200 planes some need most of the box, and some cannot be reached."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(200, 1, 4, 4, generator=generator)
    x[:, :, 0] = x[:, :, 0].round()
    slope = torch.randn(x.shape, generator=generator) * (torch.rand(x.shape, generator=generator) < 0.8)
    rise = 3 * torch.randn(200, generator=generator)
    rise[:3] = torch.tensor([0.0, 100.0, -100.0])
    attack = FastAdaptiveBoundary(art_classifier(victim.model, (1, 8, 8), 10), norm=norm)
    found = attack._project(x, slope, rise)
    assert ((x + found > -1e-6) & (x + found < 1 + 1e-6)).all()

    way = slope.double() * rise.sign().reshape(-1, 1, 1, 1)
    speed = way.abs() if norm == 2 else (way != 0).double()
    room = torch.where(way > 0, 1 - x, x).double()
    low, high = torch.zeros(200, dtype=torch.float64), torch.full((200,), 1e6, dtype=torch.float64)
    for _ in range(80):
        middle = (low + high) / 2
        move = torch.minimum(middle.reshape(-1, 1, 1, 1) * speed, room)
        enough = (move * way.abs()).flatten(1).sum(1) >= rise.abs()
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    expected = torch.minimum(high.reshape(-1, 1, 1, 1) * speed, room) * way.sign()
    assert (found - expected).abs().max() < 1e-4
    reached = (slope * found).flatten(1).sum(1)
    assert 150 < ((reached - rise).abs() < 1e-3).sum() < 200


# --- Square


def test_square_is_as_good_as_torchattacks_and_stock_art(victim: Victim) -> None:
    few = victim.right(60)
    found = few.attacked("BatchedSquare", eps=0.1, max_iter=300)
    stock = few.attacked("SquareAttack", eps=0.1, max_iter=300)
    theirs = torchattacks.Square(victim.model, eps=0.1, n_queries=300, seed=0)(few.images, few.labels)
    assert share(few, found) >= max(share(few, stock), share(few, theirs)) - 1 / 60
    surface = (found - few.images).abs()
    inside = (found > 0) & (found < 1)
    assert torch.allclose(surface[inside], torch.tensor(0.1), atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*encountered in divide")  # stock ART's, on images this small
@pytest.mark.parametrize("eps", [0.4, 0.6])
def test_square_in_l2_is_as_good_as_torchattacks_and_stock_art(victim: Victim, eps: float) -> None:
    few = victim.right(60)
    found = few.attacked("BatchedSquare", eps=eps, norm=2, max_iter=300)
    stock = few.attacked("SquareAttack", eps=eps, norm=2, max_iter=300)
    theirs = torchattacks.Square(victim.model, norm="L2", eps=eps, n_queries=300, seed=0)(few.images, few.labels)
    assert share(few, found) >= max(share(few, stock), share(few, theirs)) - 1 / 60
    size = (found - few.images).flatten(1).norm(dim=1)
    assert (size < eps + 1e-6).all()
    assert (size > 0.8 * eps).all()  # only the limits of pixels take from it


def test_a_square_in_l2_takes_from_another(victim: Victim) -> None:
    """Outside the two squares nothing changes, and the whole stays as long as it was."""
    torch.manual_seed(0)
    images = torch.full((50, 2, 9, 9), 0.5)
    attack = BatchedSquare(art_classifier(victim.model, (1, 8, 8), 10), eps=0.3, norm=2)
    best = attack._grid(images)
    found = attack._bumped(images, best, 3)
    delta, before = found - images, best - images
    assert torch.allclose(delta.flatten(1).norm(dim=1), torch.tensor(0.3))
    assert torch.allclose(before.flatten(1).norm(dim=1), torch.tensor(0.3))
    changed = ((delta - before).abs() > 1e-6).any(1).flatten(1).sum(1)
    assert ((changed >= 9) & (changed <= 18)).all()
    assert changed.max() == 18 and changed.min() < 18
    emptied = ((delta.abs() < 1e-7) & (before.abs() > 1e-4)).all(1).flatten(1).sum(1)
    assert emptied.max() == 9


def test_a_bump_and_its_antipode() -> None:
    """Rings of 1 and 1/4 around the middles of a 1 x 3 and a 2 x 3 rectangle, each of length one."""
    upper = torch.tensor([[0.25, 1.25, 0.25]])
    lower = torch.tensor([[0.25, 0.25, 0.25], [0.25, 1.25, 0.25]])
    expected = torch.cat([upper / upper.norm(), -lower / lower.norm()]) / 2**0.5
    torch.manual_seed(0)
    found = [_bump(3) for _ in range(20)]
    assert {torch.allclose(one, expected) for one in found} == {True, False}
    assert all(torch.allclose(one, expected) or torch.allclose(one.T, expected) for one in found)
    assert torch.equal(_bump(1), torch.ones(1, 1))


def test_square_spends_one_pass_a_query_on_those_still_right(victim: Victim) -> None:
    seen: list[int] = []
    few = victim.right(60)
    with victim.model.register_forward_hook(lambda *a: seen.append(len(a[-1]))):
        found = few.attacked("BatchedSquare", eps=0.1, max_iter=50)
    assert len(seen) == 51
    assert seen[:2] == [60, 60]
    assert seen[2:] == sorted(seen[2:], reverse=True)
    assert seen[-1] >= (~few.fooled(found)).sum()


@pytest.mark.parametrize("side", [1, 3, 5])
def test_squares_lie_anywhere_and_whole(side: int) -> None:
    found = _squares(2000, 5, 7, side)
    assert found.shape == (2000, 1, 5, 7)
    assert (found.flatten(1).sum(1) == side * side).all()
    assert found.any(0).all()
    rows, columns = found.any(3).sum(2), found.any(2).sum(2)
    assert (rows == side).all() and (columns == side).all()


def test_squares_shrink_as_published(victim: Victim) -> None:
    attack = BatchedSquare(art_classifier(victim.model, (1, 8, 8), 10), eps=0.1, max_iter=10000)
    sides = [attack._side(query, 100, 100) for query in (1, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)]
    assert sides == [round((0.8 / 2**i * 1e4) ** 0.5) for i in (0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)]


# --- the ensemble


def test_each_member_gets_what_the_others_left(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members that fool the first quarter of what they get, and what comes back for those never fooled."""
    calls: list[tuple[str, int]] = []
    few = victim.right(32)

    def member(name: str, shift: float) -> Any:
        def perturb(self: Any, images: torch.Tensor, labels: torch.Tensor, *rest: Any) -> torch.Tensor:
            calls.append((name, len(images)))
            found = (images + shift).clamp(0, 1)
            quarter = len(images) // 4
            wrong = few.images[[int((few.labels != label).nonzero()[0]) for label in labels[:quarter]]]
            return torch.cat([wrong, found[quarter:]])

        return perturb

    monkeypatch.setattr(BatchedAutoPGD, "perturb", member("apgd", 0.01))
    monkeypatch.setattr(AutoPGDTargeted, "perturb", member("apgd-t", 0.09))
    monkeypatch.setattr(FastAdaptiveBoundary, "smallest", member("fab", 0.5))
    monkeypatch.setattr(BatchedSquare, "perturb", member("square", 0.02))
    found = few.attacked("StandardAutoAttack", eps=0.1)
    assert [name for name, _ in calls] == ["apgd", "apgd-t", "fab", "square"]
    # FAB's lie outside the ball, and once drawn in fool few or none.
    assert [count for _, count in calls][:3] == [32, 24, 18]
    left = ~few.fooled(found)
    shifts = [(few.images + shift).clamp(0, 1) for shift in (0.01, 0.09, 0.1, 0.02)]
    gaps = torch.stack([gap(few, x) for x in shifts])
    assert torch.allclose(gap(few, found)[left], gaps.amin(0)[left])


def gap(victim: Victim, x: torch.Tensor) -> torch.Tensor:
    logits, column = victim.model(x), victim.labels[:, None]
    return logits.gather(1, column)[:, 0] - logits.scatter(1, column, -torch.inf).amax(1)


def test_ensemble_is_as_good_as_torchattacks_and_its_members(victim: Victim) -> None:
    """At the same budgets, which are not the published ones for the sake of time."""
    few = victim.right(20)
    eps, steps, queries = 0.09, 25, 300
    found = few.attacked("StandardAutoAttack", eps=eps, max_iter=steps, queries=queries)
    for member in ("BatchedAutoPGD", "AutoPGDTargeted"):
        assert share(few, found) >= share(few, few.attacked(member, eps=eps, max_iter=steps))
    peers = [
        torchattacks.APGD(victim.model, eps=eps, steps=steps, seed=0),
        torchattacks.APGDT(victim.model, eps=eps, steps=steps, seed=0),
        torchattacks.FAB(victim.model, eps=eps, steps=steps, multi_targeted=True, seed=0),
        torchattacks.Square(victim.model, eps=eps, n_queries=queries, seed=0),
    ]
    theirs = torchattacks.MultiAttack(peers)(few.images, few.labels)
    assert share(few, found) >= share(few, theirs)
    assert 0 < share(few, found) < 1


def test_ensemble_in_l2_is_as_good_as_torchattacks_and_its_members(victim: Victim) -> None:
    few = victim.right(20)
    eps, steps, queries = 0.45, 20, 100
    found = few.attacked("StandardAutoAttack", eps=eps, norm=2, max_iter=steps, queries=queries)
    for member in ("BatchedAutoPGD", "AutoPGDTargeted"):
        assert share(few, found) >= share(few, few.attacked(member, eps=eps, norm=2, max_iter=steps))
    peers = [
        torchattacks.APGD(victim.model, norm="L2", eps=eps, steps=steps, seed=0),
        torchattacks.APGDT(victim.model, norm="L2", eps=eps, steps=steps, seed=0),
        torchattacks.FAB(victim.model, norm="L2", eps=eps, steps=steps, multi_targeted=True, seed=0),
        torchattacks.Square(victim.model, norm="L2", eps=eps, n_queries=queries, seed=0),
    ]
    theirs = torchattacks.MultiAttack(peers)(few.images, few.labels)
    assert share(few, found) >= share(few, theirs)
    assert 0 < share(few, found) < 1


def test_the_published_budgets_are_the_defaults(victim: Victim) -> None:
    attack = StandardAutoAttack(art_classifier(victim.model, (1, 8, 8), 10), eps=0.1)
    assert (attack.max_iter, attack.nb_targets, attack.queries) == (100, 9, 5000)


# --- universal


def test_universal_is_one_perturbation_for_all(victim: Victim) -> None:
    delta = victim.attacked("BatchedUniversal", eps=0.1) - victim.images
    inside = (victim.images > 0.1) & (victim.images < 0.9)
    for pixel in range(64):
        values = delta.flatten(1)[:, pixel][inside.flatten(1)[:, pixel]]
        assert len(values) == 0 or values.max() - values.min() < 1e-6


def test_universal_fools_more_than_noise_and_stock_art(victim: Victim) -> None:
    found = victim.attacked("BatchedUniversal", eps=0.1)
    quick = {"attacker": "fgsm", "attacker_params": {"eps": 0.02}, "max_iter": 5}
    stock = victim.attacked("UniversalPerturbation", eps=0.1, **quick)
    assert share(victim, found) >= share(victim, stock)
    assert share(victim, found) > share(victim, victim.attacked("UniformNoise", eps=0.1)) + 0.1
