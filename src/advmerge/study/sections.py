"""The sections of the study file, each checked by itself: its keys, their kinds and their bounds."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from advmerge.checkpoints import CHECKPOINTS
from advmerge.data import SPLITS


def number(value: Any) -> Any:
    """``"4/255"`` → 4/255; anything else unchanged."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d+(\.\d+)?\s*/\s*\d+\s*", value):
        top, bottom = map(float, value.split("/"))
        if not bottom:
            raise ValueError(f"'{value}' divides by zero")
        return top / bottom
    if isinstance(value, list):
        return [number(item) for item in value]
    return value


Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Options = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]
Multiplied = Literal["auto", "float32", "bfloat16"]
SplitSizes = dict[Literal["train", "val", "adapt", "test", "attack"], Positive]


class Section(BaseModel):
    """A section of the study file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def weights(value: Any) -> Any:
    """Check ``{hub: owner/name@revision, file, sha256}`` and ``{file}``; anything else is left to be refused."""
    if not isinstance(value, dict):
        return value
    on_hub = {"hub", "file", "sha256"}
    texts = all(isinstance(part, str) for part in value.values())
    if not texts or not (set(value) == on_hub or ("file" in value and set(value) <= on_hub - {"hub"})):
        raise ValueError("expected {hub: owner/name@revision, file: name, sha256: digest}, or {file: path}")
    if "sha256" in value and not re.fullmatch(r"[0-9a-f]{64}", value["sha256"]):
        raise ValueError("sha256: expected 64 digits of 0 to 9 and a to f")
    if "hub" in value and not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", value["hub"]):
        raise ValueError(f"hub: '{value['hub']}' is not owner/name@revision with the 40 digits of a commit")
    if not value["file"].endswith(".safetensors"):
        raise ValueError(f"file: '{value['file']}' is not a .safetensors file; nothing else is read")
    return value


Weights = Annotated[dict[str, str], BeforeValidator(weights)]
"""Published weights: a file of a hub repository at one commit, or a local file."""


class Data(Section):
    """Images wanted of each task per split; a task may override its own."""

    splits: SplitSizes

    @field_validator("splits")
    @classmethod
    def _complete(cls, value: dict[str, int]) -> dict[str, int]:
        if missing := [split for split in SPLITS if split not in value]:
            raise ValueError(f"lacks the split {', '.join(missing)}")
        return value


class Architecture(Section):
    """An encoder of timm, and the pixels that it wants."""

    timm: str
    options: Options = {}
    mean: list[float]
    std: list[Rate]


class Backbone(Architecture):
    """The study's architecture, and where the pretrained weights come from."""

    pretrained: Annotated[Any, BeforeValidator(weights)]

    @field_validator("pretrained")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if value != "recipe" and not isinstance(value, dict):
            raise ValueError(f"expected 'recipe', {{hub, file, sha256}} or {{file}}, got {value!r}")
        return value


class Other(Architecture):
    """Another architecture: ``resize`` is the side in pixels that the study's images are resized to inside the model.

    ``pretrained`` is a checkpoint of :mod:`advmerge.checkpoints`, or ``recipe``: trained as P is.
    """

    resize: Positive | None = None
    pretrained: str

    @field_validator("pretrained")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in (choices := ["recipe", *CHECKPOINTS]):
            raise ValueError(f"unknown '{value}'; choose one of: {', '.join(choices)}")
        return value


class Recipe(Section):
    """AdamW with warm-up and cosine."""

    steps: Positive
    batch: Positive
    lr: Rate
    weight_decay: Weight
    warmup: Annotated[int, Field(ge=0)]


class Corpus(Section):
    """The pretraining corpus: images a character, crops a photo quadrant."""

    per_character: Positive
    per_quadrant: Positive


class Pretrain(Recipe):
    """How the pretrained encoder P is made."""

    corpus: Corpus
    photo_share: Annotated[float, Field(gt=0, lt=1)]
    label_smoothing: Share
    beta2: Annotated[float, Field(gt=0, lt=1)]


