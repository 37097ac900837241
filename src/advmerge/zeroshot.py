"""Zero-shot heads: the class names' embeddings by CLIP's text tower (Radford et al. 2021, section 3.1.4).

The prompts of a dataset are in ``data/prompts/<source>.json``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advmerge import data
from advmerge.errors import StudyError, unknown


def prompts(kind: str, classes: Sequence[str]) -> list[list[str]]:
    """The texts of each class: every template of its source, filled with the words for the class."""
    templates = data.prompts(kind)["templates"]
    return [[template.replace("{}", word) for template in templates] for word in data.words(kind, classes)]


def configured(name: str) -> str:
    """The name by which open_clip knows a model: a name of its own, or a JSON file with a model's configuration.

    Raises:
        StudyError: there is no such model or file.
    """
    import open_clip

    if name.endswith(".json"):
        if not Path(name).is_file():
            raise StudyError(f"head.open_clip: {name}: no such file")
        open_clip.add_model_config(Path(name))
        name = Path(name).stem
    if name not in open_clip.list_models():
        raise unknown("model of open_clip", name, open_clip.list_models(), "head.open_clip")
    return name


def check(name: str, features: int) -> None:
    """Refuse a text tower that open_clip does not know, or that embeds into another space than the encoder's.

    Raises:
        StudyError: naming the key.
    """
    import open_clip

    size = open_clip.get_model_config(configured(name))["embed_dim"]
    if size != features:
        raise StudyError(
            f"head.open_clip: '{name}' has {size} features and the backbone {features}; a CLIP backbone needs "
            f"backbone.options.num_classes: {size}, its projection"
        )


def load_clip(name: str, state: Mapping[str, Tensor]) -> nn.Module:
    """An open_clip model with both its towers.

    Raises:
        StudyError: the tensors are not this model's.
    """
    import open_clip

    logging.disable(logging.WARNING)  # it warns of random weights, which are replaced below
    try:
        model = open_clip.create_model(configured(name), pretrained=None, load_weights=False)
    finally:
        logging.disable(logging.NOTSET)
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        said = " ".join(str(error).split())[:300]
        raise StudyError(
            f"head.open_clip: the weights are not those of '{name}' with both its towers: {said}"
        ) from None
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def zero_shot_head(model: Any, name: str, texts: Sequence[Sequence[str]]) -> dict[str, Tensor]:
    """A head whose logits are open_clip's image-text logits.

    The row of a class is the length-normalised mean of its texts' length-normalised embeddings, times the logit scale.

    Args:
        model: of :func:`load_clip`.
        name: the model's, for its tokeniser.
        texts: of each class.

    Returns:
        The tensors of a :class:`~advmerge.models.Head`: it subtracts nothing and divides by one.
    """
    import open_clip

    tokenise = open_clip.get_tokenizer(configured(name))
    place = next(model.parameters()).device
    rows = []
    for group in texts:
        embedded = F.normalize(model.encode_text(tokenise(list(group)).to(place)).float(), dim=-1)
        rows.append(F.normalize(embedded.mean(0), dim=0))
    weight = (torch.stack(rows) * model.logit_scale.exp()).cpu()
    features = weight.shape[1]
    return {
        "weight": weight,
        "bias": torch.zeros(len(weight)),
        "mean": torch.zeros(features),
        "std": torch.ones(features),
    }
