"""Time and memory of merging files, against one pass over their bytes.

    OMP_NUM_THREADS=1 python benchmarks/merging.py --size base

Writes T + 1 random encoders with the tensors of a timm ViT to a temporary folder, and prints for each method

- time over one pass: reading the T + 1 files and writing one, through one buffer. Both end with an fsync.
  Smallest of the repeats of each, taken in turns;
- peak over one encoder: how far resident memory rose above what it was after the imports, in a process of its own.

The bounds: 2 for the time of averaging and task arithmetic, 2 for every peak. Smaller models do not reach the
first: opening files and Python's own steps count there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SIZES = {"tiny": "vit_tiny_patch16_224", "small": "vit_small_patch32_224", "base": "vit_base_patch32_224"}
METHODS = {"average": {}, "task_arithmetic": {"scale": 0.3}, "ties": {"scale": 0.3, "keep": 0.2}}
BUFFER = 1 << 24


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


def merged(name: str, paths: list[Path], output: Path) -> None:
    from advmerge.merging.files import merge_files

    merge_files(name, paths[0], paths[1:], output, **METHODS[name])


def timed(function: Callable[..., None], *arguments: object) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def resident() -> float:
    """Highest resident memory of this process so far, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def work(what: str, name: str, paths: list[Path], output: Path, repeats: int) -> dict[str, float]:
    """What a process of its own does: ``make`` the files, ``time`` a method, or find its ``peak``."""
    import torch

    torch.set_num_threads(1)
    import advmerge.merging.engine
    import advmerge.merging.sparse  # noqa: F401

    if what == "make":
        make(paths, name)
        return {}
    if what == "peak":
        before = resident()
        merged(name, paths, output)
        return {"peak": resident() - before}
    passes, merges = [], []
    for _ in range(repeats):
        passes.append(timed(one_pass, paths, output))
        merges.append(timed(merged, name, paths, output))
    return {"pass": min(passes), "merge": min(merges)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the models go; a temporary folder if not given")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = args.folder if args.work else Path(temporary)
        names = ["pretrained", *(f"expert{i}" for i in range(args.experts))]
        paths, output = [folder / f"{name}.safetensors" for name in names], folder / "merged.safetensors"
        if args.work:
            print(json.dumps(work(*args.work, paths, output, args.repeats)))
            return

        # This process stays small: a child's peak begins at its parent's size.
        def child(what: str, name: str) -> dict[str, float]:
            command = [sys.executable, __file__, "--work", what, name, "--folder", folder]
            command += ["--experts", args.experts, "--repeats", args.repeats]
            done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
            return json.loads(done.stdout)

        child("make", SIZES[args.size])
        size = paths[0].stat().st_size
        print(f"{SIZES[args.size]}, {args.experts} experts, {size / 1e6:.0f} MB each")
        for name in METHODS:
            found = child("time", name)
            line = {
                "method": name,
                "one_pass_s": round(found["pass"], 2),
                "merge_s": round(found["merge"], 2),
                "time_over_one_pass": round(found["merge"] / found["pass"], 2),
                "peak_over_one_encoder": round(child("peak", name)["peak"] / size, 2),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
