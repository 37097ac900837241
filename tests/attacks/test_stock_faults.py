"""What ART 1.20.1 gets wrong, which is why a study may not name these. A test that fails says that ART has mended it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import art.attacks.evasion as stock
import numpy as np
import pytest
import torch
from torch import nn
from victims import Victim

from advmerge.attacks.bridge import art_classifier, craft
from advmerge.attacks.registry import BROKEN


def test_every_refused_attack_has_its_fault_here() -> None:
    pinned = {*AUTO_PGD, "AutoAttack", "CarliniL2Method", "CarliniLInfMethod", "DeepFool"}
    assert pinned == BROKEN.keys()


# --- AutoPGD

AUTO_PGD = ["AutoProjectedGradientDescent", "AutoConjugateGradient"]


def spent(victim: Victim, found: torch.Tensor, eps: float) -> float:
    """Mean share of the budget that pixels with room on both sides spend; 1/2 is uniform noise."""
    inside = (victim.images >= eps) & (victim.images <= 1 - eps)
    return ((found - victim.images).abs()[inside] / eps).mean().item()


@pytest.mark.parametrize("method", AUTO_PGD)
def test_apgd_gives_noise_for_images_that_it_does_not_fool(victim: Victim, method: str) -> None:
    few, eps = victim.right(60), 0.01
    theirs = few.attacked(method, eps=eps, eps_step=2 * eps, max_iter=10, nb_random_init=1)
    mine = few.attacked("BatchedAutoPGD", eps=eps, max_iter=10)
    left = ~few.fooled(theirs) & ~few.fooled(mine)
    assert left.sum() > 50
    unfooled = Victim(few.model, few.images[left], few.labels[left])
    assert spent(unfooled, theirs[left], eps) == pytest.approx(0.5, abs=0.03)
    assert spent(unfooled, mine[left], eps) > 0.95


@pytest.mark.parametrize("method", AUTO_PGD)
def test_apgd_leaves_images_that_are_already_wrong(victim: Victim, method: str) -> None:
    theirs = victim.attacked(method, eps=0.1, eps_step=0.2, max_iter=3, nb_random_init=1)
    wrong = victim.fooled(victim.images)
    assert wrong.any()
    assert torch.equal(theirs[wrong], victim.images[wrong])
    mine = victim.attacked("BatchedAutoPGD", eps=0.1, max_iter=3)
    assert (mine != victim.images).flatten(1).any(1).all()


# --- AutoAttack


def test_autoattack_is_not_the_published_ensemble(victim: Victim) -> None:
    members = stock.AutoAttack(art_classifier(victim.model, (1, 8, 8), 10)).attacks
    names = ["AutoProjectedGradientDescent", "AutoProjectedGradientDescent", "DeepFool", "SquareAttack"]
    assert [type(member).__name__ for member in members] == names
    assert not any(member.targeted for member in members)


def test_autoattack_needs_an_undeclared_package_and_leaves_unfooled_images_clean(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = victim.right(30)
    classifier = art_classifier(victim.model, (1, 8, 8), 10)
    attack = stock.AutoAttack(classifier, eps=0.1, attacks=[stock.FastGradientMethod(classifier, eps=0.1)])
    labels = np.eye(10, dtype=np.float32)[few.labels]
    monkeypatch.setitem(sys.modules, "multiprocess", None)
    with pytest.raises(ModuleNotFoundError, match="multiprocess"):
        attack.generate(few.images.numpy(), labels)
    monkeypatch.setitem(sys.modules, "multiprocess", ModuleType("multiprocess"))
    theirs = torch.from_numpy(attack.generate(few.images.numpy(), labels))
    left = ~few.fooled(theirs)
    assert left.any() and not left.all()
    assert torch.equal(theirs[left], few.images[left])


# --- C&W


def test_carlini_l2_loses_the_lower_bound_of_its_search(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    """Having failed with c = 1 and succeeded with 2, it ought to try 1.5; but it takes 2 for what failed."""
    tried: list[float] = []

    def loss(self: object, x: np.ndarray, x_adv: object, y: object, const: np.ndarray) -> Any:
        tried.append(float(const[0]))
        zero = np.zeros(len(x))
        return np.zeros((len(x), 10)), zero, np.where(const < 1.2, 1.0, 0.0)

    monkeypatch.setattr(stock.CarliniL2Method, "_loss", loss)
    attack = stock.CarliniL2Method(
        art_classifier(victim.model, (1, 8, 8), 10), initial_const=1, binary_search_steps=4, max_iter=0, verbose=False
    )
    attack.generate(victim.images[:1].numpy(), victim.labels[:1].numpy())
    assert tried == [1, 2, 2, 2]


def test_carlini_linf_gives_images_back_as_they_were(victim: Victim) -> None:
    """With its defaults."""
    few = victim.right(2)
    attack = stock.CarliniLInfMethod(art_classifier(victim.model, (1, 8, 8), 10), verbose=False)
    theirs = torch.from_numpy(attack.generate(few.images.numpy(), few.labels.numpy()))
    assert not few.fooled(theirs).any()
    assert few.fooled(few.attacked("BatchedCarliniLInf")).all()


# --- DeepFool


class HundredClasses(nn.Module):
    """The victim's ten logits at every tenth of a hundred classes; the others are constant and unlikely."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.inner(images)
        return torch.full((len(logits), 100), -50.0).index_copy(1, torch.arange(5, 100, 10), logits)


@pytest.mark.parametrize(("nb_grads", "right"), [(100, True), (10, False)])
def test_deepfool_is_right_only_with_every_class(victim: Victim, nb_grads: int, right: bool) -> None:
    """With a subset it looks up the own logit by position in the subset: its steps have any length."""
    wide = HundredClasses(victim.model)
    good = ~victim.fooled(victim.images)
    images, labels = victim.images[good][:16], 5 + 10 * victim.labels[good][:16]

    classifier = art_classifier(wide, (1, 8, 8), 100)
    attack = stock.DeepFool(classifier, max_iter=20, nb_grads=nb_grads, epsilon=0.02, batch_size=16, verbose=False)
    theirs = torch.from_numpy(attack.generate(images.numpy()))
    options = {"nb_grads": nb_grads, "max_iter": 20}
    mine = craft(wide, images, labels, "BatchedDeepFool", options, seed=(0,), classes=100, batch_size=16)

    assert (wide(mine).argmax(1) != labels).all()
    assert (wide(theirs).argmax(1) != labels).all()
    ratio = ((theirs - images).flatten(1).norm(dim=1) / (mine - images).flatten(1).norm(dim=1)).median()
    assert ratio == pytest.approx(1, abs=0.05) if right else ratio > 1.5
