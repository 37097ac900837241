"""A seed more makes what is trained once more, and nothing that is there already."""

from __future__ import annotations

import pytest
from project import Tree

from advmerge.artifacts import load_table

pytestmark = pytest.mark.workflow

TASKS = ("uci_digits", "latin", "texture")
MERGED = ("weight_averaging", "task_arithmetic", "task_arithmetic_surgery")
TARGETS = (*MERGED, "multitask")


def test_a_seed_more(copy: Tree) -> None:
    before = copy.identities()
    copy.edit("seeds: [0]", "seeds: [0, 5]")
    copy.forget_logs()
    copy.snakemake()

    made = {
        *(f"models/finetuned/seed5/{task}" for task in TASKS),
        "models/seed5/multitask",
        *(f"merged/seed5/{name}" for name in MERGED),
        *(f"adversarial/{task}/seed5/finetuned/{cell}" for task in TASKS for cell in ("pgd_eps8", "deepfool")),
        *(f"adversarial/{task}/seed5/{name}/pgd_eps8" for task in TASKS for name in TARGETS),
        *(f"clean/seed5/{name}" for name in ("finetuned", *TARGETS)),
        *(f"outcomes/seed5/{name}/{cell}" for name in TARGETS for cell in ("pgd_eps8", "deepfool")),
    }
    report = ("figures/", "tables", "comparison", "claims", "gallery", "summary", "page")
    # What is explained is the first seed: its parts stay, the tables are made again with the outcomes.
    assert {name for name in copy.ran() if not name.startswith(report)} == made | {
        "outcomes",
        "accuracy",
        "explanations",
    }
    anew = ("results/smoke/outcomes.parquet", "results/smoke/accuracy.parquet")
    kept = {path: mark for path, mark in before.items() if path.startswith("results/") and path not in anew}
    assert kept.items() <= copy.identities().items()
    assert "artifacts are what the study asks for" in copy.run("python", "workflow/scripts/audit.py")

    rows = load_table(copy.path / "results/smoke/outcomes.parquet").astype({"surrogate": str, "target": str})
    keys = ["task", "image", "surrogate", "attack", "target", "label"]
    own = rows[rows["seed"] == 0].merge(rows[rows["seed"] == 5], on=keys, suffixes=("", "_other"))
    assert 2 * len(own) == len(rows)
    # P is in both seeds the same, the experts and what is merged of them are not.
    public = own["surrogate"] == "pretrained"
    assert (own["surrogate_margin"] == own["surrogate_margin_other"])[public].all()
    assert (own["surrogate_margin"] != own["surrogate_margin_other"])[~public].mean() > 0.9
    assert (own["target_margin"] != own["target_margin_other"]).mean() > 0.9
    spread = load_spread(copy)
    assert (spread["seeds"] == 2).all() and spread["sd"].notna().all()


def load_spread(tree: Tree):
    """The spread of what depends on the seed."""
    import pandas as pd

    table = pd.read_csv(tree.path / "reports/smoke/tables/seeds_spread.csv")
    return table[~((table["quantity"] == "accuracy") & (table["model"] == "pretrained"))]
