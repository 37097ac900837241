"""What `advmerge plan` says of a study, held against a finished one: CPU seconds from its logs, bytes from its files.

    python benchmarks/plan.py [params.yaml] [--root FOLDER] [--passes N]

The logs, results and reports of the study lie in the folder (here unless named). With ``--passes`` the passes are
counted that each attack makes on N of the study's own images a task and surrogate, beside the most that it could make:
what ``usual_share`` of an attack's class is.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

from advmerge import plan
from advmerge.artifacts import load_tensors
from advmerge.attacks.bridge import craft
from advmerge.attacks.counting import Counted, count
from advmerge.jobs.session import set_up_jobs
from advmerge.models import answering, to_unit
from advmerge.plan.speeds import measured
from advmerge.plan.totals import PHASES, seconds
from advmerge.study import Study, load

FOLDERS = {  # of logs, by phase; the rest are files of the report
    "data": ("data",),
    "models": ("models", "heads"),
    "merge": ("merged",),
    "attack": ("adversarial",),
    "evaluate": ("clean", "outcomes", "accuracy.log", "outcomes.log"),
    "explain": ("explanations",),
}


def spent(logs: Path) -> dict[str, float]:
    """Phase → CPU seconds inside jobs, from the last lines of the logs."""
    homes = {top: phase for phase, tops in FOLDERS.items() for top in tops}
    found: dict[str, float] = defaultdict(float)
    for log in logs.rglob("*.log"):
        cost = json.loads(log.read_text(encoding="utf-8").splitlines()[-1].removeprefix("cost "))
        found[homes.get(log.relative_to(logs).parts[0], "report")] += cost["cpu_s"]
    return found


def size(root: Path, study: Study) -> dict[str, int]:
    """Phase → bytes of its files."""
    rules = {rule: phase for phase, names in PHASES.items() for rule in names}
    found: dict[str, int] = defaultdict(int)
    for path, (rule, _) in study.artifacts().items():
        found[rules[rule]] += (root / path).stat().st_size
    found["report"] = sum(file.stat().st_size for file in (root / study.reports).rglob("*") if file.is_file())
    return found


def passes(root: Path, study: Study, images: int) -> None:
    """Print, attack by attack, the passes an image that it makes, and the most."""
    surrogates = [name for name in ("pretrained", "finetuned") if name in study.surrogates]
    shown: set[str] = set()
    print(f"\n{'attack':<20}{'forward':>10}{'backward':>10}{'most':>8}{'most':>8}{'share':>8}")
    for cell in study.cells().values():
        if cell.attack in shown:
            continue
        shown.add(cell.attack)
        most, forwards, backwards, seen = count(cell.method, cell.options), 0, 0, 0
        for task in study.tasks:
            data, metadata = load_tensors(root / f"{study.results}/data/{task}.safetensors")
            clean, labels = to_unit(data["attack_images"][:images]), data["attack_labels"][:images]
            for name in surrogates:
                paths = {name: root / study.model(name, task)}, {name: root / study.head_of(name, task)}
                model = Counted(answering(task, *paths))
                options = {"seed": (0, task), "classes": len(metadata["classes"]), "batch_size": images}
                craft(model, clean, labels, cell.method, cell.options, **options)
                forwards, backwards, seen = forwards + model.forwards, backwards + model.backwards, seen + len(clean)
        line = (forwards / seen, backwards / seen, most.forward, most.backward)
        share = (forwards + backwards) / seen / max(1, most.forward + most.backward)
        print(f"{cell.attack:<20}{line[0]:>10.1f}{line[1]:>10.1f}{line[2]:>8.0f}{line[3]:>8.0f}{share:>8.3f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("study", nargs="?", default="params.yaml")
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--passes", type=int, metavar="N")
    args = parser.parse_args()
    set_up_jobs()  # before timm is imported, which reads it then
    study = load(args.study)
    networks = plan.networks(study)
    jobs = plan.jobs(study, networks)
    speeds = plan.Speeds(measured(study, networks["pretrained"]), 1, 1e9, start=0.05)
    took, took_bytes = spent(args.root / "logs" / study.study), size(args.root, study)
    print(f"{'phase':<10}{'CPU s':>9}{'planned':>9}{'ratio':>7}{'MB':>10}{'planned':>10}{'ratio':>7}")
    sums = [0.0] * 4
    for phase, rules in PHASES.items():
        own = [job for job in jobs if job.rule in rules]
        cpu, planned = took[phase], sum(seconds(job, networks, speeds) for job in own)
        disk, written = took_bytes[phase] / 1e6, sum(job.written for job in own) / 1e6
        sums = [a + b for a, b in zip(sums, (cpu, planned, disk, written), strict=True)]
        line = f"{phase:<10}{cpu:>9.1f}{planned:>9.1f}{planned / cpu:>7.2f}"
        print(f"{line}{disk:>10.2f}{written:>10.2f}{written / disk:>7.2f}")
    cpu, planned, disk, written = sums
    line = f"{'study':<10}{cpu:>9.1f}{planned:>9.1f}{planned / cpu:>7.2f}"
    print(f"{line}{disk:>10.2f}{written:>10.2f}{written / disk:>7.2f}")
    if args.passes:
        passes(args.root, study, args.passes)


if __name__ == "__main__":
    main()
