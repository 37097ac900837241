"""Asking the registries, timm and ART whether a study's names and options are theirs: seconds of imports."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from advmerge.artifacts import canonical
from advmerge.checkpoints import CHECKPOINTS
from advmerge.errors import StudyError
from advmerge.study.whole import Study


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
