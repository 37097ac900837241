"""How jobs are run: the same through the warm process and without it, and none outlives who wanted it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from snakemake.scheduling.job_scheduler import JobScheduler

from advmerge.errors import StudyError
from advmerge.jobs import session
from advmerge.study import load

ROOT = Path(__file__).parents[1]
LAUNCH = Path(session.__file__).with_name("launch.py")


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module", params=["models", "tables", "cold"])
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Launch a job: in either warm process, or in one of its own."""
    if request.param != "cold":
        session.start_warm_processes()
    options = ["--tables"] if request.param == "tables" else []

    def launch(script: Path, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-IS", str(LAUNCH), *options, "--log", str(script.with_suffix(".log"))]
        return subprocess.Popen(
            [*command, str(script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=script.parent,
        )

    yield launch
    session.stop_warm_processes()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "job.py"


def test_output_goes_to_the_log_and_reports_to_both(start: Start, script: Path) -> None:
    script.write_text("import sys, os; print('said', *sys.argv[1:], os.getcwd()); print('reported', file=sys.stderr)")
    job = start(script, "a b", '{"c": 1}')
    out, err = job.communicate(timeout=60)
    assert (job.returncode, out, err) == (0, "", "reported\n")
    assert script.with_suffix(".log").read_text() == f'said a b {{"c": 1}} {script.parent}\nreported\n'


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("raise SystemExit(7)", 7, ""),
        ("raise KeyError('x')", 1, "KeyError: 'x'"),
        ("from advmerge.script import run\nfrom advmerge.errors import StudyError\n"
         "def main(): raise StudyError('key k: wrong')\nrun(main)", 1, "error: key k: wrong\n"),
        ("from advmerge.script import run\ndef main(): open('/nowhere/x')\nrun(main)", 1,
         "error: /nowhere/x: No such file or directory\n"),
    ],
)  # fmt: skip
def test_failures_keep_their_code_and_words(start: Start, script: Path, body: str, code: int, words: str) -> None:
    script.write_text(body)
    job = start(script)
    _, err = job.communicate(timeout=60)
    assert job.returncode == code
    assert err.endswith(words) if words.startswith("error") else words in err
    assert ("Traceback" in err) == ("KeyError" in words)
    assert words in script.with_suffix(".log").read_text()


def test_what_lies_on_disk_is_what_runs(start: Start, script: Path) -> None:
    for word in ("one", "two"):
        script.with_name("helper.py").write_text(f"WORD = '{word}'")
        script.write_text("import helper; print(helper.WORD)")
        assert start(script).wait(60) == 0
        assert script.with_suffix(".log").read_text() == f"{word}\n"
        # the compiled helper of the first round must not be taken for the second's
        for compiled in script.parent.rglob("*.pyc"):
            compiled.unlink()


def gone(pid: int) -> bool:
    """Whether a process ends within ten seconds; one that nobody has waited for yet has ended too."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False


def test_a_temporary_folder_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets may not."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    session.start_warm_processes()
    try:
        assert sorted(file.name for file in Path(os.environ["ADVMERGE_WARM"]).iterdir()) == ["models", "tables"]
    finally:
        session.stop_warm_processes()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_client_takes_its_job_along(start: Start, script: Path, number: signal.Signals) -> None:
    """Without a word, if it was Ctrl-C."""
    script.write_text(
        "import os, time; open('pid', 'w').write(str(os.getpid())); os.rename('pid', 'ready'); time.sleep(300)"
    )
    job = start(script)
    ready = script.with_name("ready")
    for _ in range(600):
        if ready.exists():
            break
        time.sleep(0.1)
    pid = int(ready.read_text())
    os.kill(job.pid, number)
    assert job.communicate()[1] == ""
    assert gone(pid)


def test_a_job_says_what_it_cost(start: Start, script: Path) -> None:
    script.write_text(
        "import time\nfrom advmerge.script import run, work\n"
        "def burn(s):\n    end = time.process_time() + s\n    while time.process_time() < end: pass\n"
        "def main():\n    with work(): burn(.2)\n    burn(.1)\nrun(main)"
    )
    assert start(script).wait(60) == 0
    line = script.with_suffix(".log").read_text().splitlines()[-1]
    assert line.startswith("cost {")
    cost = json.loads(line.removeprefix("cost "))
    assert 0.2 <= cost["work_s"] < 0.25
    assert 0.3 <= cost["cpu_s"] < 0.6


def test_the_warm_process_ends_with_its_parent(tmp_path: Path) -> None:
    """A killed Snakemake leaves neither it nor its jobs behind."""
    (tmp_path / "job.py").write_text("import os, time; open('job', 'w').write(str(os.getpid())); time.sleep(300)")
    (tmp_path / "parent.py").write_text(
        "import subprocess, sys, time\nfrom advmerge.jobs import session\n"
        "session.start_warm_processes(); open('warm', 'w').write(' '.join(str(each.pid) for each in session._warm[0]))\n"
        f"subprocess.Popen([sys.executable, '-IS', {str(LAUNCH)!r}, 'job.py']); time.sleep(300)"
    )
    environment = {**os.environ, "PYTHONPATH": str(LAUNCH.parents[2])}
    parent = subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path, env=environment)
    for _ in range(600):
        if (tmp_path / "job").exists() and (tmp_path / "job").read_text():
            break
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    pids = [*(tmp_path / "warm").read_text().split(), (tmp_path / "job").read_text()]
    assert len(pids) == 3
    assert all(gone(int(pid)) for pid in pids)


def test_snakemake_still_has_the_limit_that_we_lift() -> None:
    """Setting an attribute that is no longer there would lift nothing, and nobody would be told."""
    names = {
        name for code in [JobScheduler.__init__.__code__, JobScheduler.schedule.__code__] for name in code.co_names
    }
    assert "job_rate_limiter" in names


def test_a_cluster_is_asked_as_planned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main process plans for the GPU that is named; what runs inside an allocation reads what it found, or nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ADVMERGE_GPU_TFLOPS", raising=False)
    path = str(ROOT / "studies/smoke.yaml")
    study, asked = load(path), []

    def ask(module: str, *arguments: str) -> None:
        asked.append((module, *arguments[:2]))
        Path(arguments[2]).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments[2]).write_text('{"attack": {"mem_mb": 4500, "runtime": 10}}')

    monkeypatch.setattr(session, "_ask", ask)
    assert session.requests(study, path, main=False) == {}
    for main in (True, True, False):
        assert session.requests(study, path, main=main)["attack"]["runtime"] == 10
    assert asked == [("advmerge.plan", path, "10")]
    monkeypatch.setenv("ADVMERGE_GPU_TFLOPS", "19.5")
    assert session.requests(study, path, main=False) == {}
    session.requests(study, path, main=True)
    assert asked[1:] == [("advmerge.plan", path, "19.5")]
    for wrong in ("fast", "0", "-1", "nan", "inf"):
        monkeypatch.setenv("ADVMERGE_GPU_TFLOPS", wrong)
        with pytest.raises(StudyError, match=f"ADVMERGE_GPU_TFLOPS: '{wrong}' is not a number above 0"):
            session.requests(study, path, main=True)
