"""Run one script as this process's main program: ``direct.py [--gpu] [--log FILE] SCRIPT ARGUMENTS…``.

With ``--gpu`` a device is leased first; with ``--log`` what the script prints goes to the log, and what it reports
(progress, errors) to the log and the terminal.
"""

import runpy
import signal
import sys
from pathlib import Path
from typing import TextIO


class Tee:
    """A text stream that writes to several."""

    def __init__(self, *streams: TextIO) -> None:
        self.streams = streams

    def write(self, text: str) -> int:
        for stream in self.streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self.streams:
            stream.flush()

    def isatty(self) -> bool:
        return False


def run(argv: list[str]) -> None:
    """Run a script. Its GPU is held until this process ends.

    Args:
        argv: the command line, options first.
    """
    gpu = argv[0] == "--gpu"
    argv = argv[gpu:]
    if argv[0] == "--log":
        path = Path(argv[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.open("w", encoding="utf-8", buffering=1)
        sys.stdout = log
        sys.stderr = Tee(sys.stderr, log)
        argv = argv[2:]
    if gpu:
        from advmerge.jobs.gpu import lease

        lease()
    sys.argv = argv
    sys.path[0] = str(Path(argv[0]).parent)
    runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    run(sys.argv[1:])
