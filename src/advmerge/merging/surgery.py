"""Representation surgery on top of any merged encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from advmerge.merging import Count, Rate, Steps
from advmerge.models import Surgery
from advmerge.seeding import torch_generator


def operate(
    merged: Tensor,
    expert: Tensor,
    seed: int,
    task: str,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    *,
    rank: Count = 16,
    steps: Steps = 500,
    lr: Rate = 1e-3,
    batch: Count = 16,
) -> tuple[Surgery, dict[str, float]]:
    """Train one task's surgery module to pull the merged features onto the expert's.

    Yang et al., "Representation Surgery for Multi-Task Model Merging", ICML 2024, eq. 4–5: L1 distance, Adam.
    The encoders are frozen, so their features are computed once, outside.

    Args:
        merged: features of the merged encoder on the adaptation images, float32 [N, features].
        expert: features of the task's expert on the same images.
        seed: of the initial weights and the draws of batches.
        task: whose module this is; part of the seed.
        progress: wraps the steps.
        rank: width of the module.
        steps: of Adam.
        lr: Adam's learning rate.
        batch: features a step.

    Returns:
        The module, and the L1 distance to the expert before and after.
    """
    generator = torch_generator(seed, "surgery", task)
    module = Surgery(merged.shape[1], rank, generator)
    optimiser = torch.optim.Adam(module.parameters(), lr=lr)
    before = float(F.l1_loss(merged, expert))
    for _ in progress(range(steps)):
        index = torch.randint(len(merged), (batch,), generator=generator)
        loss = F.l1_loss(module(merged[index]), expert[index])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        after = float(F.l1_loss(module(merged), expert))
    return module.requires_grad_(False), {"distance_before": before, "distance_after": after}
