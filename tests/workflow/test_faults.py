"""What cannot be right is refused in a sentence, and a run that was killed goes on as if it had not been."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from project import ROOT, Tree

from advmerge.artifacts import load_tensors, save_tensors

pytestmark = pytest.mark.workflow


def processes_in(folder: Path) -> set[int]:
    """Every process that works in a folder."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink() == folder:
                found.add(int(entry.name))
        except OSError:  # gone, or another user's
            continue
    return found


def wait_until(condition, patience: float) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


# Who runs the study, and the environment: neither shows in a byte.
ENGINES = (
    ("snakemake", "--cores", "1", "--resources", "gpu=2"),
    ("snakemake", "--cores", "all", "--resources", "gpu=2"),
    ("dvc", "repro"),
)
ELSEWHERE = {"OMP_NUM_THREADS": "4", "PYTHONHASHSEED": "7", "TZ": "Pacific/Auckland", "LC_ALL": "C"}


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks for left-over processes in /proc")
def test_a_run_killed_again_and_again_goes_on_to_the_same_bytes(
    base: Tree, copy: Tree, pytestconfig: pytest.Config
) -> None:
    """And so plain Snakemake, on one core and told to use four threads, gives what `dvc repro` gave on all.

    With ``--kills 40`` a run may end before it is killed: it must have ended well, and the next begins from nothing.
    """
    environment = {**copy.environment, **ELSEWHERE}
    sets = copy.path / "results/smoke/adversarial"
    draw = random.Random()

    def forget() -> None:
        for folder in ("results", "reports", "logs", ".snakemake/metadata", ".snakemake/incomplete", ".dvc/cache"):
            shutil.rmtree(copy.path / folder, ignore_errors=True)

    def killed(command: tuple[str, ...], ready: Callable[[], object] | None = None) -> bool:
        """Start a run, and kill it when it is ready to be, or some time; whether it was there to be killed."""
        moment = time.monotonic() + draw.uniform(1, 12)
        # DVC writes this file in place: a kill in that moment is one that it does not get over (docs/dvc.md).
        (copy.path / ".dvc/tmp/rwlock").unlink(missing_ok=True)
        log = copy.path.parent / "killed.log"
        with log.open("wb") as out:
            run = subprocess.Popen(command, cwd=copy.path, env=environment, stdout=out, stderr=out)
            wait_until(lambda: (ready() if ready else time.monotonic() > moment) or run.poll() is not None, 600)
        alive = run.poll() is None
        run.kill()
        # Snakemake's children end with it; DVC's child goes on, and would be a living run beside the next.
        while (command[0] == "dvc" or draw.random() < 0.5) and (others := processes_in(copy.path) - {run.pid}):
            for pid in others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert run.wait() == 0 or alive, log.read_text()[-3000:]
        wait_until(lambda: not processes_in(copy.path), 60)  # nothing goes on writing
        return alive

    forget()
    for _ in range(pytestconfig.getoption("kills") - 1):
        while not killed(draw.choice(ENGINES)):
            assert copy.contents() == base.contents()
            forget()
    if list(sets.glob("**/*.safetensors")):
        forget()
    assert killed(ENGINES[0], lambda: len(list(sets.glob("**/*.safetensors"))) >= 4)
    kept = copy.identities()
    assert 4 <= len(list(sets.glob("**/*.safetensors"))) < 24

    subprocess.run(ENGINES[0], cwd=copy.path, env=environment, capture_output=True, check=True)
    assert copy.contents() == base.contents()
    after = copy.identities()
    redone = {path for path in kept if after.get(path) != kept[path]}
    assert len(redone) <= 1, redone  # what was being made or recorded


