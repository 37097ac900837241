"""Encoder (timm), frozen head and the classifier that is attacked: normalise ∘ encoder ∘ surgery ∘ head.

Every model here maps images [N, C, H, W] in [0, 1] to logits [N, classes]; normalisation and representation
surgery are inside, so that what is attacked is what answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advmerge.artifacts import load_tensors
from advmerge.errors import StudyError
from advmerge.passes import in_parts

SURGERY = "surgery."  # prefix of the per-task modules' tensors in a merged artifact
PER_TASK = "per_task."  # prefix of a task's own: vector.<tensor>, mask.<task>.<tensor>, scale.<task>


@cache
@torch.inference_mode(False)  # whoever asks first, others will want gradients through it
def resampling(size: int, wanted: int) -> Tensor:
    """What makes ``wanted`` pixels of ``size`` (bicubic, antialiased, as PIL does it), [wanted, size]."""
    return F.interpolate(torch.eye(size)[None, None], (wanted, size), mode="bicubic", antialias=True)[0, 0]


class Normalise(nn.Module):
    """(x − mean) / std per channel; mean and std in [0, 1] pixel units.

    An encoder of another architecture may want another shape than the study's images have. It is made here, inside
    the model, so that gradients and budgets stay in the study's pixels: grey becomes three equal channels, and
    ``resize`` is the side in pixels that images are resized to (bicubic, antialiased, as PIL does it).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], resize: int | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self.resize = resize

    @classmethod
    def of(cls, backbone: Mapping[str, Any]) -> Normalise:
        """The one that a backbone wants: ``mean``, ``std`` and, if it has one, ``resize``."""
        return cls(backbone["mean"], backbone["std"], backbone.get("resize"))

    def forward(self, images: Tensor) -> Tensor:
        if self.resize:
            # As matrices, since interpolation has no deterministic gradient on CUDA.
            down, across = (resampling(size, self.resize).to(images.device) for size in images.shape[2:])
            images = down @ images @ across.T
        return (images - self.mean) / self.std  # one channel becomes as many as there are means


class Head(nn.Module):
    """A frozen linear head on standardised, length-normalised features.

    logits = W · z/‖z‖ + b with z = (f − mean)/std. The rows of W carry the logit scale. With mean 0 and std 1
    this is CLIP's zero-shot head; with the statistics of the pretrained features it is a cosine nearest-class-mean.

    Args:
        tensors: ``weight`` [classes, features], ``bias`` [classes], ``mean`` [features], ``std`` [features].
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name in ("weight", "bias", "mean", "std"):
            self.register_buffer(name, tensors[name].clone())

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(F.normalize((features - self.mean) / self.std, dim=-1), self.weight, self.bias)


class Surgery(nn.Module):
    """Representation surgery for one task: z − U·ReLU(D·z).

    Yang et al., "Representation Surgery for Multi-Task Model Merging", ICML 2024, eq. 4; D is [rank, features]
    and U [features, rank]. U starts at zero, so that an untrained module changes nothing.
    """

    def __init__(self, features: int, rank: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        down = torch.empty(rank, features)
        nn.init.kaiming_uniform_(down, a=5**0.5, generator=generator)
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(torch.zeros(features, rank))

    def forward(self, features: Tensor) -> Tensor:
        return features - F.linear(F.relu(F.linear(features, self.down)), self.up)


def blocks_of(encoder: nn.Module) -> list[nn.Module]:
    """The blocks of a transformer, each tokens [N, L, width] → tokens.

    Raises:
        StudyError: the encoder has none.
    """
    blocks = getattr(encoder, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
        raise StudyError(f"deep surgery goes after each of a transformer's blocks; {type(encoder).__name__} has none")
    return list(blocks)


def _operated(block: nn.Module, _: Any, tokens: Tensor) -> Tensor:
    return block.surgery(tokens)  # type: ignore[operator]


def operate_blocks(encoder: nn.Module, modules: Sequence[Surgery]) -> None:
    """Put a surgery module after each block of an encoder; it becomes the block's part ``surgery``."""
    for block, module in zip(blocks_of(encoder), modules, strict=True):
        block.add_module("surgery", module)
        block.register_forward_hook(_operated)


def embed(encoder: nn.Module, normalise: nn.Module, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Features float32 [N, features] of images in [0, 1].

    Args:
        encoder: whose matrices and convolutions are multiplied in ``dtype``, by autocast; its weights stay as they are.
        normalise: what comes before it, in float32: bfloat16 has 8 bits, as many as a pixel, and a perturbation less.
        images: [N, C, H, W].
        dtype: float32 or bfloat16.
    """
    inputs = normalise(images)
    if dtype == torch.float32:
        return encoder(inputs)
    with torch.autocast(images.device.type, dtype):
        # With channels last, convolutions in bfloat16 take two thirds of the time: benchmarks/precision.py.
        return encoder(inputs.contiguous(memory_format=torch.channels_last)).float()


class Classifier(nn.Module):
    """What is attacked and evaluated: images [N, C, H, W] in [0, 1] → logits [N, classes].

    The head is multiplied in float32, whatever the encoder is: logits of 8 bits would be equal too often.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        normalise: nn.Module,
        surgery: nn.Module | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.encoder = encoder
        self.surgery = surgery or nn.Identity()
        self.head = head
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.surgery(embed(self.encoder, self.normalise, images, self.dtype)))


