"""What every workflow script shares: its arguments, provenance, progress, accounting, and how it fails."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from advmerge.artifacts import remembered_sha256
from advmerge.errors import StudyError

_work = 0.0


class Arguments:
    """Parsed arguments of a script: ``args["data"]`` is a path, or a dict name → path for a repeated one."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        self.config: dict[str, Any] = values.pop("config")

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def provenance(self) -> dict[str, Any]:
        """Where an artifact comes from: the rule, its slice of the study, and the SHA-256 of every input."""
        paths = [
            path
            for name, value in self._values.items()
            if not name.startswith("output")
            for path in (value.values() if isinstance(value, dict) else [value])
            if path
        ]
        return {
            "rule": Path(sys.argv[0]).stem,
            "slice": self.config,
            "inputs": {path: remembered_sha256(path) for path in sorted(paths)},
        }


def arguments(*names: str) -> Arguments:
    """Parse ``--config JSON`` and one ``--name PATH`` for each of ``names``; ``name*`` takes ``key=path …``.

    The path of ``name?`` may be left out (``--name`` alone): it is then None.

    Raises:
        StudyError: an input file is missing.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=json.loads, required=True, metavar="JSON")
    for name in names:
        count = {"*": "+", "?": "?"}.get(name[-1])
        parser.add_argument(f"--{name.rstrip('*?')}", required=True, nargs=count)
    values = vars(parser.parse_args())
    for name in names:
        if name.endswith("*"):
            key = name[:-1]
            values[key] = dict(item.split("=", 1) for item in values[key])
    found = Arguments({key.replace("-", "_"): value for key, value in values.items()})
    for name, value in found._values.items():
        for path in value.values() if isinstance(value, dict) else [value]:
            if path and not name.startswith("output") and not Path(path).exists():
                raise StudyError(f"{path}: no such file (expected by --{name})")
    return found


class _Lines:
    """A text stream that ends each of tqdm's updates as a line of its own, for logs and parallel jobs."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            self.stream.write(text + "\n")

    def flush(self) -> None:
        self.stream.flush()


def progress(description: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """A wrapper for a loop that reports every ten seconds; a loop that is over sooner says nothing."""

    def wrap(items: Iterable[Any]) -> Iterable[Any]:
        from tqdm import tqdm

        return tqdm(items, desc=description, mininterval=10, delay=10, miniters=1, ncols=100, file=_Lines(sys.stderr))

    return wrap


@contextmanager
def work() -> Iterator[None]:
    """Count the CPU time of this block as training, crafting or inference in the job's last log line."""
    global _work
    start = time.process_time()
    try:
        yield
    finally:
        _work += time.process_time() - start


def _known(error: RuntimeError) -> str | None:
    """What is to be done about an error of torch's that is no bug."""
    said = " ".join(str(error).split())
    operation, found, _ = said.partition(" does not have a deterministic implementation")
    if found:
        return f"{operation} has no deterministic version on this device; set hardware.deterministic: false"
    if type(error).__name__ == "OutOfMemoryError":
        return f"out of memory in a step that has no images to halve: {said}"
    return None


def run(main: Callable[[], None]) -> None:
    """Run a script: a :class:`StudyError` becomes its one sentence and exit code 1; the log ends with the cost.

    Full disks, missing memory and computations that cannot be repeated are said in one sentence too. Anything else is a bug and keeps its traceback.
    """
    import resource

    start, cpu = time.perf_counter(), time.process_time()
    try:
        main()
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except MemoryError:
        print("error: out of memory; lower evaluation.batch_size or run fewer jobs at once", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as error:
        if (said := _known(error)) is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"error: {error.filename or sys.argv[0]}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    cost = {
        "cpu_s": round(time.process_time() - cpu, 3),
        "work_s": round(_work, 3),
        "wall_s": round(time.perf_counter() - start, 3),
        "peak_mb": round(peak / 1e6),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES") or None,
    }
    print("cost " + json.dumps(cost))