def test_two_studies_at_once(base: Tree, bare: Tree, tmp_path: Path) -> None:
    """In one tree, side by side: each gives what it gives alone."""
    tree = Tree(tmp_path / "tree", bare.home)
    shutil.copytree(bare.path, tree.path)
    text = (tree.path / "params.yaml").read_text()
    (tree.path / "other.yaml").write_text(text.replace("study: smoke", "study: other"))
    runs = [
        subprocess.Popen(
            ["snakemake", "all_data", "--cores", "1", *options],
            cwd=tree.path,
            env=tree.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for options in ((), ("--configfile", "other.yaml"))
    ]
    assert [run.wait(240) for run in runs] == [0, 0]
    made = tree.contents()
    alone = {path: digest for path, digest in base.contents().items() if path.startswith("results/smoke/data/")}
    assert made == alone | {path.replace("smoke", "other"): digest for path, digest in alone.items()}


def test_a_clock_that_jumps_hides_no_edit_and_stops_no_job(copy: Tree) -> None:
    """Files from long ago and from next year, in no order."""
    draw = random.Random(0)
    year = 31_536_000

    def jump() -> None:
        for path in sorted(copy.files()):
            moment = time.time() + draw.choice((-20, -0.1, 0.1, 1)) * year
            os.utime(path, (moment, moment))

    jump()
    assert "Nothing to be done" in copy.snakemake("-n")

    jump()
    figures = copy.path / "src/advmerge/figures.py"
    figures.write_text(figures.read_text() + "\n# edited\n")
    copy.forget_logs()
    copy.snakemake("reports/smoke/figures/relative_transfer.svg", "--cores", "all")
    assert copy.ran() == {"figures/relative_transfer"}

    # What a killed run made anew after the clock had gone back: it looks older than what was made of its predecessor.
    jump()
    head, expert = (copy.path / f"results/smoke/{name}/latin.safetensors" for name in ("heads", "models/finetuned"))
    tensors, facts = load_tensors(head)
    save_tensors(head, {name: tensor / 2 for name, tensor in tensors.items()}, facts)
    os.utime(expert, (time.time() + year, time.time() + year))
    planned = copy.snakemake(str(expert.relative_to(copy.path)), "-n", "--quiet", "host")
    assert set(re.findall(r"^rule (\w+):", planned, re.MULTILINE)) == {"finetune"}


def test_a_second_run_beside_a_living_one_is_refused(copy: Tree) -> None:
    """A lock of a run that is alive is not taken for one that a killed run left."""
    shutil.rmtree(copy.path / "results/smoke/adversarial/latin")
    run = subprocess.Popen(
        ["snakemake", "--cores", "all", "--forcerun", "attack"],
        cwd=copy.path,
        env=copy.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: list(copy.path.glob(".snakemake/locks/*")) or run.poll() is not None, 60)
        assert "locked" in copy.snakemake(fails=True)
        assert run.poll() is None
    finally:
        run.kill()
        run.wait()
        wait_until(lambda: not processes_in(copy.path), 30)


def test_outputs_without_provenance_are_refused(base: Tree, copy: Tree) -> None:
    shutil.rmtree(copy.path / ".snakemake/metadata")
    said = copy.snakemake("-n", fails=True)
    assert "there is no record" in said
    assert "Traceback" not in said
    (advice,) = re.findall(r"run: (dvc checkout record)", said)
    copy.run(*advice.split())
    assert "Nothing to be done" in copy.snakemake("-n")
    copy.edit("max_iter: 10}", "max_iter: 11}")
    shutil.rmtree(copy.path / ".snakemake/metadata")
    said = copy.run("dvc", "repro", fails=True)
    assert "there is no record" in said
    assert copy.contents() == base.contents()


@pytest.mark.parametrize("kind", ["hardlink", "symlink"])
def test_links_into_a_cache_are_refused(base: Tree, copy: Tree, kind: str) -> None:
    copy.run("dvc", "config", "--local", "cache.type", kind)
    copy.run("dvc", "checkout", "-q", "--relink")
    said = copy.snakemake("-n", fails=True)
    assert "is a link into a cache" in said
    assert "Traceback" not in said
    (advice,) = re.findall(r"run: (.*)", said)
    copy.run("dvc", "config", "--local", "-u", "cache.type")
    for command in advice.split(" && "):
        copy.run(*command.split())
    assert "Nothing to be done" in copy.snakemake("-n")
    assert copy.contents() == base.contents()


AUDIT = ("python", "workflow/scripts/audit.py")


def test_the_audit_passes_what_is_right(base: Tree) -> None:
    assert re.search(r"^\d+ artifacts are what the study asks for$", base.run(*AUDIT), re.MULTILINE)


def test_the_audit_finds_what_a_full_disk_kept_out_of_dvcs_cache(copy: Tree) -> None:
    """Where `dvc repro` runs it; DVC itself mentions it in passing, and ends well."""
    table = "results/smoke/outcomes.parquet"
    digest = hashlib.md5((copy.path / table).read_bytes()).hexdigest()
    (copy.path / f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}").unlink()
    said = copy.run("env", "DVC_STAGE=record", *AUDIT, fails=True).strip()
    assert said == f"error: {table}: is not in DVC's cache; make room there and run: dvc repro"


@pytest.mark.parametrize(
    ("harm", "file", "reason"),
    [
        ("missing", "clean/multitask.parquet", "is missing"),
        ("setting", "adversarial/uci_digits/pretrained/pgd_eps8.safetensors", "other settings"),
        ("input", "models/finetuned/latin.safetensors", "was made from another results/smoke/heads/latin"),
        ("rule", "merged/task_arithmetic_surgery.safetensors", "was made by merge, not by surgery"),
        ("damage", "outcomes.parquet", "not a readable"),
    ],
)
def test_the_audit_names_what_is_wrong(copy: Tree, harm: str, file: str, reason: str) -> None:
    results = copy.path / "results/smoke"
    match harm:
        case "missing":
            (results / file).unlink()
        case "setting":
            copy.edit("max_iter: 5, num_random_init: 1}", "max_iter: 6, num_random_init: 1}")
        case "input":
            tensors, metadata = load_tensors(results / "heads/latin.safetensors")
            halved = {name: tensor / 2 for name, tensor in tensors.items()}
            save_tensors(results / "heads/latin.safetensors", halved, metadata)
        case "rule":
            shutil.copy2(results / "merged/task_arithmetic.safetensors", results / file)
        case "damage":
            (results / file).write_bytes(b"PAR1")
    said = copy.run(*AUDIT, fails=True).strip()
    assert "\n" not in said
    assert re.match(rf"error: results/smoke/{file}: .*{reason}", said)


BAD = {
    "key": ("shots: 4", "shots: 4, shoots: 4", "head.shoots", "scale, shots"),
    "method": ("{method: average}", "{method: mean}", "mean", "task_arithmetic"),
    "attack": ("method: BatchedDeepFool", "method: DeepPool", "DeepPool", "BatchedDeepFool"),
    "kind": ("latin: {}", "latin: {kind: runes}", "runes", "cyrillic"),
    "option": ("num_random_init: 1", "restarts: 1", "restarts", "num_random_init"),
    "range": ("images: 32", "images: 0", "evaluation.images", "greater than 0"),
    "budget": ("eps: 8/255", "eps: 8", "attacks.pgd.eps", "(0, 1]"),
    "base": ("base: task_arithmetic", "base: ties", "ties", "weight_averaging"),
}


def one_sentence(said: str) -> str:
    """The one line of an error, which is all that was said of it."""
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("bad", BAD)
def test_bad_studies_are_refused_before_any_job(bare: Tree, tmp_path: Path, bad: str) -> None:
    old, new, thing, choice = BAD[bad]
    text = (ROOT / "studies/smoke.yaml").read_text()
    assert text.count(old) == 1
    study = tmp_path / "study.yaml"
    study.write_text(text.replace(old, new))
    said = bare.snakemake("--cores", "all", "--configfile", str(study), fails=True)
    line = one_sentence(said)
    assert thing in line
    assert choice in line
    assert not (bare.path / "results").exists()


@pytest.mark.parametrize("overlay", ["--config seed=7", "--configfile params.yaml studies/smoke.yaml"])
def test_settings_beside_the_study_are_refused_and_not_overlooked(bare: Tree, overlay: str) -> None:
    assert "a study is one file" in one_sentence(bare.snakemake("-n", *overlay.split(), fails=True))


def test_a_folder_of_images_that_is_not_there_is_named(bare: Tree, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    old, new = "  latin: {}", f"  latin: {{kind: image_folder, path: {tmp_path}/none}}"
    text = (ROOT / "studies/smoke.yaml").read_text()
    assert text.count(old) == 1
    study.write_text(text.replace(old, new))
    line = one_sentence(bare.snakemake("-n", "--configfile", str(study), fails=True))
    assert line.startswith(f"error: {tmp_path}/none: expected a folder with a sub-folder of images for each class")


def test_a_missing_study_is_named(bare: Tree, tmp_path: Path) -> None:
    """Of a --configfile that is missing Snakemake itself speaks, before the Snakefile is read."""
    tree = Tree(tmp_path / "tree", bare.home)
    shutil.copytree(bare.path, tree.path)
    (tree.path / "params.yaml").unlink()
    assert one_sentence(tree.snakemake(fails=True)) == "error: params.yaml: no such file"
    assert "studies/nothing.yaml" in bare.snakemake("--configfile", "studies/nothing.yaml", fails=True)
    assert not (tree.path / "results").exists()