class Ensemble(nn.Module):
    """Several models of one task that answer as one: images [N, C, H, W] in [0, 1] → logits [N, classes].

    ``logits``: the mean of the members' logits (Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018,
    "ensemble in logits"). ``probabilities``: the logarithm of their mean probability, whose cross-entropy is
    −log Σ_k p_k(y)/K (Liu et al., "Delving into Transferable Adversarial Examples and Black-box Attacks", ICLR 2017).
    A mean of losses is the loss of no one vector of logits, which is what attacks are given.
    """

    def __init__(self, members: Iterable[nn.Module], fuse: str = "logits") -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.fuse = fuse

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.stack([member(images) for member in self.members])
        if self.fuse == "probabilities":
            return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))
        return logits.mean(0)


def build_encoder(backbone: Mapping[str, Any], where: str = "backbone") -> nn.Module:
    """A timm model without a classifier, [N, C, H, W] → [N, features], with random weights.

    CLIP's last layer is a projection, no classifier: timm builds it with the option ``num_classes``, its features.

    Args:
        backbone: the study's ``backbone``: ``timm`` (model name) and ``options`` (arguments of that model).
        where: the key of the study that it stands under, for messages.

    Raises:
        StudyError: timm does not know the model or refuses an option.
    """
    import timm

    name, options = backbone["timm"], backbone.get("options", {})
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:6]}*")[:5]) or "see timm.list_models()"
        raise StudyError(f"{where}.timm: timm has no model '{name}'; for instance: {near}")
    try:
        return timm.create_model(name, pretrained=False, **{"num_classes": 0, **options})
    except (TypeError, ValueError, AssertionError) as error:
        raise StudyError(f"{where}.options: timm refuses them for '{name}': {error}") from error


def features_of(encoder: nn.Module) -> int:
    """How many features an encoder of timm gives: the width of its last layer, its projection where it has one."""
    return int(encoder.num_classes or encoder.num_features)  # type: ignore[arg-type]


