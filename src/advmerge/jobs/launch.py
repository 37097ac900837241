"""Run a script of the workflow: on a leased GPU where asked, inside a warm process where one is there.

    python -IS launch.py [--tables] [--gpu] [--log FILE] SCRIPT ARGUMENTS…

Importing torch, timm and ART, or pandas and seaborn (``--tables``), costs more than most jobs' work. The Snakefile's
main process therefore starts two of ``warm.py``, which import them once and fork a child a job; this client hands one
of them the script and waits; in an allocation of a cluster, that of the Snakemake which runs the allocation's jobs.
Where none runs (a platform without fork), the script runs here. Only the standard library is imported here: this starts
in 20 ms.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARY = str(HERE.parents[1])


def here(argv: list[str]) -> None:
    """Become a Python that runs the script, with the library on its path."""
    environment = dict(os.environ, PYTHONPATH=LIBRARY)
    os.execve(sys.executable, [sys.executable, str(HERE / "direct.py"), *argv], environment)


def warm(address: str, argv: list[str]) -> int | None:
    """Have the warm process run the script; its exit code, or None where it cannot be reached."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(address)
        except OSError:
            return None
        request = json.dumps({"argv": argv, "cwd": str(Path.cwd())}).encode()
        # The terminal goes along as open files.
        socket.send_fds(connection, [len(request).to_bytes(8, "big")], [1, 2])
        connection.sendall(request)
        answer = connection.recv(1)
        if not answer:
            print(f"error: the process of this job was killed: {' '.join(argv)[:200]}", file=sys.stderr)
            return 137
        return answer[0]


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is no error to be traced
    argv = sys.argv[1:]
    tables = argv[0] == "--tables"  # a job without torch need not wait until that is imported
    argv = argv[tables:]
    folder = os.environ.get("ADVMERGE_WARM")
    code = warm(str(Path(folder, "tables" if tables else "models")), argv) if folder else None
    if code is None:
        here(argv)
    sys.exit(code)


if __name__ == "__main__":
    main()
