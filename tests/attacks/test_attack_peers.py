"""Against independent implementations: plain torch written here, torchattacks, foolbox and stock ART."""

from __future__ import annotations

from typing import Any

import foolbox
import pytest
import torch
import torchattacks
from art.attacks.evasion import DeepFool
from torch import nn
from torch.nn import functional
from victims import Victim

from advmerge.attacks.bridge import art_classifier, craft

EPS, STEP, STEPS = 0.1, 0.025, 8


def ours(victim: Victim, method: str, **options: Any) -> torch.Tensor:
    return craft(victim.model, victim.images, victim.labels, method, options, seed=(0,), classes=10, batch_size=60)


def gradient(victim: Victim, images: torch.Tensor) -> torch.Tensor:
    images = images.clone().requires_grad_()
    loss = functional.cross_entropy(victim.model(images), victim.labels, reduction="sum")
    return torch.autograd.grad(loss, images)[0]


def plain_fgsm(victim: Victim) -> torch.Tensor:
    return (victim.images + EPS * gradient(victim, victim.images).sign()).clamp(0, 1)


def plain_pgd(victim: Victim, decay: float | None = None) -> torch.Tensor:
    """Madry et al. 2018 from the clean image; with ``decay`` the momentum of Dong et al. 2018, equation 6."""
    x, momentum = victim.images, torch.zeros_like(victim.images)
    for _ in range(STEPS):
        direction = gradient(victim, x)
        if decay is not None:
            size = direction.flatten(1).abs().sum(1).reshape(-1, 1, 1, 1)
            momentum = decay * momentum + direction / size
            direction = momentum
        x = x + STEP * direction.sign()
        x = torch.min(torch.max(x, victim.images - EPS), victim.images + EPS).clamp(0, 1)
    return x


def assert_equal_but_for_rounding(one: torch.Tensor, other: torch.Tensor) -> None:
    """A gradient that is zero but for rounding may take either sign: one pixel in 500 may differ."""
    assert ((one - other).abs() > 1e-5).float().mean() < 2e-3


def test_fgsm(victim: Victim) -> None:
    found = ours(victim, "FastGradientMethod", eps=EPS)
    assert_equal_but_for_rounding(found, plain_fgsm(victim))
    assert_equal_but_for_rounding(found, torchattacks.FGSM(victim.model, eps=EPS)(victim.images, victim.labels))


def test_pgd(victim: Victim) -> None:
    found = ours(victim, "ProjectedGradientDescent", eps=EPS, eps_step=STEP, max_iter=STEPS)
    assert_equal_but_for_rounding(found, plain_pgd(victim))
    peer = torchattacks.PGD(victim.model, eps=EPS, alpha=STEP, steps=STEPS, random_start=False)
    assert_equal_but_for_rounding(found, peer(victim.images, victim.labels))


def test_momentum(victim: Victim) -> None:
    found = ours(victim, "MomentumIterativeMethod", eps=EPS, eps_step=STEP, max_iter=STEPS, decay=1.0)
    assert_equal_but_for_rounding(found, plain_pgd(victim, decay=1.0))
    peer = torchattacks.MIFGSM(victim.model, eps=EPS, alpha=STEP, steps=STEPS, decay=1.0)
    # torchattacks normalises by the mean where the paper sums: the same direction.
    assert_equal_but_for_rounding(found, peer(victim.images, victim.labels))


def success_and_distance(victim: Victim, found: torch.Tensor) -> tuple[float, float]:
    """Of the images right when clean: share fooled, and median L2 with the unfooled at infinity."""
    right = ~victim.fooled(victim.images)
    fooled = victim.fooled(found)[right]
    distance = (found - victim.images)[right].flatten(1).norm(dim=1).where(fooled, torch.tensor(torch.inf))
    return fooled.float().mean().item(), distance.median().item()


def with_foolbox(victim: Victim, attack: foolbox.attacks.base.Attack) -> torch.Tensor:
    wrapped = foolbox.PyTorchModel(victim.model, bounds=(0, 1), device="cpu")
    _, found, _ = attack(wrapped, victim.images, victim.labels, epsilons=None)
    return found


