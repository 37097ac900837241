"""What a job says of damaged, foreign or hostile files, and of disks that are full or closed: one sentence, exit code 1.

The jobs are the workflow's own scripts, run as Snakemake runs them.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from advmerge.artifacts import load_table, load_tensors, metadata, replacing, save_table, save_tensors, sha256
from advmerge.data import SPLITS
from advmerge.errors import StudyError
from advmerge.jobs import session
from advmerge.models import Model, build_encoder, load_head
from advmerge.study import load

LAUNCH = Path(session.__file__).with_name("launch.py")
SCRIPTS = Path(session.__file__).parents[3] / "workflow/scripts"

BACKBONE: dict[str, Any] = {
    "timm": "vit_tiny_patch16_224",
    "options": {
        "img_size": 8,
        "patch_size": 4,
        "in_chans": 1,
        "embed_dim": 8,
        "depth": 1,
        "num_heads": 2,
        "mlp_ratio": 1.0,
        "class_token": False,
        "global_pool": "avg",
    },
    "mean": [0.5],
    "std": [0.25],
}
DIGITS = {
    "task": "uci_digits",
    "kind": "uci_digits",
    "options": {},
    "sizes": dict.fromkeys(SPLITS, 100),
    "seed": 0,
    "shape": [1, 28, 28],
}

ASKED: dict[str, Any] = {"batch_size": 4, "fuse": "logits", "hardware": {"deterministic": True, "precision": "auto"}}

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Run a script of the workflow with a config and arguments."""
    session.start_warm_processes()

    def start(script: str, config: dict, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-IS", str(LAUNCH), str(SCRIPTS / f"{script}.py"), "--config", json.dumps(config)]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)

    yield start
    session.stop_warm_processes()


class Files(NamedTuple):
    """The inputs of a `predict` job."""

    model: Path
    head: Path
    data: Path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A model, a head and the images of a task, all right."""
    torch.manual_seed(0)
    found = Files(*(tmp_path / f"{name}.safetensors" for name in Files._fields))
    save_tensors(found.model, build_encoder(BACKBONE).state_dict(), {"backbone": BACKBONE})
    head = {"weight": torch.randn(3, 8), "bias": torch.zeros(3), "mean": torch.zeros(8), "std": torch.ones(8)}
    save_tensors(found.head, head, {})
    images = {f"{split}_images": torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8) for split in ("test", "attack")}
    labels = {f"{split}_labels": torch.arange(6) % 3 for split in ("test", "attack")}
    save_tensors(found.data, images | labels, {})
    return found


def predict(run: Run, files: Files, hardware: dict | None = None) -> subprocess.CompletedProcess[str]:
    """Run the job; its output goes beside the inputs."""
    named = [f"--model=t/p={files.model}", f"--head=t/p={files.head}", f"--data=t={files.data}"]
    asked = {**ASKED, "hardware": hardware or ASKED["hardware"]}
    return run("predict", asked, *named, "--output", str(files.model.with_name("clean.parquet")))


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed job says."""
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def test_a_job_computes_in_the_precision_it_is_asked_for(run: Run, files: Files) -> None:
    answers = {}
    for precision in ("float32", "bfloat16"):
        done = predict(run, files, {**ASKED["hardware"], "precision": precision})
        assert done.returncode == 0, done.stderr
        output = files.model.with_name("clean.parquet")
        assert metadata(output)["made_on"]["precision"] == precision
        answers[precision] = load_table(output)["margin"].to_numpy()
    difference = np.abs(answers["float32"] - answers["bfloat16"])
    assert 0 < difference.max() < 0.1


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def test_what_is_right_runs(run: Run, files: Files) -> None:
    done = predict(run, files)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(load_table(files.model.with_name("clean.parquet"))) == 12


WEIGHTS = "patch_embed.proj.bias"


def edited(path: Path, name: str, tensor: torch.Tensor | None) -> None:
    """Replace a tensor of an artifact, add it, or take it out."""
    tensors, facts = load_tensors(path)
    tensors |= {name: torch.zeros(0) if tensor is None else tensor}
    save_tensors(path, {key: value for key, value in tensors.items() if tensor is not None or key != name}, facts)


def other_architecture(path: Path) -> None:
    """The same model, said to be one of two blocks."""
    tensors, facts = load_tensors(path)
    facts["backbone"]["options"]["depth"] = 2
    save_tensors(path, tensors, facts)


HARMS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "pickle": ("model", lambda p: p.write_bytes(pickle.dumps(Bomb(p.with_name("ran")))), "not a readable safetensors"),
    "torch.save": ("model", lambda p: torch.save(Bomb(p.with_name("ran")), p), "not a readable safetensors"),
    "cut off": ("model", lambda p: p.write_bytes(p.read_bytes()[:-9]), "not a readable safetensors"),
    "empty": ("data", lambda p: p.write_bytes(b""), "not a readable safetensors"),
    "missing": ("head", Path.unlink, "no such file"),
    "NaN": ("model", lambda p: edited(p, WEIGHTS, torch.full((8,), float("nan"))), "proj.bias' has values that are"),
    "infinity": ("head", lambda p: edited(p, "bias", torch.tensor([0, float("inf"), 0])), "'bias' has values that are"),
    "shape": ("model", lambda p: edited(p, WEIGHTS, torch.zeros(7)), r"proj.bias' has shape \[7\], expected \[8\]"),
    "too few": ("model", lambda p: edited(p, WEIGHTS, None), f"it lacks the tensor '{WEIGHTS}'"),
    "too many": ("model", lambda p: edited(p, "more", torch.zeros(1)), "it has a tensor 'more' too many"),
    "architecture": ("model", other_architecture, "it lacks the tensor 'blocks.1."),
    "width": ("head", lambda p: edited(p, "weight", torch.zeros(3, 9)), "gives 8 features, the head of 't' takes 9"),
    "a head": ("model", lambda p: p.write_bytes(p.with_name("head.safetensors").read_bytes()), "not an encoder"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_files_that_are_no_such_model(run: Run, files: Files, harm: str) -> None:
    name, do, words = HARMS[harm]
    do(getattr(files, name))
    said = sentence(predict(run, files))
    assert re.search(words, said), said
    assert str(files.model if harm == "width" else getattr(files, name)) in said
    left = {path.name for path in files.model.parent.iterdir()}
    assert left <= {path.name for path in files}, left  # no output, nothing half-written, and no bomb went off


def flipped(content: bytes, bit: int) -> bytes:
    """With one bit the other way round."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_any_flipped_bit_of_a_header_is_refused_or_read_in_good_order(files: Files) -> None:
    """Never another exception; and whatever is read, the file's hash, which descendants carry, has changed."""
    whole, before = files.model.read_bytes(), sha256(files.model)
    header = 8 + int.from_bytes(whole[:8], "little")
    draw, refused = random.Random(0), 0
    for bit in [*range(64), *(draw.randrange(64, 8 * header) for _ in range(500))]:
        files.model.write_bytes(flipped(whole, bit))
        assert sha256(files.model) != before
        try:
            Model(files.model).encoder()
        except StudyError as error:
            refused += 1
            assert str(error).startswith(str(files.model))
            assert "\n" not in str(error)
        else:
            metadata(files.model)
    assert refused > 250


def test_any_flipped_bit_of_a_table_is_refused_or_read_in_good_order(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    save_table(path, pd.DataFrame({"task": ["a", "b"], "eps": [0.1, None]}), {"slice": {"seed": 0}, "inputs": {}})
    whole, draw, refused = path.read_bytes(), random.Random(0), 0
    for bit in (draw.randrange(8 * len(whole)) for _ in range(500)):
        path.write_bytes(flipped(whole, bit))
        for read in (load_table, metadata):
            try:
                read(path)
            except StudyError as error:
                refused += 1
                assert str(error).startswith(f"{path}: not a readable parquet file")
    assert refused > 50


def test_a_head_that_is_a_pickle_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    torch.save(Bomb(tmp_path / "ran"), path)
    with pytest.raises(StudyError, match=r"head\.safetensors: "):
        load_head(path)
    assert not (tmp_path / "ran").exists()


# ── disks ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small disk of its own; called again, with other options, mounts it anew with what is on it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(options: str) -> Path:
        again = "remount," if mounted else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{again}{options}", "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no mount command here")
        if done.returncode:
            pytest.skip(f"may not mount here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(run: Run, disk: Callable[[str], Path]) -> None:
    output = disk("size=256k") / "data.safetensors"
    assert sentence(run("data", DIGITS, "--output", str(output))) == (
        f"task 'uci_digits': {output}: could not be written: No space left on device"
    )
    assert not list(output.parent.iterdir())
    disk("size=4m")
    assert run("data", DIGITS, "--output", str(output)).returncode == 0
    whole = sha256(output)
    disk(f"size={output.stat().st_size // 1024 + 64}k")
    again = run("data", {**DIGITS, "seed": 1}, "--output", str(output))
    assert "No space left on device" in sentence(again)
    assert sha256(output) == whole
    assert [path.name for path in output.parent.iterdir()] == [output.name]


@pytest.mark.parametrize("name", ["data.safetensors", "new/data.safetensors"])
def test_a_read_only_disk_is_one_sentence(run: Run, disk: Callable[[str], Path], name: str) -> None:
    disk("size=4m")
    output = disk("ro") / name
    said = sentence(run("data", DIGITS, "--output", str(output)))
    assert str(output.parent) in said
    assert "Read-only file system" in said


def test_a_run_that_cannot_keep_its_notes_says_so(disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = disk("ro,size=64k")
    monkeypatch.setattr(session, "STATE", folder / ".snakemake")
    study = load(SCRIPTS.parents[1] / "studies/smoke.yaml")
    monkeypatch.setattr(session, "_check_once", lambda study, path: None)
    with pytest.raises(StudyError, match=f"{folder}/.snakemake: .*cannot be kept: Read-only file system"):
        session.prepare(study, "smoke.yaml", touch=False)


# ── what lies there before a run ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("none", ""),
        ("file", "results: is no folder"),
        ("folder", "a.parquet: is a folder"),
        ("empty record", "a.parquet: there is no record"),
        ("damaged record", "a.parquet: there is no record"),
    ],
)
def test_outputs_that_cannot_be_trusted_or_written_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str, words: str
) -> None:
    """Before Snakemake stumbles over them; a record that a power cut has damaged it deletes, and counts the output as current."""
    monkeypatch.chdir(tmp_path)
    output = Path("results/x/a.parquet")
    record = session.STATE / "metadata" / base64.urlsafe_b64encode(str(output).encode()).decode()
    for file, content in ((output, "PAR1"), (record, '{"input_checksums": {}}')):
        file.parent.mkdir(parents=True)
        file.write_text(content)
    match harm:
        case "file":
            shutil.rmtree("results")
            Path("results").touch()
        case "folder":
            output.unlink()
            output.mkdir()
        case "empty record":
            record.write_text("")
        case "damaged record":
            record.write_bytes(b'{"input_checksums": {"\xff')
    session.wake([str(output)])
    if not words:
        session.guard([str(output)])
        return
    with pytest.raises(StudyError, match=words):
        session.guard([str(output)])


def test_what_a_killed_job_left_half_written_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load(SCRIPTS.parents[1] / "studies/smoke.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "_check_once", lambda study, path: None)
    folder = Path("results/smoke/heads")
    folder.mkdir(parents=True)
    with replacing(folder / "latin.safetensors") as temporary:
        temporary.touch()
        session.prepare(study, "smoke.yaml", touch=True)
        assert not list(folder.iterdir())
        temporary.touch()
        session.prepare(study, "smoke.yaml", touch=True)  # beside a living run
        assert list(folder.iterdir()) == [temporary]


# ── images ──────────────────────────────────────────────────────────────────────────────────────────────


def folder_task(folder: Path) -> dict:
    """A task of anyone's images: two classes of twelve."""
    draw = np.random.default_rng(0)
    for name in ("auk", "finch"):
        (folder / name).mkdir(parents=True)
        for index in range(12):
            Image.fromarray(draw.integers(256, size=(9, 9), dtype=np.uint8)).save(folder / name / f"{index}.png")
    sizes = dict.fromkeys(SPLITS, 4) | {"train": 8}
    return {**DIGITS, "task": "birds", "kind": "image_folder", "options": {"path": str(folder)}, "sizes": sizes}


@pytest.mark.parametrize("harm", ["none", "empty class", "no image", "cut off"])
def test_image_folders(run: Run, tmp_path: Path, harm: str) -> None:
    folder, output = tmp_path / "birds", tmp_path / "birds.safetensors"
    config = folder_task(folder)
    match harm:
        case "none":
            assert run("data", config, "--output", str(output)).returncode == 0
            return
        case "empty class":
            (folder / "crow").mkdir()
            words = f"{folder}/crow: the class has no image"
        case "no image":
            (folder / "auk/3.png").write_bytes(b"<html>moved</html>")
            words = f"{folder}/auk/3.png: not a readable image"
        case "cut off":
            whole = (folder / "finch/3.png").read_bytes()
            (folder / "finch/3.png").write_bytes(whole[: len(whole) // 2])
            words = f"{folder}/finch/3.png: not a readable image"
    assert words in sentence(run("data", config, "--output", str(output)))
    assert not output.exists()
    if harm == "cut off":  # one in 24 is too many to be skipped; in a hundred it is named in the log and the artifact
        skipping = {**config, "corrupt": "skip"}
        assert "1 of 24 images cannot be read, more than 1%" in sentence(run("data", skipping, "--output", str(output)))
        for index in range(100, 140):
            for name in ("auk", "finch"):
                shutil.copy(folder / name / "1.png", folder / name / f"{index}.png")
        config["sizes"] = skipping["sizes"] = dict.fromkeys(SPLITS, 10) | {"train": 64}
        assert words in sentence(run("data", config, "--output", str(output)))
        done = run("data", skipping, "--output", str(output))
        assert done.returncode == 0, done.stderr
        (reasons,) = metadata(output)["facts"]["skipped"].values()
        assert len(reasons) == 1 and words in reasons[0]
        assert words in done.stdout
        sizes = {split: len(load_tensors(output)[0][f"{split}_images"]) for split in SPLITS}
        assert sum(sizes.values()) == 103
        assert (sizes["val"], sizes["adapt"], sizes["attack"]) == (10, 10, 10)
