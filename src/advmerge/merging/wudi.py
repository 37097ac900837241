"""WUDI: a merged task vector that interferes least with each task's inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from advmerge.merging import Place, Rate, Steps, register
from advmerge.merging.spectral import is_matrix, mean_vector


def interference(merged: Tensor, vectors: Tensor) -> Tensor:
    """Σ_t ‖(τ_m − τ_t) τ_tᵀ‖² / ‖τ_t‖² for τ_m [m, n] and vectors [T, m, n]; a zero τ_t counts nothing."""
    sizes = vectors.square().sum((1, 2))
    products = (merged - vectors) @ vectors.transpose(1, 2)
    return (products.square().sum((1, 2)) / sizes.where(sizes > 0, 1)).sum()


@register("wudi")
def wudi(
    pretrained: Tensor, finetuned: Sequence[Tensor], place: Place, *, steps: Steps = 300, lr: Rate = 1e-5
) -> Tensor:
    """WUDI-Merging: θ_0 + τ_m, τ_m minimising Σ_t ‖(τ_m − τ_t) τ_tᵀ‖² / ‖τ_t‖² from Στ on.

    Cheng et al., "Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task
    Vectors", ICML 2025. For matrices; every other tensor gets the mean task vector. What the optimum is does not
    depend on ``lr`` and ``steps``, but the result does: the paper stops early.

    Args:
        pretrained: θ_0.
        finetuned: θ_t.
        place: its name tells matrices.
        steps: of Adam.
        lr: Adam's learning rate.
    """
    if not is_matrix(place.name, pretrained):
        return pretrained + mean_vector(pretrained, finetuned)
    vectors = torch.stack([expert - pretrained for expert in finetuned])
    with torch.enable_grad():
        merged = vectors.sum(0).requires_grad_()
        optimiser = torch.optim.Adam([merged], lr=lr)
        for _ in range(steps):
            optimiser.zero_grad(set_to_none=True)
            interference(merged, vectors).backward()
            optimiser.step()
    return pretrained + merged.detach()