def test_deepfool_is_as_good_as_foolbox_and_torchattacks(victim: Victim) -> None:
    success, distance = success_and_distance(victim, ours(victim, "BatchedDeepFool", max_iter=50))
    peers = [
        with_foolbox(victim, foolbox.attacks.L2DeepFoolAttack(steps=50, candidates=10, overshoot=0.02)),
        torchattacks.DeepFool(victim.model, steps=20, overshoot=0.02)(victim.images, victim.labels),
    ]
    for peer in peers:
        its_success, its_distance = success_and_distance(victim, peer)
        assert success >= its_success
        assert distance <= 1.005 * its_distance


@pytest.mark.parametrize(("search", "steps", "const"), [(4, 30, 0.1), (5, 60, 0.01)])
def test_carlini_is_as_good_as_foolbox(victim: Victim, search: int, steps: int, const: float) -> None:
    found = ours(victim, "BatchedCarliniL2", binary_search_steps=search, max_iter=steps, initial_const=const)
    success, distance = success_and_distance(victim, found)
    for rate in (0.01, 0.05):
        peer = foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=search, steps=steps, stepsize=rate, initial_const=const
        )
        its_success, its_distance = success_and_distance(victim, with_foolbox(victim, peer))
        assert success >= its_success
        assert distance <= its_distance


@pytest.mark.parametrize("eps", [0.03, 0.06])
def test_apgd_is_as_good_as_pgd_and_torchattacks(victim: Victim, eps: float) -> None:
    found = ours(victim, "BatchedAutoPGD", eps=eps, max_iter=20)
    pgd = ours(victim, "ProjectedGradientDescent", eps=eps, eps_step=eps / 4, max_iter=20, num_random_init=1)
    peer = torchattacks.APGD(victim.model, norm="Linf", eps=eps, steps=20, seed=0)(victim.images, victim.labels)
    share = victim.fooled(found).float().mean()
    assert share >= victim.fooled(pgd).float().mean()
    assert share >= victim.fooled(peer).float().mean()
    # torchattacks, like ART, gives the unfooled back as they were; ours are pushed as far as PGD pushes them.
    left = ~victim.fooled(found) & ~victim.fooled(pgd)
    assert left.any()
    assert (victim.odds(found)[left] >= victim.odds(pgd)[left] - 1e-2).float().mean() > 0.9


def test_apgd_in_l2_is_as_good_as_torchattacks(victim: Victim) -> None:
    found = ours(victim, "BatchedAutoPGD", eps=0.4, norm=2, max_iter=20)
    peer = torchattacks.APGD(victim.model, norm="L2", eps=0.4, steps=20, seed=0)(victim.images, victim.labels)
    assert victim.fooled(found).float().mean() >= victim.fooled(peer).float().mean()


class HundredClasses(nn.Module):
    """The victim's ten logits at every tenth of a hundred classes; the others are constant and unlikely."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.inner(images)
        return torch.full((len(logits), 100), -50.0).index_copy(1, torch.arange(5, 100, 10), logits)


@pytest.mark.parametrize(("nb_grads", "right"), [(100, True), (10, False)])
def test_stock_deepfool_is_right_only_with_every_class(victim: Victim, nb_grads: int, right: bool) -> None:
    """With a subset, ART 1.20.1 looks up the own logit by position in the subset: its steps have any length.

    When the second case fails, ART has mended it.
    """
    wide = HundredClasses(victim.model)
    good = ~victim.fooled(victim.images)
    images, labels = victim.images[good][:16], 5 + 10 * victim.labels[good][:16]

    classifier = art_classifier(wide, (1, 8, 8), 100)
    stock = DeepFool(classifier, max_iter=20, nb_grads=nb_grads, epsilon=0.02, batch_size=16, verbose=False)
    theirs = torch.from_numpy(stock.generate(images.numpy()))
    options = {"nb_grads": nb_grads, "max_iter": 20}
    mine = craft(wide, images, labels, "BatchedDeepFool", options, seed=(0,), classes=100, batch_size=16)

    assert (wide(mine).argmax(1) != labels).all()
    assert (wide(theirs).argmax(1) != labels).all()
    ratio = ((theirs - images).flatten(1).norm(dim=1) / (mine - images).flatten(1).norm(dim=1)).median()
    assert ratio == pytest.approx(1, abs=0.05) if right else ratio > 1.5
