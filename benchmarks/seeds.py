"""Does the ordering of merged models hold over seeds? Clean test accuracy of every model, mean and standard error.

    python benchmarks/seeds.py [seeds, 3 unless given]

Every seed draws its own data splits, initial weights, fine-tuning and adaptation. Only the models are made, no attacks:
about five minutes a seed on one core. Runs in a copy of this checkout.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from overhead import copy_checkout

from advmerge.artifacts import load_table


def accuracies(folder: Path, seed: int) -> pd.Series:
    """Model → mean test accuracy over tasks, under one seed."""
    text = (folder / "params.yaml").read_text(encoding="utf-8")
    text = re.sub(r"^study: \w+", f"study: seed{seed}", text, flags=re.MULTILINE)
    text = re.sub(r"^seed: \d+", f"seed: {seed}", text, flags=re.MULTILINE)
    text = re.sub(r"^seeds: .*", f"seeds: [{seed}]", text, flags=re.MULTILINE)
    study = folder / f"seed{seed}.yaml"
    study.write_text(text, encoding="utf-8")
    table = f"results/seed{seed}/accuracy.parquet"
    command = [str(Path(sys.executable).with_name("snakemake")), table, "--configfile", str(study), "--cores", "all"]
    done = subprocess.run([*command, "--resources", "gpu=2"], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    found = load_table(folder / table).query("split == 'test'")
    return found.groupby("model", sort=False)["accuracy"].mean()


def main() -> None:
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    with tempfile.TemporaryDirectory() as name:
        copy_checkout(Path(name))
        table = pd.DataFrame({seed: accuracies(Path(name), seed) for seed in seeds})
    over = table.sub(table.loc["weight_averaging"])
    summary = table.assign(
        mean=table.mean(axis=1),
        se=table.sem(axis=1),
        over_averaging=over.mean(axis=1),
        se_of_difference=over.sem(axis=1),
    )
    print(summary.round(4).to_string())


if __name__ == "__main__":
    main()
