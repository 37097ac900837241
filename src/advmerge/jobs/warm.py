"""A warm process: imports libraries once and forks a child for each job that ``launch.py`` hands it.

    python warm.py SOCKET PARENT_PID models|tables

Of ``advmerge`` only the search for GPUs is imported here; the children import the rest, so that what runs is what lies
on disk. CUDA is never touched before the fork. It ends, and its children with it, when the process PARENT_PID does
(a killed Snakemake leaves nothing running), and a child is killed when its client goes away.
"""

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from advmerge.jobs.gpu import visible

# What the jobs need and what takes long to import: seconds for models, one and a half for tables and figures.
LIBRARIES = {
    "models": (
        "art.attacks.evasion",
        "art.estimators.classification",
        "pandas",
        "pyarrow.parquet",
        "safetensors.torch",
        "timm",
        "tqdm",
    ),
    "tables": ("matplotlib.pyplot", "pandas", "pyarrow.parquet", "scipy.stats", "seaborn", "statsmodels.formula.api"),
}


def receive(connection: socket.socket) -> tuple[dict, list[int]]:
    """A client's request and its open files."""
    head, files, _, _ = socket.recv_fds(connection, 8, 2)
    length, body = int.from_bytes(head, "big"), b""
    while len(body) < length:
        part = connection.recv(length - len(body))
        if not part:
            raise ConnectionError("the client went away")
        body += part
    return json.loads(body), files


def child(request: dict, files: list[int]) -> None:
    """Become the job: its log, terminal, working directory and script. Never returns."""
    code = 1
    try:
        for number, file in zip((1, 2), files, strict=True):
            os.dup2(file, number)
        os.chdir(request["cwd"])
        from advmerge.jobs.direct import run

        run(request["argv"])
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def import_libraries(kind: str) -> None:
    """Import what jobs of a kind need, for the children's sake."""
    for name in LIBRARIES[kind]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # keep the collector from touching, and so copying, pages that children share


def serve(address: str, parent: int, kind: str) -> None:
    """Accept jobs until the parent process is gone."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(256)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ, None)
    jobs: dict[int, tuple[int, socket.socket]] = {}  # pid → (pidfd, client)

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise SystemExit

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the clients, and through them the children

    # nvidia-smi takes up to a second: asked once here, not once a job.
    if devices := visible():
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    ready = False
    try:
        while os.getppid() == parent:
            for key, _ in selector.select(timeout=0.5):
                if key.data is None:
                    if not ready:  # only now: a run without such jobs never pays
                        import_libraries(kind)
                        ready = True
                    client, _ = listener.accept()
                    try:
                        request, files = receive(client)
                    except (OSError, ValueError):
                        client.close()
                        continue
                    pid = os.fork()
                    if pid == 0:
                        signal.signal(signal.SIGTERM, signal.SIG_DFL)
                        signal.signal(signal.SIGINT, signal.SIG_DFL)
                        selector.close()
                        listener.close()
                        client.close()
                        for _, other in jobs.values():
                            other.close()
                        jobs.clear()
                        child(request, files)
                    for file in files:
                        os.close(file)
                    watch = os.pidfd_open(pid)
                    jobs[pid] = (watch, client)
                    selector.register(watch, selectors.EVENT_READ, pid)
                    selector.register(client, selectors.EVENT_READ, -pid)
                elif key.data > 0:  # a child ended
                    pid = key.data
                    _, status = os.waitpid(pid, 0)
                    watch, client = jobs.pop(pid)
                    selector.unregister(watch)
                    os.close(watch)
                    if client in selector.get_map():
                        selector.unregister(client)
                        code = os.waitstatus_to_exitcode(status)
                        if code >= 0:  # of a child that was killed, the client hears nothing but the end
                            with contextlib.suppress(OSError):
                                client.sendall(bytes([code]))
                    client.close()
                else:  # a client never writes again, so it is gone
                    selector.unregister(key.fileobj)
                    os.kill(-key.data, signal.SIGKILL)
    finally:
        for pid in jobs:
            os.kill(pid, signal.SIGKILL)
        Path(address).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the other process may still have its socket there
            Path(address).parent.rmdir()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3])
