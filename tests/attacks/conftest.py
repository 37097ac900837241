"""A classifier small enough to attack in milliseconds and good enough to be worth attacking."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from victims import Victim


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def victim(one_thread: None) -> Victim:
    data, target = load_digits(return_X_y=True)
    images = torch.tensor(data.reshape(-1, 1, 8, 8) * 255 / 16).round().float() / 255
    labels = torch.tensor(target)
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
        optimiser = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(8):
            for rows in torch.randperm(1500).split(50):
                loss = functional.cross_entropy(model(images[rows]), labels[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    model.eval().requires_grad_(False)
    return Victim(model, images[1500:1620], labels[1500:1620])
