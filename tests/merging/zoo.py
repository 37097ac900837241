"""A tiny timm ViT, random experts of it, and what adaptive methods may see of their tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advmerge.merging import Adaptation
from advmerge.models import Classifier, Head, Normalise, build_encoder

BACKBONE = {
    "timm": "vit_tiny_patch16_224",
    "options": {
        "img_size": 16, "patch_size": 8, "in_chans": 1, "embed_dim": 16, "depth": 2, "num_heads": 2,
        "mlp_ratio": 2.0, "class_token": False, "global_pool": "avg",
    },
    "mean": [0.5],
    "std": [0.5],
    "pretrained": "recipe",
}  # fmt: skip


@dataclass
class Zoo:
    """A pretrained tiny ViT, three random experts, and what adaptive methods may see of their tasks.

    Attributes:
        backbone: as in a study.
        pretrained: encoder state dict.
        finetuned: task → state dict.
        heads: task → head with 3, 4 or 5 classes.
        images: task → uint8 [40, 1, 16, 16].
        labels: task → int64 [40].
    """

    backbone: dict[str, Any]
    pretrained: dict[str, Tensor]
    finetuned: dict[str, dict[str, Tensor]]
    heads: dict[str, Head]
    images: dict[str, Tensor]
    labels: dict[str, Tensor]

    def encoder(self, state: dict[str, Tensor]) -> nn.Module:
        encoder = build_encoder(self.backbone)
        encoder.load_state_dict(state)
        return encoder.eval().requires_grad_(False)

    def classifier(self, task: str, state: dict[str, Tensor]) -> Classifier:
        return Classifier(self.encoder(state), self.heads[task], Normalise([0.5], [0.5])).eval()

    def tasks(self) -> dict[str, Adaptation]:
        """One encoder shared by all tasks' classifiers, as the workflow has it."""
        encoder, normalise = self.encoder(self.pretrained), Normalise([0.5], [0.5])
        return {
            task: Adaptation(Classifier(encoder, head, normalise).eval(), self.images[task], self.labels[task])
            for task, head in self.heads.items()
        }


def make_zoo() -> Zoo:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pretrained = build_encoder(BACKBONE).state_dict()
        tasks = {"red": 3, "green": 4, "blue": 5}
        finetuned = {
            task: {
                name: tensor + 0.05 * torch.randn_like(tensor) if tensor.is_floating_point() else tensor.clone()
                for name, tensor in pretrained.items()
            }
            for task in tasks
        }
        heads = {
            task: Head(
                {
                    "weight": 4 * torch.randn(classes, 16),
                    "bias": torch.zeros(classes),
                    "mean": torch.zeros(16),
                    "std": torch.ones(16),
                }
            )
            for task, classes in tasks.items()
        }
        images = {task: torch.randint(0, 256, (40, 1, 16, 16), dtype=torch.uint8) for task in tasks}
        labels = {task: torch.randint(classes, (40,)) for task, classes in tasks.items()}
    return Zoo(BACKBONE, pretrained, finetuned, heads, images, labels)
