"""A classifier small enough to attack in milliseconds and good enough to be worth attacking."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional
from victims import Victim

from advmerge.models import Normalise


def trained(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(50):
            loss = functional.cross_entropy(model(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    data, target = load_digits(return_X_y=True)
    images = torch.tensor(data.reshape(-1, 1, 8, 8) * 255 / 16).round().float() / 255
    labels = torch.tensor(target)
    return images, labels


@pytest.fixture(scope="session")
def victim(digits: tuple[torch.Tensor, torch.Tensor]) -> Victim:
    images, labels = digits
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(32 * 16, 10),
        )
        trained(model, images[:1500], labels[:1500], 8)
    return Victim(model, images[1500:1620], labels[1500:1620])


@pytest.fixture(scope="session")
def transformer(digits: tuple[torch.Tensor, torch.Tensor]) -> Victim:
    """A vision transformer inside a classifier, as in a study."""
    images, labels = digits
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = VisionTransformer(
            img_size=8,
            patch_size=2,
            in_chans=1,
            embed_dim=32,
            depth=2,
            num_heads=2,
            mlp_ratio=2,
            class_token=False,
            global_pool="avg",
            num_classes=10,
        )
        model = nn.Sequential(Normalise([0.5], [0.5]), vit)
        trained(model, images[:1500], labels[:1500], 8)
    return Victim(model, images[1500:1620], labels[1500:1620])
