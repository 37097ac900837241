"""Whether the sections of a study fit together: every name one section uses is another's, every number within reach.

Each function raises ``ValueError`` with a clause that names the key and what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydantic import ValidationError

from advmerge.checkpoints import CHECKPOINTS
from advmerge.data import CORRUPT, SPLITS
from advmerge.study.axes import RESERVED, SEED, Axes
from advmerge.study.sections import Finetune, Surrogate, weights

NAME = re.compile(r"[a-z][a-z0-9_]*")


def verify(study: Axes) -> None:
    """Every check of this module."""
    _verify_axes(study)
    _verify_merging(study)
    for name, surrogate in study.surrogates.items():
        _verify_surrogate(study, name, surrogate)
    _verify_published(study)
    _verify_sizes(study)
    _verify_attacks(study)
    _verify_shown(study)


def _known(key: str, name: str, choices: Iterable[str]) -> None:
    """Refuse a name that is not among the choices."""
    if name not in (choices := list(choices)):
        raise ValueError(f"{key}: unknown '{name}'; choose one of: {', '.join(choices)}")


def _verify_axes(study: Axes) -> None:
    for axis in ("tasks", "merging", "attacks"):
        for name in getattr(study, axis):
            if not NAME.fullmatch(name):
                raise ValueError(f"{axis}.{name}: names are lower-case letters, digits and '_', a letter first")
            if name in RESERVED:
                raise ValueError(f"{axis}.{name}: the name is taken by the workflow")
    for name, entry in study.attacks.items():
        if "method" not in entry:
            raise ValueError(f"attacks.{name}: lacks 'method', the name of an attack class")
    if len(set(study.seeds)) < len(study.seeds):
        raise ValueError(f"seeds: {', '.join(map(str, study.seeds))}: one is listed twice")


def _verify_merging(study: Axes) -> None:
    for name, entry in study.merging.items():
        if ("method" in entry) == ("base" in entry):
            raise ValueError(f"merging.{name}: give either 'method', or 'base' with 'surgery'")
        if "base" in entry:
            if set(entry) != {"base", "surgery"}:
                raise ValueError(f"merging.{name}: with 'base' come 'surgery' and no other key")
            _known(f"merging.{name}.base", str(entry["base"]), study.plain)


def _verify_surrogate(study: Axes, name: str, entry: Surrogate) -> None:
    """Refuse a surrogate that is not one thing, or asks for what is not there."""
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
    elif name in (*study.tasks, *study.merging, "corpus"):
        raise ValueError(f"{where}: the name is taken by a task, a merged model or the workflow")
    useless = {"fuse": "members", "in_merge": "task"}
    for key, of in useless.items():
        if key in entry.model_fields_set and of not in given:
            raise ValueError(f"{where}.{key}: means something beside '{of}' alone")
    if entry.finetune is not None and entry.members is not None:
        raise ValueError(f"{where}.finetune: an ensemble is not trained; its members are")
    for attack in entry.attacks or []:
        _known(f"{where}.attacks", attack, study.attacks)
    try:
        study.recipe(name)
    except ValidationError as error:
        first = error.errors()[0]
        said = f"{first['msg'].lower()}, got {first['input']!r:.80}"
        if first["type"] == "extra_forbidden":
            said = f"unknown option; choose one of: {', '.join(sorted(Finetune.model_fields))}"
        raise ValueError(f"{where}.finetune.{first['loc'][0]}: {said}") from None
    for merged in entry.in_merge if isinstance(entry.in_merge, list) else []:
        if merged not in study.plain:
            raise ValueError(f"{where}.in_merge: unknown '{merged}'; choose some of: {', '.join(study.plain)}")
    if entry.task is not None and "kind" not in entry.task:
        raise ValueError(f"{where}.task: lacks 'kind', the source of its images")
    checkpoint = CHECKPOINTS.get(entry.backbone.pretrained) if entry.backbone else None
    if entry.backbone and checkpoint and entry.backbone.timm != checkpoint.timm:
        said = f"'{entry.backbone.pretrained}' holds weights of {checkpoint.timm}"
        raise ValueError(f"{where}.backbone.timm: {said}, not of '{entry.backbone.timm}'")
    study.members(name)


def _verify_published(study: Axes) -> None:
    """Refuse published weights beside what they take the place of, or without what they need."""
    if (study.backbone.pretrained == "recipe") != (study.pretrain is not None):
        raise ValueError("pretrain: goes with backbone.pretrained: recipe, and with nothing else")
    recipes = {"finetune": study.finetune, "multitask": study.multitask}
    recipes |= {f"surrogates.{name}.finetune": study.recipe(name) for name in study.surrogates}
    for name, recipe in recipes.items():
        if recipe.anchor and study.pretrain is None:
            raise ValueError(f"{name}.anchor: {recipe.anchor:g}, but without 'pretrain' there is no corpus: give 0")
    if study.head.kind == "zero-shot" and study.pretrain is not None and study.head.weights is None:
        raise ValueError("head.weights: a zero-shot head needs the weights of CLIP's text tower")
    for name, other in study.others.items():
        if other.pretrained == "recipe" and study.pretrain is None:
            raise ValueError(f"surrogates.{name}.backbone.pretrained: recipe, but the study has no 'pretrain'")
        if study.head.kind == "zero-shot":
            raise ValueError(f"surrogates.{name}.backbone: has no text tower for a zero-shot head (head.kind)")
    for name, options in study.tasks.items():
        if "finetuned" in options:
            if len(study.seeds) > 1:
                raise ValueError(f"tasks.{name}.finetuned: there is one published expert, and 'seeds' asks for several")
            try:
                if not isinstance(weights(options["finetuned"]), dict):
                    raise ValueError("expected {hub, file, sha256} or {file}")
            except ValueError as error:
                raise ValueError(f"tasks.{name}.finetuned: {error}") from None


def _verify_sizes(study: Axes) -> None:
    for name, options in study.sets.items():
        where = f"tasks.{name}" if name in study.tasks else f"surrogates.{name}.task"
        if (policy := options.get("corrupt", CORRUPT[0])) not in CORRUPT:
            raise ValueError(f"{where}.corrupt: {policy!r} is none of: {', '.join(CORRUPT)}")
        sizes = options.get("splits", {})
        for split, size in sizes.items() if isinstance(sizes, dict) else [("", 0)]:
            if split not in SPLITS or not isinstance(size, int) or size < 1:
                raise ValueError(f"{where}.splits: expected positive numbers for {', '.join(SPLITS)}")
    attacked = study.evaluation.images
    for name in study.tasks:
        if attacked > (has := study.sizes(name)["attack"]):
            raise ValueError(f"evaluation.images: {attacked}, but the task '{name}' has {has} to attack")
    if study.explanations.images > attacked:
        raise ValueError(
            f"explanations.images: {study.explanations.images}, but {attacked} are attacked (evaluation.images)"
        )


def _verify_attacks(study: Axes) -> None:
    for name in study.controls.white_box:
        if name not in study.attacks:
            names = ", ".join(study.attacks)
            raise ValueError(f"controls.white_box: unknown attack '{name}'; choose one of: {names}")
    for name, cell in study.cells().items():
        if not any(study.surrogates_of(target, name) for target in study.targets):
            raise ValueError(f"attacks.{cell.attack}: is crafted on no surrogate; some surrogate must list it")


def _verify_shown(study: Axes) -> None:
    """Refuse examples to show or to explain that are not made."""
    _known("gallery.attack", study.gallery.attack, study.cells())
    _known("explanations.attack", study.explanations.attack, study.cells())
    if not study.explained(""):
        raise ValueError(f"explanations.attack: '{study.explanations.attack}' is crafted on no surrogate")
    _known("explanations.plane.merged", study.explanations.plane.merged, study.plain)
    if study.gallery.surrogate not in study.surrogates:
        raise ValueError(f"gallery.surrogate: '{study.gallery.surrogate}' is not among the surrogates")
    if not study.attacked_by(study.gallery.surrogate, study.gallery.attack):
        raise ValueError(f"gallery.attack: '{study.gallery.attack}' is not crafted on '{study.gallery.surrogate}'")
