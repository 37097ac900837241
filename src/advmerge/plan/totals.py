"""A study's jobs added up by phase, as a table and as data."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from advmerge.data import archives_of
from advmerge.plan.jobs import Job
from advmerge.plan.jobs import jobs as jobs_of
from advmerge.plan.networks import Network, Work, networks
from advmerge.plan.speeds import UTILISATION, Speeds, measured, stated
from advmerge.study import Study, check, load

PHASES = {
    "data": ("data", "corpus"),
    "models": ("pretrain", "unpack", "published", "features", "head", "finetune", "multitask"),
    "merge": ("merge", "surgery"),
    "attack": ("attack",),
    "evaluate": ("predict", "evaluate", "outcomes", "accuracy"),
    "explain": ("explain", "surgery_dose", "weight_path", "weight_plane"),
    "report": ("tables", "comparison", "claims", "summary", "figure", "gallery", "explanations", "page"),
}
"""Stage of dvc.yaml → its rules."""


class Totals(NamedTuple):
    """Of a phase, or of the study.

    Attributes:
        jobs: how many.
        work: images that pass, over all networks, as a rule.
        flops: of these.
        most_flops: the same where no attack stops early.
        read: bytes.
        written: bytes, which is what the results take on the disk.
        seconds: of the jobs, one after the other.
        most_seconds: where no attack stops early.
        hours: with as many at once as :class:`Speeds` says.
        most_hours: the same where no attack stops early.
    """

    jobs: int
    work: Work
    flops: float
    most_flops: float
    read: float
    written: float
    seconds: float
    most_seconds: float
    hours: float
    most_hours: float


def seconds(job: Job, networks: Mapping[str, Network], speeds: Speeds, *, most: bool = False) -> float:
    """That a job takes by itself."""
    work = job.most if most and job.most else job.work
    passes = sum(speeds.seconds(networks[name], part) for name, part in work.items())
    return passes + job.host + (job.read + job.written) / speeds.disk + speeds.start


def _flops(work: Mapping[str, Work], networks: Mapping[str, Network]) -> float:
    return sum(networks[name].total(part) for name, part in work.items())


def _total(jobs: Sequence[Job], networks: Mapping[str, Network], speeds: Speeds) -> Totals:
    work = Work()
    for job in jobs:
        for part in job.work.values():
            work = work.plus(part)
    usual = sum(seconds(job, networks, speeds) for job in jobs)
    most = sum(seconds(job, networks, speeds, most=True) for job in jobs)
    return Totals(
        jobs=len(jobs),
        work=work,
        flops=sum(_flops(job.work, networks) for job in jobs),
        most_flops=sum(_flops(job.most or job.work, networks) for job in jobs),
        read=sum(job.read for job in jobs),
        written=sum(job.written for job in jobs),
        seconds=usual,
        most_seconds=most,
        hours=usual / speeds.at_once / 3600,
        most_hours=most / speeds.at_once / 3600,
    )


def totals(jobs: Iterable[Job], networks: Mapping[str, Network], speeds: Speeds) -> dict[str, Totals]:
    """Of each phase, and last of the whole ``study``."""
    jobs = list(jobs)
    found = {
        phase: _total([job for job in jobs if job.rule in rules], networks, speeds) for phase, rules in PHASES.items()
    }
    return {**found, "study": _total(jobs, networks, speeds)}


def cells(study: Study) -> int:
    """Sets of adversarial examples times the targets that face them."""
    faced = [study.surrogates_of(t, c) for t in study.every(study.targets) for c in study.cells()]
    return len(study.tasks) * sum(map(len, faced))


def downloads(study: Study) -> dict[str, int]:
    """What comes over the network, by its address or repository → megabytes, 0 where nobody has said."""
    found: dict[str, int] = {}
    for name in study.sets:
        found |= {archive.url: archive.megabytes for archive in archives_of(study.kind(name))}
    sources: list[Any] = [source["weights"] for source in study.published().values()]
    if study.head.kind == "zero-shot" and study.head.weights:
        sources.append(study.head.weights)
    return found | {f"{s['hub']}/{s['file']}": 0 for s in sources if isinstance(s, Mapping) and "hub" in s}


def _amount(value: float, unit: str) -> str:
    """1234567, "B" → 1.23 MB."""
    prefixes = iter("kMGTPE")
    prefix = ""
    while value >= 999.5 and (larger := next(prefixes, "")):
        value, prefix = value / 1000, larger
    return f"{value:.3g} {prefix}{unit}"


def table(found: Mapping[str, Totals]) -> str:
    """Phases as lines of text."""
    heads = ("phase", "jobs", "forward", "backward", "FLOPs", "at most", "read", "written", "hours", "at most")
    rows = [heads]
    for name, total in found.items():
        backward = total.work.pixels + total.work.weights
        rows.append(
            (
                name,
                str(total.jobs),
                _amount(total.work.forward, ""),
                _amount(backward, ""),
                _amount(total.flops, ""),
                _amount(total.most_flops, ""),
                _amount(total.read, "B"),
                _amount(total.written, "B"),
                f"{total.hours:.3g}",
                f"{total.most_hours:.3g}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    return "\n".join(
        "  ".join(c.ljust(w) if not i else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )


def report(
    path: Path, tflops: float | None, utilisation: float | None, gpus: int | None, disk: float, *, as_json: bool = False
) -> str:
    """What a study costs, in words or as JSON.

    Args:
        path: of the study file, which is checked first.
        tflops: a device's peak; None to measure this machine.
        utilisation: share of it that passes make; None for the usual one.
        gpus: jobs at once; None for one on a stated device, and for one a core on this machine.
        disk: MB a second.
        as_json: plain numbers, in bytes, FLOPs and hours.

    Raises:
        StudyError: the study is wrong, or one of its attacks cannot be run.
    """
    study = load(path)
    check(study)
    known = networks(study)
    flops = stated(tflops, utilisation or UTILISATION) if tflops else measured(study, known["pretrained"])
    at_once = gpus or (1 if tflops else os.cpu_count() or 1)
    speeds = Speeds(flops, at_once, disk * 1e6)
    found = totals(jobs_of(study, known), known, speeds)
    coming = downloads(study)
    if as_json:
        phases = {name: {**total._asdict(), "work": total.work._asdict()} for name, total in found.items()}
        machine = {"flops": flops._asdict(), "at_once": at_once, "disk": speeds.disk}
        return json.dumps(
            {"phases": phases, "cells": cells(study), "downloads_mb": coming, "machine": machine}, indent=2
        )
    network, whole = known["pretrained"], found["study"]
    said = "stated" if tflops else "measured here, on one thread a job where there is no GPU"
    rates = ", ".join(f"{_amount(value, 'FLOP/s')} {kind}" for kind, value in flops._asdict().items())
    unknown = sum(1 for size in coming.values() if not size)
    arrive = (
        f"{_amount(sum(coming.values()) * 1e6, 'B')} in {len(coming)} files, of {unknown} of them the size is not known"
    )
    return "\n".join(
        [
            f"{path}: {whole.jobs} jobs, {cells(study)} cells (task × surrogate × attack × target)",
            f"{study.backbone.timm}: {_amount(network.flops.forward, 'FLOP')} forward an image, "
            f"{_amount(network.entries * 4, 'B')} of weights",
            "",
            table(found),
            "",
            "at most: where no image makes C&W, DeepFool and their like stop early; hours are of the usual passes.",
            f"disk: {_amount(whole.written, 'B')}, all of it kept; as much again for DVC's cache where files are not cloned",
            f"downloads: {arrive}" if coming else "downloads: none",
            f"speed, {said}: {rates}; {at_once} {'job' if at_once == 1 else 'jobs'} at once, disk {disk:g} MB/s",
        ]
    )
