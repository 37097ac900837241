"""Methods on the singular values of matrices' task vectors.

A matrix is a tensor of two axes that multiplies activations: position and token embeddings are none, whatever
their shape, nor are convolution kernels. Fused query-key-value weights are one matrix here; splitting them would
give another merge. Every tensor that is no matrix gets θ_0 + scale · mean of the τ_t, as in the authors' code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from advmerge.merging import Place, Scale, Share, register
from advmerge.merging.linear import total

EMBEDDING = re.compile(r"pos_?embed|position|rel_pos|token|embeddings?\.weight")


def is_matrix(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is a matrix in the sense of this module."""
    return tensor.ndim == 2 and min(tensor.shape) > 1 and not EMBEDDING.search(name)


def mean_vector(pretrained: Tensor, finetuned: Sequence[Tensor]) -> Tensor:
    """(1/T) Σ τ_t."""
    return total(expert - pretrained for expert in finetuned) / len(finetuned)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns (or rows): P Qᵀ of the SVD P D Qᵀ (Procrustes)."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


@register("tsv")
def tsv(pretrained: Tensor, finetuned: Sequence[Tensor], place: Place, *, scale: Scale = 1.0) -> Tensor:
    """TSV-M: θ_0 + α U⊥ Σ V⊥ᵀ of the top 1/T singular triples of each task.

    Gargiulo et al., "Task Singular Vectors: Reducing Task Interference in Model Merging", CVPR 2025. Each τ_t keeps
    ⌊r/T⌋ triples (at least one), r = min of its sides; the tasks' U and V are concatenated and orthogonalised.

    Args:
        pretrained: θ_0.
        finetuned: θ_t.
        place: its name tells matrices.
        scale: α.
    """
    if not is_matrix(place.name, pretrained):
        return pretrained + scale * mean_vector(pretrained, finetuned)
    rank = max(1, min(pretrained.shape) // len(finetuned))
    parts = [torch.linalg.svd(expert - pretrained, full_matrices=False) for expert in finetuned]
    left = orthogonal(torch.cat([u[:, :rank] for u, _, _ in parts], 1))
    values = torch.cat([s[:rank] for _, s, _ in parts])
    right = orthogonal(torch.cat([v[:rank] for _, _, v in parts], 0))
    return pretrained + scale * (left * values) @ right


@register("iso_c")
def iso_c(pretrained: Tensor, finetuned: Sequence[Tensor], place: Place, *, scale: Scale) -> Tensor:
    """Iso-C: θ_0 + α σ̄ U Vᵀ, U Σ Vᵀ the SVD of Στ and σ̄ the mean of its singular values.

    Marczak et al., "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces", ICML 2025.

    Args:
        pretrained: θ_0.
        finetuned: θ_t.
        place: its name tells matrices.
        scale: α, chosen on validation data in the paper; about 1.5.
    """
    if not is_matrix(place.name, pretrained):
        return pretrained + scale * mean_vector(pretrained, finetuned)
    left, values, right = torch.linalg.svd(total(expert - pretrained for expert in finetuned), full_matrices=False)
    return pretrained + scale * values.mean() * (left @ right)


@register("iso_cts")
def iso_cts(
    pretrained: Tensor, finetuned: Sequence[Tensor], place: Place, *, scale: Scale, common: Share = 0.8
) -> Tensor:
    """Iso-CTS: as Iso-C, but a share of the directions is each task's own.

    Marczak et al., "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces", ICML 2025.
    Of r = min of the sides, k are the first left and right singular vectors of Στ; the other r − k come in equal
    numbers from the SVD of each τ_t with its part in the common left subspace taken away. All of them are
    concatenated, orthogonalised and given the mean of their singular values.

    Args:
        pretrained: θ_0.
        finetuned: θ_t.
        place: its name tells matrices.
        scale: α, chosen on validation data in the paper; about 1.5.
        common: k/r; as in the authors' code r − ⌊common · r⌋ is rounded to the nearest multiple of T.
    """
    if not is_matrix(place.name, pretrained):
        return pretrained + scale * mean_vector(pretrained, finetuned)
    vectors = [expert - pretrained for expert in finetuned]
    size = min(pretrained.shape)
    own = min(round((size - int(common * size + 1e-9)) / len(vectors)), size // len(vectors))  # a task
    shared = size - own * len(vectors)
    left, values, right = torch.linalg.svd(torch.stack(vectors).sum(0), full_matrices=False)
    left, values, right = left[:, :shared], values[:shared], right[:shared]
    parts = [torch.linalg.svd(vector - left @ (left.T @ vector), full_matrices=False) for vector in vectors]
    lefts = torch.cat([left, *(u[:, :own] for u, _, _ in parts)], 1)
    strength = torch.cat([values, *(s[:own] for _, s, _ in parts)]).mean()
    rights = torch.cat([right, *(v[:own] for _, _, v in parts)], 0)
    return pretrained + scale * strength * (orthogonal(lefts) @ orthogonal(rights))