def check_finite(path: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that hold a NaN or an infinity: every number they lead to would be one.

    Raises:
        StudyError: naming the file and the tensor.
    """
    for name, tensor in tensors.items():
        # One such value makes the sum so, which is cheaper than a mask; a sum may also overflow, so look again.
        if tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
            raise StudyError(f"{path}: the tensor '{name}' has values that are not finite")


def misfit(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    """The first way in which tensors do not fit a module, as the end of a sentence; empty if they do."""
    wanted = module.state_dict()
    for name, tensor in wanted.items():
        if name not in state:
            return f"it lacks the tensor '{name}'"
        if state[name].shape != tensor.shape:
            return f"'{name}' has shape {list(state[name].shape)}, expected {list(tensor.shape)}"
    return next((f"it has a tensor '{name}' too many" for name in state if name not in wanted), "")


def pack_mask(mask: Tensor) -> Tensor:
    """A bool tensor as bits, uint8 [⌈n/8⌉]."""
    return torch.from_numpy(numpy.packbits(mask.numpy().reshape(-1)))


def unpack_mask(bits: Tensor, shape: torch.Size) -> Tensor:
    """What :func:`pack_mask` packed, in its shape."""
    return torch.from_numpy(numpy.unpackbits(bits.numpy(), count=shape.numel()).astype(bool)).view(shape)


def state_of(tensors: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
    """The state dict of the encoder that answers for a task, out of a merged artifact's tensors.

    Where the merge answers per task it is θ_0 + scale_t · mask_t ⊙ vector, else it is the same for every task.

    Raises:
        KeyError: the merge answers per task, and not for this one.
    """
    state = {name: tensor for name, tensor in tensors.items() if not name.startswith((SURGERY, PER_TASK))}
    for name, base in state.items():
        if (vector := tensors.get(f"{PER_TASK}vector.{name}")) is not None:
            mask = unpack_mask(tensors[f"{PER_TASK}mask.{task}.{name}"], vector.shape)
            scaled = tensors[f"{PER_TASK}scale.{task}"] * (mask * vector)
            state[name] = (base.float() + scaled).to(base.dtype)
    return state


class Model:
    """A trained or merged encoder as it lies on disk, with the surgery modules it may carry.

    Attributes:
        tensors: all that the file holds.
        state: the encoder's tensors under timm's names; those of P where the merge answers per task.
        per_task: the tasks that the merge has an encoder each for; empty where one encoder serves all.
        backbone: the study's ``backbone`` it was made with.
        surgery: task → its modules' tensors, empty without surgery: ``down`` and ``up`` of the one on the features,
            ``blocks.<i>.down`` and ``blocks.<i>.up`` of the one after a block, where the surgery is deep.
    """

    def __init__(self, path: Path | str) -> None:
        tensors, metadata = load_tensors(path)
        if not isinstance(backbone := metadata.get("backbone"), dict) or not {"timm", "mean", "std"} <= backbone.keys():
            raise StudyError(f"{path}: not an encoder of this workflow: its metadata lack 'backbone'")
        check_finite(path, tensors)
        self.path = path
        self.backbone: dict[str, Any] = backbone
        self.tensors = tensors
        self.state = {name: t for name, t in tensors.items() if not name.startswith((SURGERY, PER_TASK))}
        scale = f"{PER_TASK}scale."
        self.per_task = [name.removeprefix(scale) for name in tensors if name.startswith(scale)]
        self.surgery: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(SURGERY):
                task, _, part = name.removeprefix(SURGERY).partition(".")
                self.surgery.setdefault(task, {})[part] = tensor

    def encoder(self, task: str | None = None) -> nn.Module:
        """The encoder with its weights, in evaluation mode.

        Args:
            task: the one it answers for; needed where the merge answers per task, without meaning elsewhere.

        Raises:
            StudyError: the tensors do not fit the architecture that the metadata name, or the task is missing.
        """
        if self.per_task and task not in self.per_task:
            said = f"has no encoder for the task '{task}'" if task else "has an encoder a task: name the task"
            raise StudyError(f"{self.path}: {said}; it has: {', '.join(sorted(self.per_task))}")
        try:
            encoder = build_encoder(self.backbone)
        except Exception as error:  # of a study's backbone this would have been said before; of a file, anything may be
            said = " ".join(str(error).split())
            raise StudyError(f"{self.path}: its metadata describe no model that timm can make ({said})") from error
        state = state_of(self.tensors, task) if self.per_task and task else self.state
        if found := misfit(encoder, state):
            raise StudyError(f"{self.path}: does not fit {self.backbone['timm']}: {found}")
        encoder.load_state_dict(state)
        return encoder.eval()

    def classifier(self, task: str, head: Head, dtype: torch.dtype = torch.float32) -> Classifier:
        """The model that answers for one task: with surgery, this task's modules are inside; ``dtype`` as :func:`embed`."""
        encoder, module = self.encoder(task), None
        if self.surgery:
            if task not in self.surgery:
                raise StudyError(f"{self.path}: has no surgery module for the task '{task}'")
            module = self._module(task, "")
            if "blocks.0.down" in self.surgery[task]:
                count = len(blocks_of(encoder))
                operate_blocks(encoder, [self._module(task, f"blocks.{index}.") for index in range(count)])
        if head.weight.shape[1] != features_of(encoder):
            wide = f"{features_of(encoder)} features, the head of '{task}' takes {head.weight.shape[1]}"
            raise StudyError(f"{self.path}: gives {wide}")
        return Classifier(encoder, head, Normalise.of(self.backbone), module, dtype).eval().requires_grad_(False)

    def _module(self, task: str, where: str) -> Surgery:
        """The surgery module whose tensors' names begin so."""
        down, up = (self.surgery[task][f"{where}{part}"] for part in ("down", "up"))
        module = Surgery(down.shape[1], down.shape[0])
        module.load_state_dict({"down": down, "up": up})
        return module


def load_head(path: Path | str) -> Head:
    """A task's frozen head.

    Raises:
        StudyError: the file is not a head.
    """
    tensors, _ = load_tensors(path)
    missing = {"weight", "bias", "mean", "std"} - set(tensors)
    if missing:
        raise StudyError(f"{path}: not a head: it lacks {', '.join(sorted(missing))}")
    check_finite(path, tensors)
    return Head(tensors)


def answering(
    task: str,
    models: Mapping[str, Path | str],
    heads: Mapping[str, Path | str],
    fuse: str = "logits",
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """The classifier of a task that lies in a file, or the ensemble of several; in evaluation mode, frozen.

    Args:
        task: whose labels it answers with.
        models: member → its encoder's file.
        heads: member → the file of the task's head for it.
        fuse: how several are made one, see :class:`Ensemble`.
        dtype: of their multiplications, see :func:`embed`.
    """
    members = [Model(path).classifier(task, load_head(heads[name]), dtype) for name, path in models.items()]
    return members[0] if len(members) == 1 else Ensemble(members, fuse).eval()


def to_unit(images: Tensor) -> Tensor:
    """uint8 pixels → float32 in [0, 1]."""
    return images.float() / 255


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """Outputs of a model for images in [0, 1] or uint8 pixels, float32 [N, …] on the CPU, batch by batch."""
    place = next((t.device for t in [*model.parameters(), *model.buffers()]), torch.device("cpu"))

    def outputs(part: slice) -> Tensor:
        batch = images[part].to(place)
        return model(to_unit(batch) if batch.dtype == torch.uint8 else batch).float().cpu()

    return in_parts(model, len(images), batch_size, lambda parts: torch.cat([outputs(part) for part in parts]))


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the label minus the best other logit, [N]; negative where the prediction is wrong."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return own - others.amax(dim=1)
