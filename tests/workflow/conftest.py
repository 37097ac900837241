"""A whole run of the smoke study, made once a session by `dvc repro`, and copies and clones of it to try things on.

What ran is read off the logs that the jobs wrote, what it gave off the files' own bytes; neither Snakemake nor DVC is
believed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from project import ROOT, STUDY, Tree

LONGEST = ("test_slurm", "test_faults")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker is left with one at the end."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(scope="session")
def new_tree(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Tree]:
    """Makes committed trees of the project as it lies here, with nothing run yet."""
    home = tmp_path_factory.mktemp("home")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]

    def make() -> Tree:
        tree = Tree(tmp_path_factory.mktemp("tree"), home)
        for name in names:
            if name not in ("dvc.lock", "params.yaml"):
                (tree.path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree.path / name)
        shutil.copy2(ROOT / "studies" / f"{STUDY}.yaml", tree.path / "params.yaml")
        tree.run("git", "init", "-q", ".")
        tree.commit("smoke study")
        return tree

    return make


@pytest.fixture(scope="session")
def bare(new_tree: Callable[[], Tree]) -> Tree:
    """A tree in which nothing ran. Nothing in it may be changed."""
    return new_tree()


@pytest.fixture(scope="session")
def base(new_tree: Callable[[], Tree], tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The smoke study as `dvc repro` runs it, pushed and committed. Nothing in it may be changed.

    The first worker that wants it makes it, for all.
    """
    ours = tmp_path_factory.getbasetemp()
    shared = ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours
    made = shared / "base"
    with (shared / "base.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.exists():
            return Tree(*map(Path, made.read_text().splitlines()))
        tree = new_tree()
        tree.run("dvc", "remote", "add", "-q", "--local", "-d", "folder", str(tmp_path_factory.mktemp("remote")))
        tree.run("dvc", "repro")
        tree.run("dvc", "push", "-q")
        tree.commit("first run")
        made.write_text(f"{tree.path}\n{tree.home}")
    return tree


@pytest.fixture
def copy(base: Tree, tmp_path: Path) -> Tree:
    """A copy of the run, times and all, and no hard links."""
    path = tmp_path / "copy"
    subprocess.run(["cp", "-a", "--reflink=auto", str(base.path), str(path)], check=True)
    return Tree(path, base.home)


@pytest.fixture(scope="session")
def clone_of(base: Tree, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Tree]:
    """Makes fresh clones of the run, its artifacts pulled from the remote."""

    def make() -> Tree:
        path = tmp_path_factory.mktemp("clone") / "project"
        base.run("git", "clone", "-q", str(base.path), str(path))
        shutil.copy2(base.path / ".dvc" / "config.local", path / ".dvc" / "config.local")
        tree = Tree(path, base.home)
        tree.run("dvc", "pull", "-q")
        return tree

    return make


@pytest.fixture
def clone(clone_of: Callable[[], Tree]) -> Tree:
    """A fresh clone of the run."""
    return clone_of()
