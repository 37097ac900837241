"""Weights that others published: found, checked, and given timm's names.

Safetensors only; code that lies beside the weights is never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advmerge.artifacts import load_tensors, sha256
from advmerge.errors import StudyError

VISION = "vision_model."  # of transformers' CLIP
PROJECTION = ("head.weight", "head.bias")  # of CLIP, the last layer of timm's


def weights_file(source: Mapping[str, Any], where: str) -> Path:
    """The file of published weights, downloaded to the hub's cache if it is not there.

    Args:
        source: ``{hub: "owner/name@revision", file, sha256}``, or ``{file}`` with or without ``sha256``.
        where: the study's key, for messages.

    Raises:
        StudyError: the file cannot be had, or has another checksum.
    """
    again = ""
    if source.get("hub"):
        from huggingface_hub import hf_hub_download, hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        repository, revision = source["hub"].split("@")
        try:
            path = Path(hf_hub_download(repository, source["file"], revision=revision))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            said = str(error).strip().splitlines()[0]
            address = hf_hub_url(repository, source["file"], revision=revision)
            raise StudyError(
                f"{where}: {address} cannot be had ({said}); where there is no network, download it elsewhere and "
                f"give {{file: path, sha256: {source['sha256']}}}"
            ) from error
        again = f"; delete {path.resolve()} to download it again"
    else:
        path = Path(source["file"])
        if not path.is_file():
            raise StudyError(f"{where}: {path}: no such file")
    if source.get("sha256") and (found := sha256(path)) != source["sha256"]:
        raise StudyError(f"{where}: {path}: has the SHA-256 {found}, and {source['sha256']} is expected{again}")
    return path


def pin(hub: str, file: str) -> tuple[dict[str, str], int]:
    """Download a file of a hub repository, and say what a study writes to have that very file.

    Args:
        hub: ``owner/name``, or ``owner/name@revision``: a commit, a branch or a tag.
        file: its name in the repository.

    Returns:
        ``{hub: owner/name@commit, file, sha256}``, and its size in bytes.

    Raises:
        StudyError: it is no safetensors file, or cannot be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if not file.endswith(".safetensors"):
        raise StudyError(f"{file}: is not a .safetensors file; nothing else is read")
    repository, _, revision = hub.removeprefix("hub:").partition("@")
    try:
        path = Path(hf_hub_download(repository, file, revision=revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise StudyError(f"{hub}: {file} cannot be had ({str(error).strip().splitlines()[0]})") from error
    commit = path.parts[-1 - len(Path(file).parts)]  # its folder among the snapshots
    return {"hub": f"{repository}@{commit}", "file": file, "sha256": sha256(path)}, path.stat().st_size


def _from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' CLIPVisionModel (with or without projection) → timm's vision transformer."""
    renamed = {
        "embeddings.patch_embedding": "patch_embed.proj",
        "pre_layrnorm": "norm_pre",
        "post_layernorm": "norm",
        "encoder.layers": "blocks",
        "layer_norm": "norm",
        "self_attn.out_proj": "attn.proj",
    }
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == "visual_projection.weight":
            found |= {"head.weight": tensor, "head.bias": torch.zeros(len(tensor), dtype=tensor.dtype)}
        if not name.startswith(VISION) or name.endswith("position_ids"):
            continue
        name = name.removeprefix(VISION)
        if name == "embeddings.class_embedding":
            found["cls_token"] = tensor.reshape(1, 1, -1)
        elif name == "embeddings.position_embedding.weight":
            found["pos_embed"] = tensor[None]
        elif ".q_proj." in name:
            parts = [state[VISION + name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            found[name.replace("encoder.layers", "blocks").replace("self_attn.q_proj", "attn.qkv")] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            for old, new in renamed.items():
                name = name.replace(old, new)
            found[name] = tensor
    return found


def to_timm(
    state: Mapping[str, Tensor], encoder: nn.Module, base: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Published tensors under the names and in the shapes of a timm encoder, float32.

    Args:
        state: of open_clip (both towers, or the vision tower), of transformers' CLIP, or of timm itself.
        encoder: the timm model that they are for.
        base: the pretrained encoder's tensors; CLIP's projection is taken from it where ``state`` has none, because a
            published expert is often the tower without it.

    Raises:
        StudyError: the tensors are not the encoder's; the message says which.
    """
    if any(name.startswith(VISION) for name in state):
        found = _from_transformers(state)
    elif "visual.class_embedding" in state:
        from timm.models.vision_transformer import checkpoint_filter_fn

        found = checkpoint_filter_fn(dict(state), encoder)  # type: ignore[arg-type]
    else:
        found = dict(state)
    expected = encoder.state_dict()
    for name in PROJECTION:
        if name in expected and name not in found and base is not None:
            found[name] = base[name]
        elif name in found and name not in expected:
            size = len(found["head.weight"])
            raise StudyError(f"they end in a projection to {size} features; set backbone.options.num_classes: {size}")
    if missing := sorted(set(expected) - set(found)):
        raise StudyError(f"they lack '{missing[0]}' and {len(missing) - 1} other tensors of the encoder")
    if extra := sorted(set(found) - set(expected)):
        raise StudyError(f"they hold '{extra[0]}' and {len(extra) - 1} other tensors that the encoder has not")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            shapes = " and not ".join(" × ".join(map(str, item.shape)) for item in (found[name], tensor))
            raise StudyError(f"'{name}' is {shapes}")
    return {name: found[name].float().contiguous() for name in expected}


def load_published(
    source: Mapping[str, Any], encoder: nn.Module, where: str, base: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The tensors of :func:`to_timm` from the file of :func:`weights_file`.

    Raises:
        StudyError: naming the study's key and the file.
    """
    path = weights_file(source, where)
    tensors, _ = load_tensors(path)
    try:
        return to_timm(tensors, encoder, base)
    except StudyError as error:
        raise StudyError(f"{where}: the tensors of {path} do not fit the encoder: {error}") from None