class Head(Section):
    """How the frozen heads are made: from a few images a class, from all training images, or from the class names."""

    kind: Literal["few-shot", "probe", "zero-shot"]
    shots: Positive | None = None
    scale: Rate | None = None
    penalty: Rate | None = None
    open_clip: str | None = None
    weights: Weights | None = None

    @model_validator(mode="after")
    def _complete(self) -> Head:
        needs = {"few-shot": {"shots", "scale"}, "probe": {"penalty"}, "zero-shot": {"open_clip"}}[self.kind]
        given = set(self.model_dump(exclude_none=True)) - {"kind"}
        if missing := sorted(needs - given):
            raise ValueError(f"kind '{self.kind}' needs {' and '.join(missing)}")
        if extra := sorted(given - needs - ({"weights"} if self.kind == "zero-shot" else set())):
            raise ValueError(f"kind '{self.kind}' has no option '{extra[0]}'")
        return self


class Finetune(Recipe):
    """How an expert is made; ``anchor`` weighs the penalty on drift of the pretraining images' features."""

    anchor: Weight
    anchor_batch: Positive


class Precision(Section):
    """What encoders are multiplied in, by kind of job; ``auto`` is bfloat16 on CUDA and float32 elsewhere."""

    train: Multiplied
    evaluate: Multiplied
    craft: Multiplied


class Hardware(Section):
    """What jobs compute on; see :mod:`advmerge.hardware`."""

    device: Literal["auto", "cuda", "mps", "cpu"]
    precision: Precision
    deterministic: bool


class Controls(Section):
    """Attacks that are also crafted on each target itself (white box)."""

    white_box: list[str]


class Evaluation(Section):
    """Attacked images a task, and images a batch."""

    images: Positive
    batch_size: Positive


class Surrogate(Section):
    """What the adversary holds, if its name is not one of those built in: one of ``backbone``, ``members``, ``task``.

    Attributes:
        attacks: those crafted on it; all of the study's if not given.
        backbone: another architecture, with few-shot heads of its own; ``finetune`` trains it on each task.
        members: names of surrogates whose ensemble this is; one that is an ensemble stands for its members.
        fuse: how the members' answers are made one, see :class:`advmerge.models.Ensemble`.
        task: a set of images as ``tasks`` has them, on which P is fine-tuned: a bait.
        in_merge: of a bait, whether it is merged with the experts: in all merged models, or in those listed.
        finetune: options that differ from the study's ``finetune``.
    """

    attacks: list[str] | None = None
    backbone: Other | None = None
    members: Annotated[list[str], Field(min_length=2)] | None = None
    fuse: Literal["logits", "probabilities"] = "logits"
    task: dict[str, Any] | None = None
    in_merge: bool | list[str] = False
    finetune: dict[str, Any] | None = None


def listed(value: Any) -> Any:
    """A list of surrogates as the mapping that it is short for; a name without options has none."""
    if isinstance(value, list):
        names = [str(name) for name in value]
        if len(set(names)) < len(names):
            raise ValueError(f"{', '.join(names)}: one is listed twice")
        value = dict.fromkeys(names)
    return {name: options or {} for name, options in value.items()} if isinstance(value, dict) else value


class Gallery(Section):
    """Which examples the gallery shows: the surrogate they were crafted on, and the attack's cell."""

    surrogate: str
    attack: str


class Statistics(Section):
    """Confidence of intervals, and bootstrap resamples."""

    confidence: Annotated[float, Field(gt=0, lt=1)]
    bootstrap: Positive


class Boundary(Section):
    """The search for the decision boundary: how far, in lengths of the perturbation, and how finely."""

    reach: Rate
    steps: Positive
    halvings: Annotated[int, Field(ge=0, le=50)]


class WeightPath(Section):
    """The models θ_0 + λτ: what τ is of the task vectors, and the values of λ."""

    vector: Literal["sum", "mean"]
    scale: Annotated[list[float], Field(min_length=2)]


class WeightPlane(Section):
    """The plane through pretrained, fine-tuned and one merged model: which, and the coordinates on both axes."""

    merged: str
    grid: Annotated[list[float], Field(min_length=2)]


class Explanations(Section):
    """What is measured beside transfer: on how many attacked images a task, on which attack's examples, and where."""

    images: Annotated[int, Field(ge=4)]
    attack: str
    boundary: Boundary
    dose: Annotated[list[Weight], Field(min_length=2)]
    path: WeightPath
    plane: WeightPlane

    @model_validator(mode="after")
    def _rising(self) -> Explanations:
        for key, grid in (("dose", self.dose), ("path.scale", self.path.scale), ("plane.grid", self.plane.grid)):
            if any(after <= before for before, after in pairwise(grid)):
                raise ValueError(f"{key}: {grid} does not rise from value to value")
        return self
