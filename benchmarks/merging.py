"""Time and memory of merging files, against one pass over their bytes, beside FusionBench and mergekit.

    OMP_NUM_THREADS=1 python benchmarks/merging.py --size base

Writes T + 1 random encoders with the tensors of a timm ViT to a temporary folder, and prints for each method, of
advmerge and of each peer that is installed,

- time over one pass: reading the T + 1 files and writing one, through one buffer; wall and CPU. Both end with an
  fsync where advmerge merges; the peers' files are not synced. Smallest of the repeats of each, taken in turns;
- peak over one encoder: how far resident memory rose above what it was after the imports, in a process of its own.

The bounds: 2 for the time of averaging and task arithmetic, 2 for every peak. Smaller models do not reach the
first: opening files and Python's own steps count there. FusionBench merges modules in memory: its time is that of
loading the files into them, merging and saving. Its TIES of base takes some 15 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SIZES = {"tiny": "vit_tiny_patch16_224", "small": "vit_small_patch32_224", "base": "vit_base_patch32_224"}
METHODS = {"average": {}, "task_arithmetic": {"scale": 0.3}, "ties": {"scale": 0.3, "keep": 0.2}}
BUFFER = 1 << 19  # stays in the cache: larger ones read more slowly


def make(paths: list[Path], model: str) -> None:
    """A pretrained encoder, the first path, and experts near it."""
    import timm
    import torch
    from safetensors.torch import save_file

    state = timm.create_model(model, num_classes=0).state_dict()
    for seed, path in enumerate(paths):
        generator = torch.Generator().manual_seed(seed)
        moved = {k: v + (0.01 * torch.randn(v.shape, generator=generator) if seed else 0) for k, v in state.items()}
        save_file(moved, path)


def one_pass(paths: list[Path], output: Path) -> None:
    """Read every file, and write as much as one of them holds, whole or not at all."""
    from advmerge.artifacts import replacing

    buffer = memoryview(bytearray(BUFFER))
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    with replacing(output) as temporary, temporary.open("wb") as file:
        left = paths[0].stat().st_size
        while left:
            left -= file.write(buffer[: min(left, BUFFER)])


def advmerge(name: str, model: str, paths: list[Path], output: Path) -> None:
    from advmerge.merging.files import merge_files

    merge_files(name, paths[0], paths[1:], output, **METHODS[name])


def fusion_bench(name: str, model: str, paths: list[Path], output: Path) -> None:
    import timm
    import torch
    from fusion_bench.method.simple_average import SimpleAverageAlgorithm
    from fusion_bench.method.task_arithmetic.task_arithmetic import TaskArithmeticAlgorithm
    from fusion_bench.method.ties_merging.ties_merging import TiesMergingAlgorithm
    from fusion_bench.modelpool import BaseModelPool
    from safetensors.torch import load_file, save_file

    def load(path: Path) -> torch.nn.Module:
        with torch.device("meta"):
            module = timm.create_model(model, num_classes=0)
        module.load_state_dict(load_file(path), assign=True)
        return module

    names = ["_pretrained_", *(f"t{index}" for index in range(len(paths) - 1))]
    pool = BaseModelPool({name: load(path) for name, path in zip(names, paths, strict=True)})
    algorithms = {
        "average": lambda: SimpleAverageAlgorithm(),
        "task_arithmetic": lambda: TaskArithmeticAlgorithm(scaling_factor=0.3),
        "ties": lambda: TiesMergingAlgorithm(scaling_factor=0.3, threshold=20, remove_keys=[], merge_func="sum"),
    }
    merged = algorithms[name]().run(pool)
    save_file(merged.state_dict(), output)


def mergekit(name: str, model: str, paths: list[Path], output: Path) -> None:
    from mergekit.scripts.merge_raw_pytorch import main

    config = {"models": [{"model": str(path), "parameters": {"weight": 0.3}} for path in paths[1:]]}
    if name == "average":
        config |= {"merge_method": "linear"}
    else:
        config |= {"merge_method": name, "base_model": str(paths[0])}
        config |= {"parameters": {"normalize": False} | ({"density": 0.2} if name == "ties" else {})}
    file = output.with_name("config.yaml")
    file.write_text(json.dumps(config))
    main([str(file), str(output.with_name("mergekit"))], standalone_mode=False)


ENGINES = {"advmerge": advmerge, "fusion_bench": fusion_bench, "mergekit": mergekit}


def timed(function: Callable[..., None], *arguments: object) -> tuple[float, float]:
    """Seconds that a call takes: wall, CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        function(*arguments)
    return time.perf_counter() - wall, time.process_time() - cpu


def resident() -> float:
    """Highest resident memory of this process so far, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def work(what: str, engine: str, name: str, model: str, paths: list[Path], repeats: int) -> dict[str, list[float]]:
    """What a process of its own does: ``make`` the files, ``time`` a method, or find its ``peak``.

    Returns:
        Seconds (wall, CPU) of one pass and of the merge; bytes.
    """
    import torch

    torch.set_num_threads(1)
    output = paths[0].with_name("merged.safetensors")
    if what == "make":
        make(paths, model)
        return {}
    merge = ENGINES[engine]
    small = [path.with_name(f"tiny_{path.name}") for path in paths[:2]]
    if not small[0].exists():
        make(small, SIZES["tiny"])
    timed(merge, name, SIZES["tiny"], small, output)  # imports
    if what == "peak":
        before = resident()
        timed(merge, name, model, paths, output)
        return {"peak": [resident() - before]}
    passes, merges = [], []
    for _ in range(repeats):
        passes.append(timed(one_pass, paths, output))
        merges.append(timed(merge, name, model, paths, output))
    return {"pass": list(map(min, zip(*passes, strict=True))), "merge": list(map(min, zip(*merges, strict=True)))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--folder", type=Path, help="where the models go; a temporary folder if not given")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = args.folder if args.work else Path(temporary)
        names = ["pretrained", *(f"expert{i}" for i in range(args.experts))]
        paths = [folder / f"{name}.safetensors" for name in names]
        if args.work:
            print(json.dumps(work(*args.work, SIZES[args.size], paths, args.repeats)))
            return

        # This process stays small: a child's peak begins at its parent's size.
        def child(what: str, engine: str, name: str) -> dict[str, list[float]]:
            command = [sys.executable, __file__, "--work", what, engine, name, "--folder", folder, "--size", args.size]
            command += ["--experts", args.experts, "--repeats", args.repeats]
            done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
            return json.loads(done.stdout)

        child("make", "advmerge", "average")
        size = paths[0].stat().st_size
        print(f"{SIZES[args.size]}, {args.experts} experts, {size / 1e6:.0f} MB each")
        for name in args.methods:
            for engine in args.engines:
                if not importlib.util.find_spec(engine):
                    print(json.dumps({"method": name, "engine": engine, "said": "not installed"}))
                    continue
                found = child("time", engine, name)
                (wall, cpu), (pass_wall, pass_cpu) = found["merge"], found["pass"]
                line = {
                    "method": name,
                    "engine": engine,
                    "one_pass_s": round(pass_wall, 2),
                    "merge_s": round(wall, 2),
                    "time_over_one_pass": round(wall / pass_wall, 2),
                    "cpu_over_one_pass": round(cpu / pass_cpu, 2),
                    "peak_over_one_encoder": round(child("peak", engine, name)["peak"][0] / size, 2),
                }
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
