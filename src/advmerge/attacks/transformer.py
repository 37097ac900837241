"""Finding the transformer inside a model, and hooks on it that last as long as a ``with`` block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.hooks import RemovableHandle

from advmerge.errors import StudyError


def transformer(model: nn.Module, attack: str) -> Any:
    """The vision transformer of timm that ``model`` is or contains; Any, because torch types no submodule.

    Raises:
        StudyError: there is none, there are several, or its blocks are not the usual attention and MLP.
    """
    found = [module for module in model.modules() if isinstance(module, VisionTransformer)]
    if len(found) > 1:
        raise StudyError(f"{attack} attacks one vision transformer, and this model holds {len(found)}")
    for module in found:
        if all(isinstance(getattr(block, "attn", None), Attention) for block in module.blocks):
            return module
        raise StudyError(f"{attack} does not know the blocks of this transformer, {type(module.blocks[0]).__name__}")
    raise StudyError(f"{attack} attacks vision transformers of timm, and this model is none: {type(model).__name__}")


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks at the end of the block, whatever happens in it."""
    kept = list(handles)
    try:
        yield
    finally:
        for handle in kept:
            handle.remove()
