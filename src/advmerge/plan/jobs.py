"""What each job of a study does, reads and writes: a function a rule, from the slice that its artifact depends on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from advmerge import merging
from advmerge.artifacts import canonical
from advmerge.attacks.counting import Count, count
from advmerge.data import SPLITS, corpus
from advmerge.merging import surgery as operations
from advmerge.plan.networks import Network, Work
from advmerge.study import Study
from advmerge.training import anchor_images

Slice = Mapping[str, Any]

FLOAT = 4  # bytes of a number
ANSWER = 49  # bytes beside an adversarial example: index, label, answers, margins and distances

# Measured on the studies that have been run, see benchmarks/plan.py. Of files of tensors, beside these: bytes a file, a
# tensor's name, an input's name and digest.
HEADER, NAMED, INPUT = 700, 95, 110
# Of tables: bytes a file and a compressed row of answers, outcomes, all outcomes, and what targets have in common.
CLEAN, OUTCOME, OUTCOMES, PAIR = (6_000, 7.24), (16_000, 25.5), (16_000, 12.2), (10_500, 9.0)
SMALL = 11_000  # bytes of a table that does not grow
CLASSES = 30  # of a task, which only its images tell
# CPU seconds of an image that is drawn or decoded, and of each of its values; of tables and figures in all, and of an outcome.
IMAGE_S, VALUE_S = 3e-4, 3e-8
REPORT_S, REPORT_ROW_S = 12.5, 4.5e-5
REPORT, REPORT_CELL = 3_500_000, 3_900  # bytes, and of each cell


class Job(NamedTuple):
    """One job.

    Attributes:
        rule: of the Snakefile.
        made: the artifact's path, or what is drawn.
        work: network → images that pass it, as a rule.
        most: the same for attacks that no image makes stop early.
        read: bytes that it reads, and hashes once for all who come after it.
        written: bytes.
        memory: bytes of the host that it holds at once, beside libraries.
        kept: bytes that its passes keep for their way back, on the device; passes that have none take little.
        host: CPU seconds of what no network does.
    """

    rule: str
    made: str
    work: Mapping[str, Work] = MappingProxyType({})
    most: Mapping[str, Work] = MappingProxyType({})
    read: float = 0
    written: float = 0
    memory: float = 0
    kept: float = 0
    host: float = 0


def jobs(study: Study, networks: Mapping[str, Network]) -> list[Job]:
    """Every job of a study, the report's included.

    Raises:
        StudyError: an attack of the study cannot be run.
    """
    maker = _Maker(study, networks)
    artifacts = study.artifacts()
    made = [getattr(maker, rule)(path, part) for path, (rule, part) in artifacts.items()]
    return [*made, *maker.report()]


def rows_of(table: tuple[float, float], rows: float) -> float:
    """Bytes of a table of so many rows."""
    return table[0] + table[1] * rows


def _sum(*works: Mapping[str, Work]) -> dict[str, Work]:
    """Of several, network by network."""
    found: dict[str, Work] = {}
    for work in works:
        for name, part in work.items():
            found[name] = found.get(name, Work()).plus(part)
    return found


class _Maker:
    """A method a rule; each takes the artifact's path and its slice."""

    def __init__(self, study: Study, networks: Mapping[str, Network]) -> None:
        self.study, self.networks = study, networks
        channels, height, width = study.data_slice(next(iter(study.tasks)))["shape"]
        self.values = channels * height * width
        self.attacked = study.evaluation.images
        self._counts: dict[str, Count] = {}

    def counted(self, method: str, options: Mapping[str, Any]) -> Count:
        """An attack's passes, which do not depend on its budget."""
        key = canonical([method, {name: value for name, value in options.items() if name not in ("eps", "eps_step")}])
        if key not in self._counts:
            self._counts[key] = count(method, options)
        return self._counts[key]

    # ── sizes ───────────────────────────────────────────────────────────────────────────────────────────────

    def network_of(self, name: str) -> str:
        """The architecture of a model, which is no ensemble."""
        base = self.study.replicate(name).name.partition("/")[0]
        return base if base in self.study.others else "pretrained"

    def each(self, names: Iterable[str], work: Work) -> dict[str, Work]:
        """The same work of several models."""
        return _sum(*({self.network_of(name): work} for name in names))

    def kept(self, names: Iterable[str], work: Work) -> float:
        """Bytes that images which pass several models at once keep for the way back."""
        kept = (self.networks[self.network_of(name)].kept for name in names)
        return sum(each.pixels * work.pixels + each.weights * work.weights for each in kept)

    def file(self, content: float, tensors: int, inputs: int) -> float:
        """Bytes of an artifact of tensors."""
        return content + HEADER + NAMED * tensors + INPUT * inputs

    def images(self, count: float) -> float:
        """Bytes of 8-bit images and their labels."""
        return count * (self.values + 8)

    def weights(self, name: str = "pretrained") -> float:
        """Bytes of an encoder's tensors."""
        return self.networks[self.network_of(name)].entries * FLOAT

    def merged(self, name: str) -> float:
        """Bytes of a merged model: one encoder, a vector and masks where the task picks, surgery's modules."""
        entry = self.study.merging[self.study.replicate(name).name]
        network = self.networks["pretrained"]
        tasks = len(self.study.tasks)
        if "base" not in entry:
            masked = merging.method(entry["method"]).per_task
            return self.weights() + masked * network.entries * (FLOAT + len(self.study.ingredients(name)) / 8)
        options = entry["surgery"]
        rank = options.get("rank", merging.options_of(operations.operate)["rank"].default)
        places = 1 + (
            sum(n.endswith("attn.qkv.weight") for n in network.shapes) if options.get("kind") == "deep" else 0
        )
        return self.merged(entry["base"]) + tasks * places * 2 * rank * network.features * FLOAT

    def model(self, name: str) -> float:
        """Bytes of a model by the name it goes by."""
        return self.merged(name) if self.study.replicate(name).name in self.study.merging else self.weights(name)

    def task(self, name: str, *splits: str) -> float:
        """Bytes of some splits of a task."""
        return self.images(sum(self.study.sizes(name)[split] for split in splits))

    def corpus_images(self) -> int:
        """Images of the pretraining corpus; none without one."""
        return corpus.size(**self.study.pretrain.corpus.model_dump()) if self.study.pretrain else 0

    def anchor(self, images: int) -> int:
        """Of so many, those whose features are looked at before fine-tuning or for heads."""
        return len(anchor_images(torch.empty(images, 0)))

    def examples(self) -> float:
        """Bytes of one set of adversarial examples, a float32 a value."""
        return self.attacked * (self.values * FLOAT + ANSWER)

    # ── data and models ─────────────────────────────────────────────────────────────────────────────────────

    def _drawn(self, rule: str, path: str, count: int) -> Job:
        written = self.file(self.images(count), 2 * len(SPLITS), 0)
        host = count * (IMAGE_S + VALUE_S * self.values)
        return Job(rule, path, read=written, written=written, memory=min(written, 2e9), host=host)

    def data(self, path: str, part: Slice) -> Job:
        return self._drawn("data", path, sum(part["sizes"].values()))

    def corpus(self, path: str, part: Slice) -> Job:
        return self._drawn("corpus", path, self.corpus_images())

    def _encoder(
        self, rule: str, path: str, name: str, work: dict[str, Work], images: float = 0, inputs: int = 2, step: int = 0
    ) -> Job:
        """A job that makes an encoder: its weights, gradients and Adam's two moments are held, and ``step`` images pass."""
        shapes = self.networks[self.network_of(name)].shapes
        written = self.file(self.weights(name), len(shapes), inputs)
        kept = self.kept([name], Work(weights=step))
        return Job(rule, path, work, read=written + images, written=written, memory=6 * written, kept=kept)

    def pretrain(self, path: str, part: Slice) -> Job:
        name = path.removeprefix(f"{self.study.results}/models/").removesuffix(".safetensors")
        step = part["recipe"]["batch"]
        passed = part["recipe"]["steps"] * step
        work = self.each([name], Work(passed, 0, passed))
        return self._encoder("pretrain", path, name, work, self.images(self.corpus_images()), 1, step)

    def unpack(self, path: str, part: Slice) -> Job:
        name = path.removeprefix(f"{self.study.results}/models/").removesuffix(".safetensors")
        return self._encoder("unpack", path, name, {}, inputs=0)

    def published(self, path: str, part: Slice) -> Job:
        return self._encoder("published", path, "pretrained", {}, self.weights(), 1)

    def features(self, path: str, part: Slice) -> Job:
        encoder = path.removeprefix(f"{self.study.results}/models/").removesuffix(".features.safetensors")
        images = self.anchor(self.corpus_images())
        written = self.file(2 * self.networks[encoder].features * FLOAT, 2, 2)
        read = self.weights(encoder) + self.images(images)
        memory = 2 * self.weights(encoder)
        return Job("features", path, self.each([encoder], Work(images)), read=read, written=written, memory=memory)

    def head(self, path: str, part: Slice) -> Job:
        head = path.removeprefix(f"{self.study.results}/heads/").removesuffix(".safetensors")
        encoder, task = self.study.origin(head)
        features = self.networks[self.network_of(encoder)].features
        made = self.study.head
        train = self.study.sizes(task)["train"]
        images = {"few-shot": (made.shots or 0) * CLASSES, "probe": train}.get(made.kind)
        measured = 0 if encoder in self.study.measured_encoders else self.anchor(train)
        # A zero-shot head passes texts through another tower, and no image.
        work = {} if images is None else self.each([encoder], Work(images + measured))
        written = self.file((CLASSES * (features + 1) + 2 * features) * FLOAT, 4, 3)
        read = self.weights(encoder) + self.images(images or 0)
        # A zero-shot head holds both towers, as they are read and as a model.
        held = (4 if images is None else 2) * self.weights(encoder)
        return Job("head", path, work, read=read, written=written, memory=held)

    def _finetuned(self, rule: str, path: str, encoder: str, recipe: Slice, tasks: list[str]) -> Job:
        anchored = self.anchor(self.corpus_images()) if recipe["anchor"] else 0
        step = recipe["batch"] * len(tasks) + (recipe["anchor_batch"] if recipe["anchor"] else 0)
        passed = recipe["steps"] * step
        work = self.each([encoder], Work(passed + anchored, 0, passed))
        images = sum(self.task(task, "train") for task in tasks)
        return self._encoder(rule, path, encoder, work, images, 2 + 2 * len(tasks), step)

    def finetune(self, path: str, part: Slice) -> Job:
        name = path.removeprefix(f"{self.study.results}/models/finetuned/").removesuffix(".safetensors")
        return self._finetuned("finetune", path, self.study.origin(name).encoder, part["recipe"], [part["task"]])

    def multitask(self, path: str, part: Slice) -> Job:
        return self._finetuned("multitask", path, "pretrained", part["recipe"], part["tasks"])

    # ── merged models ───────────────────────────────────────────────────────────────────────────────────────

    def merge(self, path: str, part: Slice) -> Job:
        tasks, network = part["ingredients"], self.networks["pretrained"]
        points = merging.grid(part["options"])
        validated = sum(self.study.sizes(task)["val"] for task in tasks) if len(points) > 1 else 0
        work: dict[str, Work] = {}
        read, method = 0.0, merging.method(part["method"])
        batch = method.options.get("batch")
        step = max(point.get("batch", batch.default) for point in points) if batch else 1
        for point in points:
            seen = merging.passes(part["method"], point, len(tasks), network.shapes)
            work = _sum(work, self.each(["pretrained"], Work(seen.forward + validated, 0, seen.backward)))
            read += (1 + len(tasks)) * self.weights() + self.images(validated)
        written = self.file(self.merged(part["name"]), len(network.shapes), 1 + 3 * len(tasks))
        # An adaptive method holds all task vectors and as many gradients; another one a tensor of each model.
        held = (2 * len(tasks) + 6 if method.adaptive else 5) * self.weights()
        kept = self.kept(["pretrained"], Work(weights=step))
        return Job("merge", path, work, read=read + written, written=written, memory=held, kept=kept)

    def surgery(self, path: str, part: Slice) -> Job:
        tasks = list(self.study.tasks)
        passed = [operations.passed(self.study.sizes(task)["adapt"], 1, part["options"]) for task in tasks]
        work = Work(sum(seen.forward for seen in passed), 0, sum(seen.backward for seen in passed))
        shapes = len(self.networks["pretrained"].shapes)
        written = self.file(self.merged(part["name"]), shapes + 2 * len(tasks), 1 + 2 * len(tasks))
        read = written + len(tasks) * self.weights() + sum(self.task(task, "adapt") for task in tasks)
        # On features alone nothing passes a model on the way back.
        step = part["options"].get("batch", merging.options_of(operations.operate)["batch"].default)
        kept = self.kept(["pretrained"], Work(weights=step)) if work.weights else 0
        passes = self.each(["pretrained"], work)
        return Job("surgery", path, passes, read=read, written=written, memory=5 * self.weights(), kept=kept)

    # ── attacks and answers ─────────────────────────────────────────────────────────────────────────────────

    def attack(self, path: str, part: Slice) -> Job:
        found, images = self.counted(part["method"], part["options"]), part["images"]
        # Then answers to clean images, with a gradient that may be zero, and to adversarial ones.
        after = Work(2 * images, images)
        most = Work(found.forward * images, found.backward * images)
        usual = Work(*(amount * found.usual for amount in most))
        members = part["members"]
        written = self.file(self.examples(), 10, 1 + 2 * len(members))
        read = written + sum(self.model(member) for member in members) + self.images(images)
        memory = 2 * sum(self.model(member) for member in members) + 4 * images * self.values * FLOAT
        work, bound = (self.each(members, made.plus(after)) for made in (usual, most))
        kept = self.kept(members, Work(pixels=min(images, part["batch_size"])))
        return Job("attack", path, work, bound, read, written, memory, kept)

    def predict(self, path: str, part: Slice) -> Job:
        tasks, members = list(self.study.tasks), part["members"]
        images = sum(self.study.sizes(task)[split] for task in tasks for split in ("test", "attack"))
        written = rows_of(CLEAN, images)
        models = sum(
            self.model(m) * (len(tasks) if self.study.replicate(m).name == "finetuned" else 1) for m in members
        )
        work = self.each(members, Work(images))
        return Job(
            "predict", path, work, read=self.images(images) + models, written=written, memory=3 * self.model(members[0])
        )

    def evaluate(self, path: str, part: Slice) -> Job:
        target, cell = path.removeprefix(f"{self.study.results}/outcomes/").removesuffix(".parquet").rsplit("/", 1)
        sets = len(self.study.tasks) * len(self.study.surrogates_of(target, cell))
        rows = sets * self.attacked
        written = rows_of(OUTCOME, rows)
        read = sets * self.examples() + self.model(target)
        memory = 3 * self.model(target) + 2 * self.examples()
        return Job("evaluate", path, self.each([target], Work(rows)), read=read, written=written, memory=memory)

    def rows(self) -> int:
        """Of the one table of outcomes."""
        study = self.study
        faced = sum(len(study.surrogates_of(t, c)) for t in study.every(study.targets) for c in study.cells())
        return faced * len(study.tasks) * self.attacked

    def outcomes(self, path: str, part: Slice) -> Job:
        written = rows_of(OUTCOMES, self.rows())
        return Job("outcomes", path, read=3 * written, written=written, memory=200 * self.rows())

    def accuracy(self, path: str, part: Slice) -> Job:
        return Job("accuracy", path, written=SMALL)

    # ── explanations ────────────────────────────────────────────────────────────────────────────────────────

    def explain(self, path: str, part: Slice) -> Job:
        study, images, tasks = self.study, part["images"], len(self.study.tasks)
        target, line = part["target"], part["boundary"]
        asked = [member for name in part["fuse"] for member in study.members(name)]
        surrogates = len(study.explained(target))
        probes = self.each(asked, Work(tasks * images, tasks * images))
        # At most every step and halving for every image; half of them is what the embedded study took.
        looked = Work(tasks * surrogates * images * (1 + line["steps"] + line["halvings"]) / 2)
        written = rows_of(PAIR, tasks * surrogates * images * 5)
        read = tasks * (sum(self.model(member) for member in asked) + surrogates * self.examples())
        memory = 4 * sum(self.model(member) for member in asked)
        together = Work(pixels=min(images, part["batch_size"]))
        kept = max(self.kept(study.members(name), together) for name in part["fuse"])
        work = _sum(probes, self.each([target], looked))
        return Job("explain", path, work, read=read, written=written, memory=memory, kept=kept)

    def _viewed(self, rule: str, path: str, images: int, models: int, views: int) -> Job:
        """``views`` of each task's clean and attacked images and one of its expert, by encoders of P's kind."""
        tasks, surrogates = len(self.study.tasks), len(self.study.explained(""))
        work = self.each(["pretrained"], Work(tasks * images * (1 + views * (1 + surrogates))))
        read = models * self.weights() + tasks * surrogates * self.examples()
        return Job(rule, path, work, read=read, written=SMALL, memory=(models + 3) * self.weights())

    def surgery_dose(self, path: str, part: Slice) -> Job:
        return self._viewed("surgery_dose", path, part["images"], 1 + len(self.study.tasks), 1)

    def weight_path(self, path: str, part: Slice) -> Job:
        return self._viewed("weight_path", path, part["images"], 1 + len(self.study.tasks), len(part["scale"]))

    def weight_plane(self, path: str, part: Slice) -> Job:
        return self._viewed("weight_plane", path, part["images"], 2 + len(self.study.tasks), len(part["grid"]) ** 2)

    # ── report ──────────────────────────────────────────────────────────────────────────────────────────────

    def report(self) -> list[Job]:
        """Tables, figures and the page: one process's work, dealt out evenly."""
        rules = ["tables", "comparison", "claims", "summary", "gallery", "explanations", "page"]
        made = [(rule, rule) for rule in rules] + [("figure", name) for name in self.study.drawn]
        host, rows = REPORT_S + REPORT_ROW_S * self.rows(), self.rows()
        written = REPORT + REPORT_CELL * rows / self.attacked
        drawn = Job("", "", {}, {}, rows_of(OUTCOMES, rows), written / len(made), 400 * rows, host=host / len(made))
        return [drawn._replace(rule=rule, made=name) for rule, name in made]
