"""Against independent implementations: plain torch written here, torchattacks, foolbox and stock ART."""

from __future__ import annotations

from typing import Any

import foolbox
import pytest
import torch
import torchattacks
from torch.nn import functional
from victims import Victim

EPS, STEP, STEPS = 0.1, 0.025, 8


def ours(victim: Victim, method: str, **options: Any) -> torch.Tensor:
    return victim.attacked(method, 60, **options)


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


def plain_deepfool(victim: Victim, image: torch.Tensor, label: int) -> torch.Tensor:
    """Moosavi-Dezfooli et al. 2016, algorithm 2, with the gradients of all nine others at every step."""
    total, x = torch.zeros_like(image), image
    while victim.model(x[None])[0].argmax() == label:
        point = x.clone().requires_grad_()
        logits = victim.model(point[None])[0]
        steps = []
        for k in range(10):
            if k != label:
                (slope,) = torch.autograd.grad(logits[k] - logits[label], point, retain_graph=True)
                steps.append(((logits[label] - logits[k]).item() / slope.norm() + 1e-4) * slope / slope.norm())
        total = (x - image) / 1.02 + min(steps, key=torch.norm)
        x = (image + 1.02 * total).clamp(0, 1)
    return x


@pytest.mark.parametrize("kind", ["victim", "transformer"])
def test_deepfool_loses_nothing_by_the_gradients_it_spares(kind: str, request: pytest.FixtureRequest) -> None:
    """It makes a pass for the state of each image and few for other classes, where the algorithm makes nine."""
    victim = request.getfixturevalue(kind)
    seen: list[int] = []
    with victim.model[0].register_forward_hook(lambda *a: seen.append(len(a[-1]))):
        found = ours(victim, "BatchedDeepFool")
    steps: list[int] = []
    plain = []
    for image, label in zip(victim.images, victim.labels.tolist(), strict=True):
        calls: list[None] = []
        with victim.model[0].register_forward_hook(lambda *a, calls=calls: calls.append(None)):
            plain.append(plain_deepfool(victim, image, label))
        steps.append(len(calls) // 2)  # two a step, and one to see the end
    assert ((found - torch.stack(plain)).flatten(1).norm(dim=1) < 1e-3).float().mean() > 0.98
    assert all(seen)
    assert len(victim.images) + sum(steps) < sum(seen) < len(victim.images) + 1.8 * sum(steps)
    distance = [(x - victim.images).flatten(1).norm(dim=1).median() for x in (found, torch.stack(plain))]
    assert distance[0] <= 1.001 * distance[1]


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
