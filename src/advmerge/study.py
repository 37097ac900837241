"""The study as a typed, validated object: the only reader of params.yaml.

:func:`load` reads the file and checks what can be checked without heavy imports; :func:`check` asks the registries,
timm and ART. The Snakefile calls both before the first job. ``Study``'s methods give every artifact's path and the
slice of the study that it depends on; rules, the audit and the tests all ask here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from advmerge.artifacts import canonical
from advmerge.data import SPLITS
from advmerge.errors import StudyError

NAME = re.compile(r"[a-z][a-z0-9_]*")
RESERVED = ("pretrained", "finetuned", "multitask")
DENOMINATOR = 255


def _number(value: Any) -> Any:
    """``"4/255"`` → 4/255; anything else unchanged."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d+(\.\d+)?\s*/\s*\d+\s*", value):
        top, bottom = value.split("/")
        return float(top) / float(bottom)
    if isinstance(value, list):
        return [_number(item) for item in value]
    return value


Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Options = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]
Surrogate = Literal["pretrained", "finetuned", "multitask"]
SplitSizes = dict[Literal["train", "val", "adapt", "test", "attack"], Positive]


class Section(BaseModel):
    """A section of the study file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """Images wanted of each task per split; a task may override its own."""

    splits: SplitSizes

    @field_validator("splits")
    @classmethod
    def _complete(cls, value: dict[str, int]) -> dict[str, int]:
        if missing := [split for split in SPLITS if split not in value]:
            raise ValueError(f"lacks the split {', '.join(missing)}")
        return value


class Backbone(Section):
    """The encoder's architecture, and where the pretrained weights come from."""

    timm: str
    options: Options = {}
    mean: list[float]
    std: list[Rate]
    pretrained: Literal["recipe"]


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
    """How the frozen heads are made."""

    kind: Literal["few-shot"]
    shots: Positive
    scale: Rate


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


class Gallery(Section):
    """Which examples the gallery shows: the surrogate they were crafted on, and the attack's cell."""

    surrogate: Surrogate
    attack: str


class Statistics(Section):
    """Confidence of intervals, and bootstrap resamples."""

    confidence: Annotated[float, Field(gt=0, lt=1)]
    bootstrap: Positive


class Cell(Section):
    """One attack at one budget: the options that ART gets, and the names it goes by."""

    name: str
    attack: str
    method: str
    eps: float | None
    options: dict[str, Any]


