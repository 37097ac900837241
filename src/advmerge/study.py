"""The study as a typed, validated object: the only reader of params.yaml.

:func:`load` reads the file and checks what can be checked without heavy imports; :func:`check` asks the registries,
timm and ART. The Snakefile calls both before the first job. ``Study``'s methods give every artifact's path and the
slice of the study that it depends on; rules, the audit and the tests all ask here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from advmerge.artifacts import canonical
from advmerge.checkpoints import CHECKPOINTS
from advmerge.data import SPLITS
from advmerge.errors import StudyError

NAME = re.compile(r"[a-z][a-z0-9_]*")
SEED = re.compile(r"seed(\d+)/")
RESERVED = ("pretrained", "finetuned", "multitask")
DENOMINATOR = 255


def _number(value: Any) -> Any:
    """``"4/255"`` → 4/255; anything else unchanged."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d+(\.\d+)?\s*/\s*\d+\s*", value):
        top, bottom = map(float, value.split("/"))
        if not bottom:
            raise ValueError(f"'{value}' divides by zero")
        return top / bottom
    if isinstance(value, list):
        return [_number(item) for item in value]
    return value


Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Options = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]
SplitSizes = dict[Literal["train", "val", "adapt", "test", "attack"], Positive]


class Section(BaseModel):
    """A section of the study file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _weights(value: Any) -> Any:
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


Weights = Annotated[dict[str, str], BeforeValidator(_weights)]
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

    pretrained: Annotated[Any, BeforeValidator(_weights)]

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


def _listed(value: Any) -> Any:
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


class Cell(Section):
    """One attack at one budget: the options that ART gets, and the names it goes by."""

    name: str
    attack: str
    method: str
    eps: float | None
    options: dict[str, Any]


class Origin(NamedTuple):
    """The pretrained encoder that a head or an expert starts from, and the task (or bait) whose images it is made of."""

    encoder: str
    task: str


class Replicate(NamedTuple):
    """A seed of fine-tuning, and the name that a model goes by in each of them."""

    seed: int
    name: str


class Study(Section):
    """A whole study; see params.yaml for every option and its unit."""

    study: str
    seed: Annotated[int, Field(ge=0)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    data: Data
    tasks: Annotated[dict[str, Options], Field(min_length=1)]
    backbone: Backbone
    pretrain: Pretrain | None = None
    head: Head
    finetune: Finetune
    multitask: Finetune
    merging: Annotated[dict[str, Options], Field(min_length=1)]
    surrogates: Annotated[dict[str, Surrogate], Field(min_length=1), BeforeValidator(_listed)]
    attacks: Annotated[dict[str, Options], Field(min_length=1)]
    controls: Controls
    evaluation: Evaluation
    explanations: Explanations
    statistics: Statistics
    gallery: Gallery
    labels: dict[str, str] = {}

    @field_validator("study")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", value):
            raise ValueError(f"'{value}' is not a folder name of letters, digits, '_', '-' and '.'")
        return value

    @model_validator(mode="after")
    def _names(self) -> Study:
        for axis in ("tasks", "merging", "attacks"):
            for name in getattr(self, axis):
                if not NAME.fullmatch(name):
                    raise ValueError(f"{axis}.{name}: names are lower-case letters, digits and '_', a letter first")
                if name in RESERVED:
                    raise ValueError(f"{axis}.{name}: the name is taken by the workflow")
        for name, entry in self.attacks.items():
            if "method" not in entry:
                raise ValueError(f"attacks.{name}: lacks 'method', the name of an attack class")
        for name, entry in self.merging.items():
            if ("method" in entry) == ("base" in entry):
                raise ValueError(f"merging.{name}: give either 'method', or 'base' with 'surgery'")
            if "base" in entry:
                if set(entry) != {"base", "surgery"}:
                    raise ValueError(f"merging.{name}: with 'base' come 'surgery' and no other key")
                if "method" not in self.merging.get(str(entry["base"]), {}):
                    plain = [other for other, options in self.merging.items() if "method" in options]
                    raise ValueError(
                        f"merging.{name}.base: unknown '{entry['base']}'; choose one of: {', '.join(plain)}"
                    )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {', '.join(map(str, self.seeds))}: one is listed twice")
        for name, surrogate in self.surrogates.items():
            self._check_surrogate(name, surrogate)
        self._check_published()
        for name, options in self.sets.items():
            where = f"tasks.{name}" if name in self.tasks else f"surrogates.{name}.task"
            sizes = options.get("splits", {})
            for split, size in sizes.items() if isinstance(sizes, dict) else [("", 0)]:
                if split not in SPLITS or not isinstance(size, int) or size < 1:
                    raise ValueError(f"{where}.splits: expected positive numbers for {', '.join(SPLITS)}")
        for name in self.tasks:
            if self.evaluation.images > self.sizes(name)["attack"]:
                has = self.sizes(name)["attack"]
                raise ValueError(
                    f"evaluation.images: {self.evaluation.images}, but the task '{name}' has {has} to attack"
                )
        for name in self.controls.white_box:
            if name not in self.attacks:
                raise ValueError(
                    f"controls.white_box: unknown attack '{name}'; choose one of: {', '.join(self.attacks)}"
                )
        for name, cell in self.cells().items():
            if not any(self.surrogates_of(target, name) for target in self.targets):
                raise ValueError(f"attacks.{cell.attack}: is crafted on no surrogate; some surrogate must list it")
        if self.gallery.attack not in self.cells():
            names = ", ".join(self.cells())
            raise ValueError(f"gallery.attack: unknown '{self.gallery.attack}'; choose one of: {names}")
        if self.explanations.attack not in self.cells():
            names = ", ".join(self.cells())
            raise ValueError(f"explanations.attack: unknown '{self.explanations.attack}'; choose one of: {names}")
        if not self.explained(""):
            raise ValueError(f"explanations.attack: '{self.explanations.attack}' is crafted on no surrogate")
        if self.explanations.images > self.evaluation.images:
            raise ValueError(
                f"explanations.images: {self.explanations.images}, but {self.evaluation.images} are attacked "
                "(evaluation.images)"
            )
        if "method" not in self.merging.get(self.explanations.plane.merged, {}):
            names = ", ".join(name for name, options in self.merging.items() if "method" in options)
            raise ValueError(
                f"explanations.plane.merged: unknown '{self.explanations.plane.merged}'; choose one of: {names}"
            )
        if self.gallery.surrogate not in self.surrogates:
            raise ValueError(f"gallery.surrogate: '{self.gallery.surrogate}' is not among the surrogates")
        if not self._attacked_by(self.gallery.surrogate, self.gallery.attack):
            raise ValueError(f"gallery.attack: '{self.gallery.attack}' is not crafted on '{self.gallery.surrogate}'")
        return self

    def _check_published(self) -> None:
        """Refuse published weights beside what they take the place of, or without what they need; ValueError says what."""
        if (self.backbone.pretrained == "recipe") != (self.pretrain is not None):
            raise ValueError("pretrain: goes with backbone.pretrained: recipe, and with nothing else")
        recipes = {"finetune": self.finetune, "multitask": self.multitask}
        recipes |= {f"surrogates.{name}.finetune": self.recipe(name) for name in self.surrogates}
        for name, recipe in recipes.items():
            if recipe.anchor and self.pretrain is None:
                raise ValueError(f"{name}.anchor: {recipe.anchor:g}, but without 'pretrain' there is no corpus: give 0")
        if self.head.kind == "zero-shot" and self.pretrain is not None and self.head.weights is None:
            raise ValueError("head.weights: a zero-shot head needs the weights of CLIP's text tower")
        for name, other in self.others.items():
            if other.pretrained == "recipe" and self.pretrain is None:
                raise ValueError(f"surrogates.{name}.backbone.pretrained: recipe, but the study has no 'pretrain'")
            if self.head.kind == "zero-shot":
                raise ValueError(f"surrogates.{name}.backbone: has no text tower for a zero-shot head (head.kind)")
        for name, options in self.tasks.items():
            if "finetuned" in options:
                if len(self.seeds) > 1:
                    raise ValueError(
                        f"tasks.{name}.finetuned: there is one published expert, and 'seeds' asks for several"
                    )
                try:
                    if not isinstance(_weights(options["finetuned"]), dict):
                        raise ValueError("expected {hub, file, sha256} or {file}")
                except ValueError as error:
                    raise ValueError(f"tasks.{name}.finetuned: {error}") from None

    def _check_surrogate(self, name: str, entry: Surrogate) -> None:
        """Refuse a surrogate that is not one thing, or asks for what is not there; ValueError says what."""
        where = f"surrogates.{name}"
        given = [key for key in ("backbone", "members", "task") if getattr(entry, key) is not None]
        if name in RESERVED:
            if extra := sorted(entry.model_fields_set - {"attacks"}):
                raise ValueError(f"{where}: is built in and takes no '{extra[0]}'")
        elif len(given) != 1:
            raise ValueError(
                f"{where}: give one of 'backbone' (another architecture), 'members' (an ensemble) and 'task' (a bait); "
                f"without any, choose one of: {', '.join(RESERVED)}"
            )
        elif not NAME.fullmatch(name) or SEED.match(f"{name}/"):
            raise ValueError(f"{where}: names are lower-case letters, digits and '_', a letter first; not seed<number>")
        elif name in (*self.tasks, *self.merging, "corpus"):
            raise ValueError(f"{where}: the name is taken by a task, a merged model or the workflow")
        useless = {"fuse": "members", "in_merge": "task"}
        for key, of in useless.items():
            if key in entry.model_fields_set and of not in given:
                raise ValueError(f"{where}.{key}: means something beside '{of}' alone")
        if entry.finetune is not None and entry.members is not None:
            raise ValueError(f"{where}.finetune: an ensemble is not trained; its members are")
        for attack in entry.attacks or []:
            if attack not in self.attacks:
                raise ValueError(f"{where}.attacks: unknown '{attack}'; choose one of: {', '.join(self.attacks)}")
        try:
            self.recipe(name)
        except ValidationError as error:
            first = error.errors()[0]
            said = f"{first['msg'].lower()}, got {first['input']!r:.80}"
            if first["type"] == "extra_forbidden":
                said = f"unknown option; choose one of: {', '.join(sorted(Finetune.model_fields))}"
            raise ValueError(f"{where}.finetune.{first['loc'][0]}: {said}") from None
        plain = [merged for merged, options in self.merging.items() if "method" in options]
        for merged in entry.in_merge if isinstance(entry.in_merge, list) else []:
            if merged not in plain:
                raise ValueError(f"{where}.in_merge: unknown '{merged}'; choose some of: {', '.join(plain)}")
        if entry.task is not None and "kind" not in entry.task:
            raise ValueError(f"{where}.task: lacks 'kind', the source of its images")
        checkpoint = CHECKPOINTS.get(entry.backbone.pretrained) if entry.backbone else None
        if entry.backbone and checkpoint and entry.backbone.timm != checkpoint.timm:
            said = f"'{entry.backbone.pretrained}' holds weights of {checkpoint.timm}"
            raise ValueError(f"{where}.backbone.timm: {said}, not of '{entry.backbone.timm}'")
        self._members(name)

    # ── axes ────────────────────────────────────────────────────────────────────────────────────────────────

    def sizes(self, task: str) -> dict[str, int]:
        """Images per split of a task."""
        return {split: {**self.data.splits, **self.sets[task].get("splits", {})}[split] for split in SPLITS}

    def kind(self, task: str) -> str:
        """The source of a task: its ``kind``, or the source of its own name."""
        return self.sets[task].get("kind", task)

    @property
    def others(self) -> dict[str, Other]:
        """The surrogates of another architecture, and that architecture."""
        return {name: entry.backbone for name, entry in self.surrogates.items() if entry.backbone is not None}

    @property
    def baits(self) -> list[str]:
        """The surrogates that are P fine-tuned on a set of the adversary's own."""
        return [name for name, entry in self.surrogates.items() if entry.task is not None]

    @property
    def sets(self) -> dict[str, dict[str, Any]]:
        """What images are made for: the tasks, and the baits' own sets, which nothing is evaluated on."""
        return {**self.tasks, **{name: self.surrogates[name].task or {} for name in self.baits}}

    def ingredients(self, merged: str) -> list[str]:
        """Whose experts a merged model is made of: every task's, and the baits that found their way in."""
        merged = self.replicate(merged).name
        base = self.merging[merged].get("base", merged)
        held = {name: self.surrogates[name].in_merge for name in self.baits}
        return [*self.tasks, *(name for name, where in held.items() if where is True or (where and base in where))]

    @property
    def heads(self) -> list[str]:
        """Every head by the name of its wildcard: its set's, or ``<other architecture>/<task>``."""
        return [*self.sets, *(f"{name}/{task}" for name in self.others for task in self.tasks)]

    @property
    def experts(self) -> list[str]:
        """Every fine-tuned encoder, named like its head; in every seed."""
        return self.every([*self.sets, *(f"{name}/{task}" for name in self._trained for task in self.tasks)])

    @property
    def _trained(self) -> list[str]:
        """The other architectures that are fine-tuned on each task."""
        return [name for name in self.others if self.surrogates[name].finetune is not None]

    def origin(self, name: str) -> Origin:
        """Where one of :attr:`heads` or :attr:`experts` comes from."""
        other, _, task = self.replicate(name).name.rpartition("/")
        return Origin(other or "pretrained", task)

    def replicate(self, name: str) -> Replicate:
        """Which seed's a model is, and what it is called in each: ``seed1/ties`` is the model ``ties`` of seed 1."""
        found = SEED.match(name)
        return Replicate(int(found[1]), name[found.end() :]) if found else Replicate(self.first_seed, name)

    @property
    def first_seed(self) -> int:
        """The seed of fine-tuning whose models have plain names; examples and explanations are shown of it."""
        return self.seeds[0]

    def in_seed(self, name: str, seed: int) -> str:
        """What a model is called in a seed: its name in the first, and in any if no training is behind it."""
        fixed = {"pretrained", *self.others} - {*self._trained}
        alike = seed == self.first_seed or fixed.issuperset(self._members(name))
        return name if alike else f"seed{seed}/{name}"

    def every(self, names: Iterable[str]) -> list[str]:
        """The models of all seeds that go by these names, each once."""
        names = list(names)
        return list(dict.fromkeys(self.in_seed(name, seed) for seed in self.seeds for name in names))

    @property
    def encoders(self) -> list[str]:
        """Every pretrained encoder: P, and those of other architectures."""
        return ["pretrained", *self.others]

    @property
    def models(self) -> list[str]:
        """Every model that is asked about the clean images, in every seed."""
        return self.every(["pretrained", "finetuned", *self.surrogates, *self.targets])

    def recipe(self, name: str) -> Finetune:
        """How a task's expert, or a surrogate that is fine-tuned, is trained."""
        entry = self.surrogates.get(name)
        return Finetune.model_validate({**self.finetune.model_dump(), **((entry and entry.finetune) or {})})

    def members(self, name: str) -> list[str]:
        """The models that a name stands for: those of an ensemble, each once, or the one itself.

        Raises:
            ValueError: an ensemble that names what is no surrogate, or contains itself.
        """
        seed, base = self.replicate(name)
        return [self.in_seed(member, seed) for member in self._members(base)]

    def _members(self, name: str, within: tuple[str, ...] = ()) -> list[str]:
        entry = self.surrogates.get(name)
        if entry is None or entry.members is None:
            return [name]
        found: list[str] = []
        for member in entry.members:
            if member in (*within, name):
                raise ValueError(f"surrogates.{name}.members: '{member}' is an ensemble that contains itself")
            if member not in (choices := dict.fromkeys([*RESERVED, *self.surrogates])):
                named = ", ".join(choice for choice in choices if choice != name)
                raise ValueError(f"surrogates.{name}.members: unknown '{member}'; choose some of: {named}")
            found += self._members(member, (*within, name))
        return list(dict.fromkeys(found))

    def merged_into(self, target: str) -> list[str]:
        """The surrogates that are, or have a member that is, one of the models merged into a target."""
        if target not in self.merging:
            return []
        held = {"finetuned", *self.ingredients(target)}
        return [name for name in self.surrogates if held.intersection(self._members(name))]

    def architecture(self, name: str) -> str:
        """A model's architecture beside the study's: ``same``, ``other``, or ``mixed`` of an ensemble of both."""
        kinds = {"other" if member in self.others else "same" for member in self._members(name)}
        return kinds.pop() if len(kinds) == 1 else "mixed"

    def _attacked_by(self, surrogate: str, cell: str) -> bool:
        """Whether an attack's cell is crafted on a surrogate."""
        chosen = self.surrogates[surrogate].attacks
        return chosen is None or self.cells()[cell].attack in chosen

    @property
    def targets(self) -> list[str]:
        """What is attacked: every merged model, and the jointly trained one."""
        return [*self.merging, "multitask"]

    @property
    def with_surgery(self) -> list[str]:
        """The merged models that have representation surgery."""
        return [name for name, entry in self.merging.items() if "base" in entry]

    def explained(self, target: str) -> list[str]:
        """The surrogates that a target is compared with: those that the explained attack is crafted on, but itself."""
        cell = self.explanations.attack
        return [name for name in self.surrogates if name != target and self._attacked_by(name, cell)]

    def explained_names(self, target: str) -> list[str]:
        """Whom a comparison asks: the target, the task's expert, and the surrogates."""
        return list(dict.fromkeys([target, "finetuned", *self.explained(target)]))

    @property
    def explained_targets(self) -> list[str]:
        """The targets that are compared with a surrogate."""
        return [target for target in self.targets if self.explained(target)]

    def cells(self) -> dict[str, Cell]:
        """Every attack at every budget, by the name of its wildcard: ``pgd_eps4``, ``deepfool``.

        A list-valued ``eps`` makes a cell of each of its values; other lists of the same length go along with it.
        """
        return self._cells

    @cached_property
    def _cells(self) -> dict[str, Cell]:
        found: dict[str, Cell] = {}
        for attack, entry in self.attacks.items():
            options = {key: _number(value) for key, value in entry.items() if key != "method"}
            budgets = options.get("eps")
            count = len(budgets) if isinstance(budgets, list) else 1
            if count > 1 and str(options.get("norm", "inf")) != "inf":
                raise ValueError(
                    f"attacks.{attack}.eps: only budgets in L∞ come as a list; "
                    f"with norm {options['norm']} give each an attack of its own"
                )
            for index in range(count):
                point = {}
                for key, value in options.items():
                    if isinstance(value, list):
                        if len(value) != count:
                            raise ValueError(f"attacks.{attack}.{key}: {len(value)} values for {count} of eps")
                        value = value[index]
                    point[key] = value
                # Of budgets, only those in L∞ are compared; another norm's stays an option of its attack.
                eps = point.get("eps") if str(point.get("norm", "inf")) == "inf" else None
                if eps is not None and (isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps <= 1):
                    raise ValueError(f"attacks.{attack}.eps: {eps!r} is not a budget in (0, 1] of the pixel range")
                name = attack if eps is None else f"{attack}_eps{eps * DENOMINATOR:.4g}".replace(".", "p")
                if name in found:
                    raise ValueError(f"attacks.{attack}: two cells of the name '{name}'")
                cell = Cell(name=name, attack=attack, method=entry["method"], eps=eps, options=point)
                found[name] = cell
        return found

    def white_box_cells(self) -> list[str]:
        """The cells that are crafted on each target too."""
        return [name for name, cell in self.cells().items() if cell.attack in self.controls.white_box]

    def surrogates_of(self, target: str, cell: str) -> list[str]:
        """Whose examples of an attack a target faces: every surrogate's, and its own where that is a control."""
        seed = self.replicate(target).seed
        held = [self.in_seed(name, seed) for name in self.surrogates if self._attacked_by(name, cell)]
        return [*held, *([target] if cell in self.white_box_cells() and target not in held else [])]

    # ── paths ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def results(self) -> str:
        """Folder of this study's artifacts."""
        return f"results/{self.study}"

    @property
    def reports(self) -> str:
        """Folder of this study's figures and tables."""
        return f"reports/{self.study}"

    def model(self, name: str, task: str) -> str:
        """Path of the model that goes by a name, for a task; no ensemble."""
        seed, base = self.replicate(name)
        if base == "finetuned":
            return self.expert(self.in_seed(task, seed))
        if base in self.baits or base in self._trained:
            return self.expert(name if base in self.baits else f"{name}/{task}")
        folder = "merged" if base in self.merging else "models"
        return f"{self.results}/{folder}/{name}.safetensors"

    def expert(self, name: str) -> str:
        """Path of one of :attr:`experts`."""
        return f"{self.results}/models/finetuned/{name}.safetensors"

    def head_of(self, name: str, task: str) -> str:
        """Path of the head with which a model answers for a task: its architecture's."""
        base = self.replicate(name).name
        own = f"{base}/" if base in self.others else ""
        return f"{self.results}/heads/{own}{task}.safetensors"

    # ── slices: what an artifact depends on ─────────────────────────────────────────────────────────────────

    def data_slice(self, task: str) -> dict[str, Any]:
        """What a task's images depend on."""
        options = {key: value for key, value in self.sets[task].items() if key not in ("kind", "splits", "finetuned")}
        side = self.backbone.options.get("img_size", 224)
        shape = [self.backbone.options.get("in_chans", 3), side, side]
        return {
            "task": task,
            "kind": self.kind(task),
            "options": options,
            "sizes": self.sizes(task),
            "seed": self.seed,
            "shape": shape,
        }

    def corpus_slice(self) -> dict[str, Any]:
        """What the pretraining corpus depends on."""
        return {"seed": self.seed, **(self.pretrain.corpus.model_dump() if self.pretrain else {})}

    def pretrain_slice(self, encoder: str = "pretrained") -> dict[str, Any]:
        """What one of the pretrained :attr:`encoders` depends on."""
        recipe = self.pretrain.model_dump(exclude={"corpus"}) if self.pretrain else {}
        backbone = self.others.get(encoder, self.backbone)
        return {"seed": self.seed, "backbone": backbone.model_dump(), "recipe": recipe}

    def unpack_slice(self, encoder: str) -> dict[str, Any]:
        """What an encoder out of a package depends on."""
        return {"backbone": self.others[encoder].model_dump()}

    def head_slice(self, head: str) -> dict[str, Any]:
        """What one of the :attr:`heads` depends on."""
        task, made = self.origin(head).task, self.head.model_dump(exclude_none=True)
        if self.head.kind == "zero-shot":
            return {"task": task, "kind": self.kind(task), "head": {"weights": self.backbone.pretrained, **made}}
        return {"task": task, "head": made}

    def published(self) -> dict[str, dict[str, Any]]:
        """Models that others trained: name under ``models/`` → what it depends on."""
        found: dict[str, dict[str, Any]] = {}
        if self.backbone.pretrained != "recipe":
            found["pretrained"] = {"backbone": self.backbone.model_dump(), "weights": self.backbone.pretrained}
        for task, options in self.tasks.items():
            if "finetuned" in options:
                found[f"finetuned/{task}"] = {"task": task, "weights": options["finetuned"]}
        return found

    def finetune_slice(self, expert: str) -> dict[str, Any]:
        """What one of the :attr:`experts` depends on."""
        encoder, task = self.origin(expert)
        recipe = self.recipe(encoder if encoder in self.others else task)
        return {"seed": self.replicate(expert).seed, "task": task, "recipe": recipe.model_dump()}

    def multitask_slice(self, name: str = "multitask") -> dict[str, Any]:
        """What the jointly trained model depends on."""
        seed = self.replicate(name).seed
        return {"seed": seed, "tasks": list(self.tasks), "recipe": self.multitask.model_dump()}

    def merge_slice(self, name: str) -> dict[str, Any]:
        """What a merged model without surgery depends on."""
        seed, name = self.replicate(name)
        options = {key: value for key, value in self.merging[name].items() if key != "method"}
        return {
            "seed": seed,
            "name": name,
            "ingredients": self.ingredients(name),
            "method": self.merging[name]["method"],
            "options": options,
        }

    def surgery_slice(self, name: str) -> dict[str, Any]:
        """What a merged model with surgery depends on, beside its base."""
        seed, name = self.replicate(name)
        return {"seed": seed, "name": name, "options": self.merging[name]["surgery"]}

    def attack_slice(self, task: str, surrogate: str, cell: str) -> dict[str, Any]:
        """What one set of adversarial examples depends on."""
        return {
            "seed": self.seed,
            "task": task,
            "surrogate": surrogate,
            **self._answering(surrogate),
            **self.cells()[cell].model_dump(),
            **self.evaluation.model_dump(),
        }

    def predict_slice(self, model: str) -> dict[str, Any]:
        """What a model's clean answers depend on."""
        return {"model": model, **self._answering(model), "batch_size": self.evaluation.batch_size}

    def _answering(self, name: str) -> dict[str, Any]:
        """The models that answer as one under a name, and how they are fused."""
        entry = self.surrogates.get(self.replicate(name).name)
        return {"members": self.members(name), "fuse": entry.fuse if entry else "logits"}

    def evaluate_slice(self, target: str, cell: str) -> dict[str, Any]:
        """What the outcomes of one (target, attack) depend on."""
        chosen = self.cells()[cell]
        seed, target = self.replicate(target)
        return {
            "target": target,
            "seed": seed,
            "in_merge": self.merged_into(target),
            "attack": chosen.attack,
            "eps": chosen.eps,
            "batch_size": self.evaluation.batch_size,
        }

    def explain_slice(self, target: str) -> dict[str, Any]:
        """What the comparison of one target with the surrogates depends on."""
        names = self.explained_names(target)
        return {
            "target": target,
            "fuse": {name: self.surrogates[name].fuse if name in self.surrogates else "logits" for name in names},
            "boundary": self.explanations.boundary.model_dump(),
            **self._explained(),
        }

    def surgery_dose_slice(self, name: str) -> dict[str, Any]:
        """What the doses of one model's surgery depend on."""
        return {"target": name, "dose": self.explanations.dose, **self._explained()}

    def weight_path_slice(self) -> dict[str, Any]:
        """What the models along the task vectors depend on."""
        return {**self.explanations.path.model_dump(), **self._explained()}

    def weight_plane_slice(self) -> dict[str, Any]:
        """What the models on the plane depend on."""
        return {**self.explanations.plane.model_dump(), **self._explained()}

    def _explained(self) -> dict[str, Any]:
        return {"images": self.explanations.images, "batch_size": self.evaluation.batch_size}

    def explanations_slice(self) -> dict[str, Any]:
        """What the tables and figures of explanations depend on."""
        cell = self.cells()[self.explanations.attack]
        return {
            **self.report_slice(),
            "attack": cell.attack,
            "eps": cell.eps,
            "path": {**self.explanations.path.model_dump(), "vectors": len(self.tasks)},
            "plane": self.explanations.plane.model_dump(),
            "figures": self.drawn_explanations,
        }

    def report_slice(self) -> dict[str, Any]:
        """What tables and figures depend on, beside the outcomes."""
        return {
            "seed": self.seed,
            "shown_seed": self.first_seed,
            "statistics": self.statistics.model_dump(),
            "order": {
                "tasks": list(self.tasks),
                "targets": self.targets,
                "surrogates": list(self.surrogates),
                "attacks": list(self.attacks),
                "controls": [name for name, entry in self.attacks.items() if entry["method"] == "UniformNoise"],
                "labels": self.labels,
            },
        }

    def page_slice(self) -> dict[str, Any]:
        """What the page depends on, beside what it shows: it shows the whole study, too."""
        content = yaml.safe_dump(
            self.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True, width=120
        )
        return {**self.report_slice(), "name": self.study, "merged": list(self.merging), "study": content}

    def page_models(self) -> dict[str, str]:
        """Whose making the page tells of: name, for an expert ``finetuned/<its name>``, → path."""
        experts = {f"finetuned/{name}": self.expert(name) for name in self.experts}
        made = ("multitask", *self.merging)
        encoders = {name: f"{self.results}/models/{name}.safetensors" for name in self.encoders}
        return {**encoders, **experts, **{name: self.model(name, "") for name in made}}

    def claims_slice(self) -> dict[str, Any]:
        """What the verdicts on claims depend on, beside the outcomes and the claims: ``names`` for claims.Names."""
        order = self.report_slice()["order"]
        return {
            "seed": self.seed,
            "statistics": self.statistics.model_dump(),
            "names": {
                **{axis: order[axis] for axis in ("tasks", "surrogates", "attacks", "targets", "controls")},
                "eps": sorted({cell.eps for cell in self.cells().values() if cell.eps is not None}),
                "joint": ["multitask"],
                "ingredients": {target: self.merged_into(target) for target in self.targets},
                "architectures": {name: self.architecture(name) for name in self.surrogates},
                "bases": {name: entry["base"] for name, entry in self.merging.items() if "base" in entry},
            },
        }

    def report_files(self) -> list[str]:
        """Every table and figure under reports/<study>, the verdicts, the headline numbers and the page."""
        from advmerge import associations, claims, comparison, statistics, summary
        from advmerge.figures import FORMATS

        tables = [*statistics.TABLES, *comparison.TABLES, *claims.TABLES, *associations.TABLES, *summary.TABLES]
        drawn = (*self.drawn, "gallery", *self.drawn_explanations)
        return [
            *(f"{self.reports}/tables/{name}" for name in tables),
            f"{self.reports}/claims.json",
            f"{self.reports}/metrics.json",
            f"{self.reports}/index.html",
            *(f"{self.reports}/figures/{name}.{form}" for name in drawn for form in FORMATS),
        ]

    @property
    def drawn(self) -> list[str]:
        """The figures drawn from the tables: a heatmap a surrogate that is attacked, and all but the gallery."""
        from advmerge.figures import FIGURES

        attacked = [name for name in self.surrogates if any(self._attacked_by(name, cell) for cell in self.cells())]
        return [*(f"heatmap_{name}" for name in attacked), *(name for name in FIGURES if name != "gallery")]

    @property
    def drawn_explanations(self) -> list[str]:
        """The figures of explanations: no doses where no model has surgery."""
        from advmerge.figures_explain import FIGURES

        absent = set() if self.with_surgery else {"surgery_dose"}
        return [name for name in FIGURES if name not in absent]

    # ── the whole grid ──────────────────────────────────────────────────────────────────────────────────────

    def surrogate_cells(self) -> Iterator[tuple[str, str, str]]:
        """(task, surrogate, cell) of every set of adversarial examples, each once."""
        for task in self.tasks:
            for cell in self.cells():
                faced = [name for target in self.every(self.targets) for name in self.surrogates_of(target, cell)]
                for surrogate in dict.fromkeys(faced):
                    yield task, surrogate, cell

    def artifacts(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Every artifact of the study: path → (rule that makes it, slice it depends on)."""
        at = self.results
        found: dict[str, tuple[str, dict[str, Any]]] = {}
        for name in self.sets:
            found[f"{at}/data/{name}.safetensors"] = ("data", self.data_slice(name))
        for name in self.heads:
            found[f"{at}/heads/{name}.safetensors"] = ("head", self.head_slice(name))
        for name in self.experts:
            found[self.expert(name)] = ("finetune", self.finetune_slice(name))
        if self.pretrain:
            found[f"{at}/data/corpus.safetensors"] = ("corpus", self.corpus_slice())
        for name in self.encoders:
            unpacked = name in self.others and self.others[name].pretrained != "recipe"
            made = ("unpack", self.unpack_slice(name)) if unpacked else ("pretrain", self.pretrain_slice(name))
            found[f"{at}/models/{name}.safetensors"] = made
        found |= {f"{at}/models/{name}.safetensors": ("published", made) for name, made in self.published().items()}
        for name in self.every(["multitask"]):
            found[self.model(name, "")] = ("multitask", self.multitask_slice(name))
        for name in self.every(self.merging):
            repaired = "base" in self.merging[self.replicate(name).name]
            made = ("surgery", self.surgery_slice(name)) if repaired else ("merge", self.merge_slice(name))
            found[self.model(name, "")] = made
        for task, surrogate, cell in self.surrogate_cells():
            path = f"{at}/adversarial/{task}/{surrogate}/{cell}.safetensors"
            found[path] = ("attack", self.attack_slice(task, surrogate, cell))
        for model in self.models:
            found[f"{at}/clean/{model}.parquet"] = ("predict", self.predict_slice(model))
        for target in self.every(self.targets):
            for cell in self.cells():
                found[f"{at}/outcomes/{target}/{cell}.parquet"] = ("evaluate", self.evaluate_slice(target, cell))
        for target in self.explained_targets:
            found[f"{at}/explanations/pairs/{target}.parquet"] = ("explain", self.explain_slice(target))
        for name in self.with_surgery:
            found[f"{at}/explanations/dose/{name}.parquet"] = ("surgery_dose", self.surgery_dose_slice(name))
        found[f"{at}/explanations/path.parquet"] = ("weight_path", self.weight_path_slice())
        found[f"{at}/explanations/plane.parquet"] = ("weight_plane", self.weight_plane_slice())
        found[f"{at}/outcomes.parquet"] = ("outcomes", {})
        found[f"{at}/accuracy.parquet"] = ("accuracy", {})
        return found


def _section(annotation: Any) -> type[Section]:
    """The section that an annotation stands for: itself, or what may be None."""
    kinds = [annotation, *get_args(annotation)]
    return next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section))


def _within(annotation: Any, part: Any) -> Any:
    """The annotation of a key of a section, or of a value of a mapping."""
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    return _section(annotation).model_fields[part].annotation


def _sentence(path: Path, error: ValidationError) -> str:
    """The first thing wrong, as one sentence that names its key and the choices."""
    # A misspelt key is both unknown and missing; that it is unknown says more.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        annotation: Any = Study
        for part in first["loc"][:-1]:
            annotation = _within(annotation, part)
        choices = ", ".join(sorted(_section(annotation).model_fields))
        return f"{path}: unknown key '{key}'; choose one of: {choices}{more}"
    if first["type"] == "missing":
        return f"{path}: the key '{key}' is missing{more}"
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] == "value_error" else f", got {first['input']!r:.80}"
    said = f"{key + ': ' if key else ''}{message[0].lower() + message[1:]}{got}{more}"
    return f"{path}: {' '.join(said.split())}"


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is an error, not a silent choice of the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise StudyError(
                    f"{node.start_mark.name}: the key '{key}' is given twice (line {key_node.start_mark.line + 1})"
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load(path: Path | str) -> Study:
    """Read and validate a study file.

    Raises:
        StudyError: one sentence naming the file, the key and what was expected.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.load(file, Loader=_UniqueKeys)
    except FileNotFoundError:
        raise StudyError(f"{path}: no such study file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise StudyError(f"{path}: not readable as YAML: {problem}") from None
    except RecursionError:
        raise StudyError(f"{path}: not readable as YAML: it is nested too deeply") from None
    if not isinstance(content, dict):
        raise StudyError(f"{path}: expected a mapping of keys to values, found {type(content).__name__}")
    try:
        canonical(content)
    except (TypeError, ValueError, RecursionError) as error:
        kinds = "text, finite numbers, true, false, null, lists and mappings of these"
        raise StudyError(f"{path}: holds something else than {kinds} ({error})") from None
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise StudyError(" ".join(_sentence(path, error).splitlines())) from None  # a name may hold a line break


def check(study: Study) -> None:
    """Ask the registries, timm and ART whether every name and option is theirs.

    Imports torch, timm and ART: seconds. The Snakefile does it once per content of the study.

    Raises:
        StudyError: naming the key, and the choices.
    """
    from advmerge import attacks, data, merging
    from advmerge.models import blocks_of, build_encoder

    for task in study.sets:
        where = f"tasks.{task}" if task in study.tasks else f"surrogates.{task}.task"
        data.check(task, study.kind(task), study.data_slice(task)["options"], where)
    for name, entry in study.merging.items():
        if "base" in entry:
            merging.check_surgery(name, entry["surgery"])
        else:
            merging.check(name, entry["method"], study.merge_slice(name)["options"])
    encoder = build_encoder(study.backbone.model_dump())
    if study.head.kind == "zero-shot":
        from advmerge import zeroshot
        from advmerge.models import features_of

        zeroshot.check(str(study.head.open_clip), features_of(encoder))
    for name, entry in study.merging.items():
        if "base" in entry and entry["surgery"].get("kind") == "deep":
            try:
                blocks_of(encoder)
            except StudyError as error:
                raise StudyError(f"merging.{name}.surgery.kind: {error}") from error
    for cell in study.cells().values():
        attacks.check(cell.attack, cell.method, cell.options)
    _check_surrogates(study)


def _check_surrogates(study: Study) -> None:
    """Build every surrogate with random weights: its encoder takes the study's images, its attacks take it.

    Raises:
        StudyError: naming the key.
    """
    import torch

    from advmerge.attacks import refuse
    from advmerge.checkpoints import locate
    from advmerge.models import Ensemble, Normalise, build_encoder

    image = torch.zeros(1, *study.data_slice(next(iter(study.tasks)))["shape"])
    built: dict[str, torch.nn.Module] = {}
    for member in dict.fromkeys(member for name in study.surrogates for member in study.members(name)):
        where = f"surrogates.{member}.backbone" if member in study.others else "backbone"
        backbone = study.others.get(member, study.backbone).model_dump()
        built[member] = torch.nn.Sequential(Normalise.of(backbone), build_encoder(backbone, where)).eval()
        try:
            with torch.inference_mode():
                built[member](image)
        except (RuntimeError, AssertionError) as error:
            shape = " × ".join(map(str, image.shape[1:]))
            problem = " ".join(str(error).split())
            raise StudyError(f"{where}: does not take the study's images, {shape}: {problem:.200}") from error
    for name, entry in study.surrogates.items():
        members = [built[member] for member in study.members(name)]
        if entry.backbone is not None and entry.backbone.pretrained in CHECKPOINTS:
            try:
                locate(entry.backbone.pretrained)
            except StudyError as error:
                raise StudyError(f"surrogates.{name}.backbone.pretrained: {error}") from error
        held = members[0] if len(members) == 1 else Ensemble(members)
        for cell in study.cells().values():
            if entry.attacks is None or cell.attack in entry.attacks:
                try:
                    refuse(cell.method, held)
                except StudyError as error:
                    said = "list the attacks that it takes under 'attacks'"
                    raise StudyError(f"surrogates.{name}: {error}; {said}") from error


def fingerprint(study: Study, files: Mapping[str, str]) -> str:
    """What :func:`check` depends on: the study, and the hashes of the library's files."""
    return hashlib.sha256(canonical([study.model_dump(mode="json"), dict(files)]).encode()).hexdigest()


def main() -> None:
    """``python -m advmerge.study FILE…``: check study files, and say what is wrong with the first that is."""
    import sys

    try:
        for path in sys.argv[1:]:
            check(load(path))
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
