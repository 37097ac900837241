"""``advmerge``: merge checkpoints outside a study, say what one costs, hold one against published figures.

advmerge merge --method ties --option keep=0.2 scale=1 --pretrained p.safetensors \\
    --experts a.safetensors b.safetensors --out m.safetensors
advmerge methods
advmerge check-reference studies/paper.yaml
advmerge pin hub:owner/name@main model.safetensors
advmerge plan studies/paper.yaml --gpu-tflops 19.5
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from advmerge.errors import StudyError
from advmerge.merging import MODULES, Option, Range, check_options, method


def parse_options(items: Sequence[str]) -> dict[str, Any]:
    """``["scale=0.3", "weights={a: 1, b: 0}"]`` → names and values, read as YAML.

    Raises:
        StudyError: an item is no name=value, is not readable, or is given twice.
    """
    found: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise StudyError(f"--option {item}: expected name=value")
        if name in found:
            raise StudyError(f"--option {name}: given twice")
        try:
            found[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise StudyError(f"--option {item}: the value is not readable as YAML") from None
        if isinstance(found[name], str):
            # YAML 1.1 takes 1e-3 for text.
            with contextlib.suppress(ValueError):
                found[name] = float(text)
    return found


def parse_experts(items: Sequence[str]) -> dict[str, Path] | list[Path]:
    """``["a.safetensors"]`` → paths; ``["digits=a.safetensors"]`` → name → path; all of one kind.

    Raises:
        StudyError: some have names and some have none, or a name is given twice.
    """
    pairs = [item.partition("=") if not Path(item).exists() else (item, "", "") for item in items]
    if not any(equals for _, equals, _ in pairs):
        return [Path(item) for item in items]
    if not all(equals for _, equals, _ in pairs):
        raise StudyError("--experts: give every expert a name (name=path), or none")
    named = {name: Path(path) for name, _, path in pairs}
    if len(named) < len(pairs):
        raise StudyError("--experts: a name is given twice")
    return named


def describe(option: Option) -> str:
    """What an option may be, in a few words."""
    hint, default = option
    if typing.get_origin(hint) is Literal:
        text = " | ".join(typing.get_args(hint))
    elif hint is bool:
        text = "true | false"
    else:
        meaning = typing.get_args(hint)[1]
        text = f"{meaning.low:g} to {meaning.high:g}" if isinstance(meaning, Range) else "one number an expert"
    return text if default is inspect.Parameter.empty else f"{text}, default {default}"


def methods() -> str:
    """Every method: what it needs, what it is, its options."""
    lines = []
    for name in MODULES:
        chosen = method(name)
        needs = {"none": "weights alone"}.get(chosen.data, f"{chosen.data} images: in a study only")
        title = (chosen.function.__doc__ or "").strip().splitlines()[0]
        lines.append(f"{name} ({needs}{', a model a task' if chosen.per_task else ''})\n    {title}")
        lines += [f"    {key}: {describe(option)}" for key, option in chosen.options.items()]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="advmerge", description="Merge fine-tuned models of one pretrained model.")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("methods", help="list the merging methods and their options")
    compare = commands.add_parser("check-reference", help="hold a finished study's accuracy against published figures")
    compare.add_argument("study", type=Path, help="a study file")
    compare.add_argument(
        "--reference", type=Path, help="CSV of model, task, accuracy; else beside it: STUDY.reference.csv"
    )
    compare.add_argument("--tolerance", type=float, default=0.03, help="of a model's mean accuracy; default 0.03")
    planned = commands.add_parser("plan", help="say what a study costs before it is run")
    planned.add_argument("study", type=Path, help="a study file")
    planned.add_argument("--gpu-tflops", type=float, metavar="X", help="a device's peak; else this machine is measured")
    planned.add_argument("--utilisation", type=float, help="share of the peak that passes make")
    planned.add_argument("--gpus", type=int, metavar="N", help="jobs at once; default 1 with --gpu-tflops, else cores")
    planned.add_argument("--disk-mb-s", type=float, default=300, help="of the disk; default 300")
    planned.add_argument("--json", action="store_true", help="as JSON, in plain numbers")
    pinned = commands.add_parser("pin", help="download published weights, and print what a study writes to have them")
    pinned.add_argument("hub", metavar="hub:OWNER/NAME[@REVISION]")
    pinned.add_argument("file", help="its name in the repository, a .safetensors file")
    merge = commands.add_parser("merge", help="merge safetensors checkpoints, tensor by tensor")
    merge.add_argument("--method", required=True, help="see 'advmerge methods'")
    merge.add_argument("--option", nargs="+", action="extend", default=[], metavar="NAME=VALUE")
    merge.add_argument(
        "--pretrained", required=True, type=Path, metavar="P", help="file or folder that the experts were tuned from"
    )
    merge.add_argument("--experts", required=True, nargs="+", metavar="[NAME=]PATH")
    merge.add_argument("--out", required=True, type=Path, metavar="M", help="the merged checkpoint")
    merge.add_argument("--task", metavar="NAME", help="the expert whose task it answers, for a method that asks")
    merge.add_argument("--seed", type=int, default=0, help="of a random method's draws")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; what is wrong is said in one sentence.

    Returns:
        The exit code: 0, or 1 after an error or where a study is not near its reference.
    """
    args = parser().parse_args(arguments)
    try:
        if args.command == "methods":
            print(methods())
        elif args.command == "check-reference":
            from advmerge.reference import check_reference

            text, holds = check_reference(args.study, args.reference, args.tolerance)
            print(text)
            return 0 if holds else 1
        elif args.command == "pin":
            from advmerge.published import pin

            source, size = pin(args.hub, args.file)
            print(f"{{{', '.join(f'{key}: {value}' for key, value in source.items())}}}   # {size / 1e6:,.1f} MB")
        elif args.command == "plan":
            for name in ("gpu_tflops", "utilisation", "gpus", "disk_mb_s"):
                if (value := getattr(args, name)) is not None and not value > 0:
                    raise StudyError(f"--{name.replace('_', '-')}: {value:g} is not above 0")
            from advmerge.jobs.session import set_up_jobs

            set_up_jobs()  # before timm and torch are imported, which read it then
            from advmerge.plan import report

            print(report(args.study, args.gpu_tflops, args.utilisation, args.gpus, args.disk_mb_s, as_json=args.json))
        else:
            from advmerge.merging.files import merge_files

            options, experts = parse_options(args.option), parse_experts(args.experts)
            method(args.method)
            check_options("--option", args.method, options)
            merge_files(args.method, args.pretrained, experts, args.out, seed=args.seed, task=args.task, **options)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
