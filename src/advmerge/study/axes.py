"""What the names in a study stand for: its models, attacks and seeds, who meets whom, and every artifact's path."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, field_validator

from advmerge.data import SPLITS
from advmerge.study.sections import (
    Backbone,
    Controls,
    Data,
    Evaluation,
    Explanations,
    Finetune,
    Gallery,
    Hardware,
    Head,
    Options,
    Other,
    Pretrain,
    Section,
    Statistics,
    Surrogate,
    listed,
    number,
)

SEED = re.compile(r"seed(\d+)/")
RESERVED = ("pretrained", "finetuned", "multitask")
DENOMINATOR = 255


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


class Axes(Section):
    """The content of a study file; see params.yaml for every option and its unit."""

    study: str
    seed: Annotated[int, Field(ge=0)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    hardware: Hardware
    data: Data
    tasks: Annotated[dict[str, Options], Field(min_length=1)]
    backbone: Backbone
    pretrain: Pretrain | None = None
    head: Head
    finetune: Finetune
    multitask: Finetune
    merging: Annotated[dict[str, Options], Field(min_length=1)]
    surrogates: Annotated[dict[str, Surrogate], Field(min_length=1), BeforeValidator(listed)]
    attacks: Annotated[dict[str, Options], Field(min_length=1)]
    controls: Controls
    evaluation: Evaluation
    explanations: Explanations
    statistics: Statistics
    gallery: Gallery
    labels: dict[str, str] = Field(default_factory=dict)

    @field_validator("study")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", value):
            raise ValueError(f"'{value}' is not a folder name of letters, digits, '_', '-' and '.'")
        return value

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
    def measured_encoders(self) -> list[str]:
        """The pretrained encoders whose features are measured over the corpus, once for all heads made with them."""
        return [] if self.pretrain is None or self.head.kind == "zero-shot" else self.encoders

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

    def attacked_by(self, surrogate: str, cell: str) -> bool:
        """Whether an attack's cell is crafted on a surrogate."""
        chosen = self.surrogates[surrogate].attacks
        return chosen is None or self.cells()[cell].attack in chosen

    @property
    def targets(self) -> list[str]:
        """What is attacked: every merged model, and the jointly trained one."""
        return [*self.merging, "multitask"]

    @property
    def plain(self) -> list[str]:
        """The merged models without surgery."""
        return [name for name, entry in self.merging.items() if "method" in entry]

    @property
    def with_surgery(self) -> list[str]:
        """The merged models that have representation surgery."""
        return [name for name, entry in self.merging.items() if "base" in entry]

    def explained(self, target: str) -> list[str]:
        """The surrogates that a target is compared with: those that the explained attack is crafted on, but itself."""
        cell = self.explanations.attack
        return [name for name in self.surrogates if name != target and self.attacked_by(name, cell)]

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
            options = {key: number(value) for key, value in entry.items() if key != "method"}
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
        held = [self.in_seed(name, seed) for name in self.surrogates if self.attacked_by(name, cell)]
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
