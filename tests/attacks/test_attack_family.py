"""The momentum family against torchattacks, and against equations written out here where there are random draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchattacks
from torch import nn
from torch.nn import functional
from victims import Victim

from advmerge.attacks.bridge import craft, seeded
from advmerge.seeding import derive

EPS, STEP, STEPS = 0.1, 0.025, 6
COMMON = {"eps": EPS, "eps_step": STEP, "max_iter": STEPS}


class Exact(nn.Module):
    """Logits in double precision: in float32 torch's cross-entropy loses the label's part of the gradient of a
    confident image, and so do the peers; ours does not."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images).double()


def ours(victim: Victim, method: str, **options: Any) -> torch.Tensor:
    return victim.attacked(method, **{**COMMON, **options})


def assert_equal_but_for_rounding(one: torch.Tensor, other: torch.Tensor) -> None:
    """A gradient that is zero but for rounding may take either sign: one pixel in 500 may differ."""
    assert ((one - other).abs() > 1e-5).float().mean() < 2e-3


def gradient(
    victim: Victim, x: torch.Tensor, view: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> torch.Tensor:
    x = x.clone().requires_grad_()
    seen = x if view is None else view(x)
    return torch.autograd.grad(functional.cross_entropy(Exact(victim.model)(seen), victim.labels, reduction="sum"), x)[
        0
    ]


def written_out(victim: Victim, rule: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """MI-FGSM with the gradient that ``rule`` gives for an iterate, drawing what the first chunk draws."""
    x, momentum = victim.images, torch.zeros_like(victim.images)
    with seeded(derive(0, 0)):
        for _ in range(STEPS):
            found = rule(x)
            momentum = momentum + found / found.abs().sum((1, 2, 3), keepdim=True)
            x = x + STEP * momentum.sign()
            x = torch.min(torch.max(x, victim.images - EPS), victim.images + EPS).clamp(0, 1)
    return x


def noise(x: torch.Tensor, reach: float) -> torch.Tensor:
    return torch.empty(x.shape).uniform_(-reach, reach)


def test_without_options_it_is_mi_fgsm(victim: Victim) -> None:
    found = ours(victim, "IterativeFGSM")
    assert_equal_but_for_rounding(found, written_out(victim, lambda x: gradient(victim, x)))
    stock = ours(Victim(Exact(victim.model), victim.images, victim.labels), "MomentumIterativeMethod", decay=1.0)
    assert_equal_but_for_rounding(found, stock)


def test_the_default_step_spends_eps_once(victim: Victim) -> None:
    assert torch.equal(ours(victim, "NIFGSM", eps_step=None), ours(victim, "NIFGSM", eps_step=EPS / STEPS))


def test_ni(victim: Victim) -> None:
    peer = torchattacks.NIFGSM(Exact(victim.model), eps=EPS, alpha=STEP, steps=STEPS, decay=1.0)
    found = ours(victim, "NIFGSM")
    assert_equal_but_for_rounding(found, peer(victim.images, victim.labels))
    assert ((found - ours(victim, "IterativeFGSM")).abs() > 1e-3).float().mean() > 0.02


def test_si_with_ni(victim: Victim) -> None:
    peer = torchattacks.SINIFGSM(Exact(victim.model), eps=EPS, alpha=STEP, steps=STEPS, decay=1.0, m=3)
    found = ours(victim, "IterativeFGSM", nesterov=True, scales=3)
    assert_equal_but_for_rounding(found, peer(victim.images, victim.labels))


def test_si(victim: Victim) -> None:
    def rule(x: torch.Tensor) -> torch.Tensor:
        return sum((gradient(victim, x, lambda x, i=i: x / 2**i) for i in range(5)), torch.zeros_like(x))

    assert_equal_but_for_rounding(ours(victim, "SIFGSM"), written_out(victim, rule))


@pytest.mark.parametrize("size", [3, 5])
def test_ti_in_colour(victim: Victim, size: int) -> None:
    class Grey(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = victim.model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.model((images * torch.tensor([0.5, 0.3, 0.2]).reshape(3, 1, 1)).sum(1, keepdim=True))

    coloured = Victim(Grey(), victim.images.expand(-1, 3, -1, -1).contiguous(), victim.labels)
    peer = torchattacks.TIFGSM(
        Exact(coloured.model), eps=EPS, alpha=STEP, steps=STEPS, decay=1.0, len_kernel=size, diversity_prob=0.0
    )
    assert_equal_but_for_rounding(ours(coloured, "TIFGSM", kernel_size=size), peer(coloured.images, coloured.labels))


@pytest.mark.parametrize("off", [{"diversity": 0.0}, {"diversity": 1.0, "resize": 1.0}])
def test_di_without_diversity_is_mi(victim: Victim, off: dict[str, float]) -> None:
    assert_equal_but_for_rounding(ours(victim, "DIFGSM", **off), ours(victim, "IterativeFGSM"))


def test_di(victim: Victim) -> None:
    """The view, pixel by pixel: bilinear between the centres of pixels, black outside."""

    def view(x: torch.Tensor) -> torch.Tensor:
        side = int(torch.randint(5, 9, ()))
        top, left = int(torch.randint(9 - side, ())), int(torch.randint(9 - side, ()))
        place = ((torch.arange(side) + 0.5) * 8 / side - 0.5).clamp(0, 7)
        low = place.floor().long()
        weight = torch.zeros(side, 8)
        weight[torch.arange(side), low] = 1 - (place - low)
        weight[torch.arange(side), (low + 1).clamp_max(7)] += place - low
        seen = torch.zeros_like(x)
        seen[:, :, top : top + side, left : left + side] = weight @ x @ weight.T
        chosen = torch.rand(len(x)) < 0.7
        return torch.where(chosen.reshape(-1, 1, 1, 1), seen, x)

    found = ours(victim, "DIFGSM", diversity=0.7, resize=0.7)
    assert_equal_but_for_rounding(found, written_out(victim, lambda x: gradient(victim, x, view)))


def test_vmi(victim: Victim) -> None:
    variance: list[torch.Tensor] = [torch.zeros_like(victim.images)]

    def rule(x: torch.Tensor) -> torch.Tensor:
        here = gradient(victim, x)
        around = [gradient(victim, x + noise(x, 1.5 * EPS)) for _ in range(4)]
        variance.append(torch.stack(around).mean(0) - here)
        return here + variance[-2]

    assert_equal_but_for_rounding(ours(victim, "VMIFGSM", neighbours=4), written_out(victim, rule))
    still = ours(victim, "VMIFGSM", neighbours=2, beta=0.0)
    assert_equal_but_for_rounding(still, ours(victim, "IterativeFGSM"))


def test_a_second_batch_does_not_inherit_the_variance_of_the_first(victim: Victim) -> None:
    options = {**COMMON, "neighbours": 2, "beta": 0.5, "batch_size": 60}
    same = torch.cat([victim.images[:60]] * 2), torch.cat([victim.labels[:60]] * 2)
    found = craft(victim.model, *same, "VMIFGSM", {**options, "max_iter": 1}, seed=(0,), classes=10, batch_size=120)
    assert torch.equal(found[:60], found[60:])  # the first step is MI-FGSM's, whatever is drawn


def test_admix(victim: Victim) -> None:
    different = (victim.labels[:, None] != victim.labels).float()

    def rule(x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x)
        for _ in range(2):
            partner = (different + torch.rand(different.shape)).argmax(1)
            assert (victim.labels[partner] != victim.labels).all()
            mixed = x + 0.3 * x[partner]
            total += sum((gradient(victim, mixed / 2**i) / 2**i for i in range(3)), torch.zeros_like(x))
        return total

    assert_equal_but_for_rounding(ours(victim, "Admix", mixes=2, portion=0.3, scales=3), written_out(victim, rule))
    alone = ours(victim, "Admix", mixes=2, portion=0.0, scales=3)
    assert_equal_but_for_rounding(alone, ours(victim, "SIFGSM", scales=3))


def test_pgn(victim: Victim) -> None:
    def rule(x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x)
        for _ in range(3):
            near = x + noise(x, 3 * EPS)
            there = gradient(victim, near)
            below = gradient(victim, near - STEP * there / there.abs().mean((1, 2, 3), keepdim=True))
            total += 0.6 * there + 0.4 * below
        return total

    assert_equal_but_for_rounding(ours(victim, "PGN", neighbours=3, balance=0.4), written_out(victim, rule))
    still = ours(victim, "PGN", neighbours=1, balance=0.0, zeta=0.0)
    assert_equal_but_for_rounding(still, ours(victim, "IterativeFGSM"))


NAMED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("NIFGSM", {}, {"nesterov": True}),
    ("DIFGSM", {}, {"diversity": 0.5}),
    ("TIFGSM", {"kernel_size": 3}, {"kernel_size": 3}),
    ("SIFGSM", {}, {"scales": 5}),
    ("Admix", {"mixes": 2}, {"mixes": 2, "scales": 5}),
    ("VMIFGSM", {"neighbours": 4}, {"neighbours": 4}),
]


@pytest.mark.parametrize(("method", "options", "parts"), NAMED)
def test_names_are_combinations_of_one(
    victim: Victim, method: str, options: dict[str, Any], parts: dict[str, Any]
) -> None:
    assert torch.equal(ours(victim, method, **options), ours(victim, "IterativeFGSM", **parts))


def test_combinations_nest_as_published(victim: Victim) -> None:
    """VMI-CT: the variance is that of gradients over scaled copies, and the sum is smoothed."""
    line = torch.tensor([-3.0, 0.0, 3.0]).square().div(-2).exp()
    kernel = torch.outer(line, line)[None, None]
    variance: list[torch.Tensor] = [torch.zeros_like(victim.images)]

    def copies(x: torch.Tensor) -> torch.Tensor:
        return (gradient(victim, x) + gradient(victim, x / 2) / 2) / 2

    def rule(x: torch.Tensor) -> torch.Tensor:
        here = copies(x)
        around = [copies(x + noise(x, 1.5 * EPS)) for _ in range(2)]
        variance.append(torch.stack(around).mean(0) - here)
        return functional.conv2d(here + variance[-2], kernel, padding=1)

    found = ours(victim, "IterativeFGSM", scales=2, neighbours=2, kernel_size=3)
    assert_equal_but_for_rounding(found, written_out(victim, rule))


class Confident(nn.Module):
    """So sure that cross-entropy, and its gradient in float32, is zero."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        gap = 30 + images.flatten(1).sum(1)
        return torch.stack([gap, -gap], dim=1)


def test_a_saturated_loss_still_has_a_direction() -> None:
    images = torch.full((2, 1, 2, 2), 0.5)
    options = {"eps": 0.1, "max_iter": 2}
    found = craft(
        Confident(), images, torch.zeros(2, dtype=torch.int64), "NIFGSM", options, seed=(0,), classes=2, batch_size=2
    )
    assert torch.allclose(found, images - 0.1)


def test_no_gradient_no_step_and_no_nan(victim: Victim) -> None:
    class Blind(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 0 * images.flatten(1)[:, :10]

    blind = Victim(Blind(), victim.images, victim.labels)
    assert torch.equal(ours(blind, "NIFGSM"), victim.images)


def test_pgd_in_l2_is_right_in_stock_art(victim: Victim) -> None:
    """torchattacks clips to [0, 1] after it projects, and so ends within the ball instead of on it."""
    exact = Victim(Exact(victim.model), victim.images, victim.labels)
    found = ours(exact, "ProjectedGradientDescent", eps=0.5, eps_step=0.1, max_iter=8, norm=2)
    x = victim.images
    for _ in range(8):
        slope = gradient(victim, x)
        x = (x + 0.1 * slope / slope.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)).clamp(0, 1)
        delta = x - victim.images
        x = victim.images + delta * (0.5 / delta.flatten(1).norm(dim=1)).clamp_max(1).reshape(-1, 1, 1, 1)
    assert_equal_but_for_rounding(found, x)
    peer = torchattacks.PGDL2(exact.model, eps=0.5, alpha=0.1, steps=8, random_start=False)
    theirs = peer(victim.images, victim.labels)
    assert victim.fooled(found).float().mean() >= victim.fooled(theirs).float().mean()
    assert (victim.odds(found) > victim.odds(theirs)).float().mean() > 0.9
