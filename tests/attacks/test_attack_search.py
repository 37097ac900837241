"""The parts of our attacks that good results alone would not show to be broken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from victims import Victim

from advmerge.attacks.batched_auto_pgd import BatchedAutoPGD
from advmerge.attacks.batched_carlini_l2 import BatchedCarliniL2
from advmerge.attacks.bridge import art_classifier


def test_carlini_bisects_a_constant_for_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenfold until the first success, then halfway between the greatest failure and the least success."""
    outcomes = [[False, True, False], [True, True, False], [True, False, False], [False, False, False]]
    tried: list[list[float]] = []

    def descend(self: object, images: object, labels: object, const: torch.Tensor, best: object) -> torch.Tensor:
        tried.append(const.tolist())
        return torch.tensor(outcomes[len(tried) - 1])

    monkeypatch.setattr(BatchedCarliniL2, "_descend", descend)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.tensor([1.0, 0.0])
    attack = BatchedCarliniL2(art_classifier(model, (1, 2, 2), 2), initial_const=1, binary_search_steps=4)
    attack.generate(np.full((3, 1, 2, 2), 0.5, np.float32), np.zeros(3, np.int64))
    expected = [[1, 10, 5.5, 3.25], [1, 0.5, 0.25, 0.375], [1, 10, 100, 1000]]
    np.testing.assert_allclose(np.array(tried).T, expected)


class Peak(nn.Module):
    """Loss of class 0 is highest at one point, which lies within the ball and fools nobody."""

    def __init__(self, top: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("top", top)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        fall = (images - self.top).square().flatten(1).sum(1)
        return torch.stack([1 + fall, torch.zeros_like(fall)], dim=1)


@pytest.mark.parametrize("norm", [np.inf, 2])
def test_apgd_halves_its_step_until_it_reaches_the_peak(norm: float) -> None:
    eps = 0.1 if norm != 2 else 0.3
    images = torch.full((5, 1, 4, 4), 0.5)
    top = images[0] + 0.04 * torch.linspace(-1, 1, 16).reshape(1, 4, 4)
    attack = BatchedAutoPGD(art_classifier(Peak(top), (1, 4, 4), 2), eps=eps, norm=norm, max_iter=100)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    found = torch.from_numpy(attack.generate(images.numpy(), np.zeros(5, np.int64)))
    assert (found - top).abs().max() < eps / 20


def test_halvings_bring_a_long_first_step_back_to_the_boundary(victim: Victim) -> None:
    few = victim.right(40)
    options = {"binary_search_steps": 1, "max_iter": 3, "initial_const": 100.0, "learning_rate": 1.0}
    far = few.attacked("BatchedCarliniL2", **options)
    near = few.attacked("BatchedCarliniL2", **options, halvings=10)
    fooled = few.fooled(far)
    assert fooled.any()
    assert torch.equal(few.fooled(near), fooled)
    assert torch.equal(near[~fooled], far[~fooled])
    lengths = [(x - few.images)[fooled].flatten(1).norm(dim=1) for x in (far, near)]
    assert (lengths[1] <= lengths[0]).all()
    assert lengths[1].median() < 0.5 * lengths[0].median()
    step = (far - few.images) / 2**10  # the last half: a little nearer, and it does not fool
    assert not few.fooled(near - 1.01 * step)[fooled].any()
