"""A whole study: what each artifact depends on, and every artifact there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from pydantic import model_validator

from advmerge.study.axes import Axes
from advmerge.study.consistency import verify


class Study(Axes):
    """A study whose sections fit together.

    A *slice* is the part of the study that an artifact depends on: it is written into the artifact, and the artifact
    is made anew when its slice changes.
    """

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        verify(self)
        return self

    def hardware_slice(self, kind: str = "") -> dict[str, Any]:
        """What a job's results depend on of its hardware: not the device, which artifacts record.

        Args:
            kind: train, evaluate or craft; other jobs have no choice of precision.
        """
        asked = {"precision": getattr(self.hardware.precision, kind)} if kind else {}
        return {"hardware": {"deterministic": self.hardware.deterministic, **asked}}

    def data_slice(self, task: str) -> dict[str, Any]:
        """What a task's images depend on."""
        entry = self.sets[task]
        options = {key: value for key, value in entry.items() if key not in ("kind", "splits", "finetuned", "corrupt")}
        side = self.backbone.options.get("img_size", 224)
        shape = [self.backbone.options.get("in_chans", 3), side, side]
        return {
            "task": task,
            "kind": self.kind(task),
            "options": options,
            "sizes": self.sizes(task),
            "seed": self.seed,
            "shape": shape,
            **({"corrupt": "skip"} if entry.get("corrupt") == "skip" else {}),
        }

    def corpus_slice(self) -> dict[str, Any]:
        """What the pretraining corpus depends on."""
        return {"seed": self.seed, **(self.pretrain.corpus.model_dump() if self.pretrain else {})}

    def pretrain_slice(self, encoder: str = "pretrained") -> dict[str, Any]:
        """What one of the pretrained :attr:`encoders` depends on."""
        recipe = self.pretrain.model_dump(exclude={"corpus"}) if self.pretrain else {}
        backbone = self.others.get(encoder, self.backbone)
        made = {"seed": self.seed, "backbone": backbone.model_dump(), "recipe": recipe}
        return {**made, **self.hardware_slice("train")}

    def unpack_slice(self, encoder: str) -> dict[str, Any]:
        """What an encoder out of a package depends on."""
        return {"backbone": self.others[encoder].model_dump()}

    def head_slice(self, head: str) -> dict[str, Any]:
        """What one of the :attr:`heads` depends on."""
        task, made = self.origin(head).task, self.head.model_dump(exclude_none=True)
        common = {"task": task, **self.hardware_slice()}
        if self.head.kind == "zero-shot":
            return {**common, "kind": self.kind(task), "head": {"weights": self.backbone.pretrained, **made}}
        return {**common, "head": made}

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
        made = {"seed": self.replicate(expert).seed, "task": task, "recipe": recipe.model_dump()}
        return {**made, **self.hardware_slice("train")}

    def multitask_slice(self, name: str = "multitask") -> dict[str, Any]:
        """What the jointly trained model depends on."""
        seed = self.replicate(name).seed
        made = {"seed": seed, "tasks": list(self.tasks), "recipe": self.multitask.model_dump()}
        return {**made, **self.hardware_slice("train")}

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
            **self.hardware_slice(),
        }

    def surgery_slice(self, name: str) -> dict[str, Any]:
        """What a merged model with surgery depends on, beside its base."""
        seed, name = self.replicate(name)
        return {"seed": seed, "name": name, "options": self.merging[name]["surgery"], **self.hardware_slice()}

    def attack_slice(self, task: str, surrogate: str, cell: str) -> dict[str, Any]:
        """What one set of adversarial examples depends on."""
        return {
            "seed": self.seed,
            "task": task,
            "surrogate": surrogate,
            **self._answering(surrogate),
            **self.cells()[cell].model_dump(),
            **self.evaluation.model_dump(),
            **self.hardware_slice("craft"),
        }

    def predict_slice(self, model: str) -> dict[str, Any]:
        """What a model's clean answers depend on."""
        asked = {"batch_size": self.evaluation.batch_size, **self.hardware_slice("evaluate")}
        return {"model": model, **self._answering(model), **asked}

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
            **self.hardware_slice("evaluate"),
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
        asked = {"images": self.explanations.images, "batch_size": self.evaluation.batch_size}
        return {**asked, **self.hardware_slice()}

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
        keys = ("attack", "eps", "path", "plane")
        explained = {key: value for key, value in self.explanations_slice().items() if key in keys}
        more = {"name": self.study, "merged": list(self.merging), "study": content, "explained": explained}
        return {**self.report_slice(), **more}

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
    def drawn(self) -> dict[str, Sequence[str]]:
        """The figures drawn from the tables, by file stem: a heatmap a surrogate that is attacked, and all but the gallery.

        Of those that go on over several pages, with the targets or surrogates on each: see :func:`figures.pages`.
        """
        from advmerge import figures, figures_heatmap, figures_ranks

        order = figures.Order(**self.report_slice()["order"])
        crafted = {name: sum(self.attacked_by(name, cell) for cell in self.cells()) for name in self.surrogates}
        attacked = {name: cells for name, cells in crafted.items() if cells}
        found: dict[str, Sequence[str]] = {}
        for name, cells in attacked.items():
            found |= figures_heatmap.pages(name, len(self.tasks), cells, self.targets, order)
        for name in figures.FIGURES:
            if name == "critical_distance":
                found |= figures_ranks.pages(list(attacked), len(self.targets))
            elif name.startswith("relative_transfer"):
                found |= figures.pages(name, self.targets, figures.ROWS)
            elif name != "gallery":
                found[name] = ()
        return found

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
        for name in self.measured_encoders:
            found[f"{at}/models/{name}.features.safetensors"] = ("features", self.hardware_slice())
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