class Study(Section):
    """A whole study; see params.yaml for every option and its unit."""

    study: str
    seed: Annotated[int, Field(ge=0)]
    data: Data
    tasks: Annotated[dict[str, Options], Field(min_length=1)]
    backbone: Backbone
    pretrain: Pretrain
    head: Head
    finetune: Finetune
    multitask: Finetune
    merging: Annotated[dict[str, Options], Field(min_length=1)]
    surrogates: Annotated[list[Surrogate], Field(min_length=1)]
    attacks: Annotated[dict[str, Options], Field(min_length=1)]
    controls: Controls
    evaluation: Evaluation
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
                if "method" not in self.merging.get(entry["base"], {}):
                    plain = [other for other, options in self.merging.items() if "method" in options]
                    raise ValueError(
                        f"merging.{name}.base: unknown '{entry['base']}'; choose one of: {', '.join(plain)}"
                    )
        for name, options in self.tasks.items():
            sizes = options.get("splits", {})
            for split, size in sizes.items() if isinstance(sizes, dict) else [("", 0)]:
                if split not in SPLITS or not isinstance(size, int) or size < 1:
                    raise ValueError(f"tasks.{name}.splits: expected positive numbers for {', '.join(SPLITS)}")
            if self.evaluation.images > self.sizes(name)["attack"]:
                has = self.sizes(name)["attack"]
                raise ValueError(
                    f"evaluation.images: {self.evaluation.images}, but the task '{name}' has {has} to attack"
                )
        if len(set(self.surrogates)) < len(self.surrogates):
            raise ValueError(f"surrogates: {', '.join(self.surrogates)}: one is listed twice")
        for name in self.controls.white_box:
            if name not in self.attacks:
                raise ValueError(
                    f"controls.white_box: unknown attack '{name}'; choose one of: {', '.join(self.attacks)}"
                )
        if self.gallery.attack not in self.cells():
            names = ", ".join(self.cells())
            raise ValueError(f"gallery.attack: unknown '{self.gallery.attack}'; choose one of: {names}")
        if self.gallery.surrogate not in self.surrogates:
            raise ValueError(f"gallery.surrogate: '{self.gallery.surrogate}' is not among the surrogates")
        return self

    # ── axes ────────────────────────────────────────────────────────────────────────────────────────────────

    def sizes(self, task: str) -> dict[str, int]:
        """Images per split of a task."""
        return {split: {**self.data.splits, **self.tasks[task].get("splits", {})}[split] for split in SPLITS}

    def kind(self, task: str) -> str:
        """The source of a task: its ``kind``, or the source of its own name."""
        return self.tasks[task].get("kind", task)

    @property
    def targets(self) -> list[str]:
        """What is attacked: every merged model, and the jointly trained one."""
        return [*self.merging, "multitask"]

    def cells(self) -> dict[str, Cell]:
        """Every attack at every budget, by the name of its wildcard: ``pgd_eps4``, ``deepfool``.

        A list-valued ``eps`` makes a cell of each of its values; other lists of the same length go along with it.
        """
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
        own = cell in self.white_box_cells() and target not in self.surrogates
        return [*self.surrogates, *([target] if own else [])]

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
        """Path of the model that goes by a name, for a task."""
        if name == "finetuned":
            return f"{self.results}/models/finetuned/{task}.safetensors"
        folder = "merged" if name in self.merging else "models"
        return f"{self.results}/{folder}/{name}.safetensors"

    # ── slices: what an artifact depends on ─────────────────────────────────────────────────────────────────

    def data_slice(self, task: str) -> dict[str, Any]:
        """What a task's images depend on."""
        options = {key: value for key, value in self.tasks[task].items() if key not in ("kind", "splits")}
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
        return {"seed": self.seed, **self.pretrain.corpus.model_dump()}

    def pretrain_slice(self) -> dict[str, Any]:
        """What the pretrained encoder depends on."""
        recipe = self.pretrain.model_dump(exclude={"corpus"})
        return {"seed": self.seed, "backbone": self.backbone.model_dump(), "recipe": recipe}

    def head_slice(self, task: str) -> dict[str, Any]:
        """What a task's head depends on."""
        return {"task": task, "head": self.head.model_dump()}

    def finetune_slice(self, task: str) -> dict[str, Any]:
        """What an expert depends on."""
        return {"seed": self.seed, "task": task, "recipe": self.finetune.model_dump()}

    def multitask_slice(self) -> dict[str, Any]:
        """What the jointly trained model depends on."""
        return {"seed": self.seed, "tasks": list(self.tasks), "recipe": self.multitask.model_dump()}

    def merge_slice(self, name: str) -> dict[str, Any]:
        """What a merged model without surgery depends on."""
        options = {key: value for key, value in self.merging[name].items() if key != "method"}
        return {"seed": self.seed, "name": name, "method": self.merging[name]["method"], "options": options}

    def surgery_slice(self, name: str) -> dict[str, Any]:
        """What a merged model with surgery depends on, beside its base."""
        return {"seed": self.seed, "name": name, "options": self.merging[name]["surgery"]}

    def attack_slice(self, task: str, surrogate: str, cell: str) -> dict[str, Any]:
        """What one set of adversarial examples depends on."""
        return {
            "seed": self.seed,
            "task": task,
            "surrogate": surrogate,
            **self.cells()[cell].model_dump(),
            **self.evaluation.model_dump(),
        }

    def predict_slice(self, model: str) -> dict[str, Any]:
        """What a model's clean answers depend on."""
        return {"model": model, "batch_size": self.evaluation.batch_size}

    def evaluate_slice(self, target: str, cell: str) -> dict[str, Any]:
        """What the outcomes of one (target, attack) depend on."""
        chosen = self.cells()[cell]
        return {
            "target": target,
            "merged": target in self.merging,
            "attack": chosen.attack,
            "eps": chosen.eps,
            "batch_size": self.evaluation.batch_size,
        }

    def report_slice(self) -> dict[str, Any]:
        """What tables and figures depend on, beside the outcomes."""
        return {
            "seed": self.seed,
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
                "bases": {name: entry["base"] for name, entry in self.merging.items() if "base" in entry},
            },
        }

    def report_files(self) -> list[str]:
        """Every table and figure under reports/<study>, and the verdicts."""
        from advmerge import claims, comparison, statistics
        from advmerge.figures import FORMATS

        tables = [*statistics.TABLES, *comparison.TABLES, *claims.TABLES]
        return [
            *(f"{self.reports}/tables/{name}" for name in tables),
            f"{self.reports}/claims.json",
            *(f"{self.reports}/figures/{name}.{form}" for name in (*self.drawn, "gallery") for form in FORMATS),
        ]

    @property
    def drawn(self) -> list[str]:
        """The figures drawn from the tables: all but the gallery, and no heatmap of a surrogate that is not there."""
        from advmerge.figures import FIGURES

        absent = {f"heatmap_{name}" for name in ("pretrained", "finetuned") if name not in self.surrogates}
        return [name for name in FIGURES if name not in absent | {"gallery"}]

    # ── the whole grid ──────────────────────────────────────────────────────────────────────────────────────

    def surrogate_cells(self) -> Iterator[tuple[str, str, str]]:
        """(task, surrogate, cell) of every set of adversarial examples, each once."""
        for task in self.tasks:
            for cell in self.cells():
                faced = [name for target in self.targets for name in self.surrogates_of(target, cell)]
                for surrogate in dict.fromkeys(faced):
                    yield task, surrogate, cell

    def artifacts(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Every artifact of the study: path → (rule that makes it, slice it depends on)."""
        at = self.results
        found: dict[str, tuple[str, dict[str, Any]]] = {}
        for task in self.tasks:
            found[f"{at}/data/{task}.safetensors"] = ("data", self.data_slice(task))
            found[f"{at}/heads/{task}.safetensors"] = ("head", self.head_slice(task))
            found[f"{at}/models/finetuned/{task}.safetensors"] = ("finetune", self.finetune_slice(task))
        found[f"{at}/data/corpus.safetensors"] = ("corpus", self.corpus_slice())
        found[f"{at}/models/pretrained.safetensors"] = ("pretrain", self.pretrain_slice())
        found[f"{at}/models/multitask.safetensors"] = ("multitask", self.multitask_slice())
        for name, entry in self.merging.items():
            made = ("surgery", self.surgery_slice(name)) if "base" in entry else ("merge", self.merge_slice(name))
            found[f"{at}/merged/{name}.safetensors"] = made
        for task, surrogate, cell in self.surrogate_cells():
            path = f"{at}/adversarial/{task}/{surrogate}/{cell}.safetensors"
            found[path] = ("attack", self.attack_slice(task, surrogate, cell))
        for model in ("pretrained", "finetuned", *self.targets):
            found[f"{at}/clean/{model}.parquet"] = ("predict", self.predict_slice(model))
        for target in self.targets:
            for cell in self.cells():
                found[f"{at}/outcomes/{target}/{cell}.parquet"] = ("evaluate", self.evaluate_slice(target, cell))
        found[f"{at}/outcomes.parquet"] = ("outcomes", {})
        found[f"{at}/accuracy.parquet"] = ("accuracy", {})
        return found


def _sentence(path: Path, error: ValidationError) -> str:
    """The first thing wrong, as one sentence that names its key and the choices."""
    # A misspelt key is both unknown and missing; that it is unknown says more.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        section: Any = Study
        for part in first["loc"][:-1]:
            section = section.model_fields[part].annotation
        choices = ", ".join(sorted(section.model_fields))
        return f"{path}: unknown key '{key}'; choose one of: {choices}{more}"
    if first["type"] == "missing":
        return f"{path}: the key '{key}' is missing{more}"
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] == "value_error" else f", got {first['input']!r:.80}"
    return f"{path}: {key + ': ' if key else ''}{message[0].lower() + message[1:]}{got}{more}"


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
    if not isinstance(content, dict):
        raise StudyError(f"{path}: expected a mapping of keys to values, found {type(content).__name__}")
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise StudyError(_sentence(path, error)) from None


def check(study: Study) -> None:
    """Ask the registries, timm and ART whether every name and option is theirs.

    Imports torch, timm and ART: seconds. The Snakefile does it once per content of the study.

    Raises:
        StudyError: naming the key, and the choices.
    """
    from advmerge import attacks, data, merging
    from advmerge.models import build_encoder

    for task in study.tasks:
        data.check(task, study.kind(task), study.data_slice(task)["options"])
    for name, entry in study.merging.items():
        if "base" in entry:
            merging.check_surgery(name, entry["surgery"])
        else:
            merging.check(name, entry["method"], study.merge_slice(name)["options"])
    build_encoder(study.backbone.model_dump())
    for cell in study.cells().values():
        attacks.check(cell.attack, cell.method, cell.options)


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
