"""A study with every kind of surrogate runs, and leaves alone what has nothing to do with them."""

from __future__ import annotations

import pytest
from project import EVERY_KIND, PLAIN, Tree

from advmerge.artifacts import load_table, load_tensors, metadata

pytestmark = pytest.mark.workflow

TASKS = ("uci_digits", "latin", "texture")
BAITED = ("task_arithmetic", "task_arithmetic_surgery")
NEW = ("efficientnet", "ensemble", "bait", "decoy")
OTHERS = ("efficientnet", "small")


def test_every_kind_of_surrogate(copy: Tree) -> None:
    before = copy.identities()
    copy.edit(PLAIN, EVERY_KIND)
    copy.forget_logs()
    copy.snakemake()

    made = {
        *(f"models/{name}" for name in OTHERS),
        *(f"{part}/{name}" for part in ("data", "heads", "models/finetuned") for name in ("bait", "decoy")),
        *(f"models/{name}.features" for name in OTHERS),
        *(f"heads/{name}/{task}" for name in OTHERS for task in TASKS),
        *(f"models/finetuned/efficientnet/{task}" for task in TASKS),
        *(f"adversarial/{task}/{name}/pgd_eps8" for name in NEW for task in TASKS),
        *(f"clean/{name}" for name in (*NEW, "small")),
    }
    # The bait is in one merge, so all that comes after it is made again.
    again = {
        *(f"merged/{name}" for name in BAITED),
        *(f"clean/{name}" for name in BAITED),
        *(f"adversarial/{task}/{name}/pgd_eps8" for name in BAITED for task in TASKS),
        *(f"outcomes/{name}/{cell}" for name in BAITED for cell in ("pgd_eps8", "deepfool")),
        *(f"outcomes/{name}/pgd_eps8" for name in ("weight_averaging", "multitask")),
        *(f"explanations/pairs/{name}" for name in (*BAITED, "weight_averaging", "multitask")),
        *(f"explanations/{name}" for name in ("dose/task_arithmetic_surgery", "path", "plane")),
        "explanations",
        "outcomes",
        "accuracy",
    }
    report = ("figures/", "tables", "comparison", "claims", "gallery", "summary", "page")
    ran = {name for name in copy.ran() if not name.startswith(report)}
    assert ran == made | again
    kept = {path: mark for path, mark in before.items() if path.startswith("results/")}
    kept = {p: mark for p, mark in kept.items() if p.split("/", 2)[2].rsplit(".", 1)[0] not in again}
    assert kept.items() <= copy.identities().items()
    assert "artifacts are what the study asks for" in copy.run("python", "workflow/scripts/audit.py")

    results = copy.path / "results/smoke"
    for name, ingredients in (("task_arithmetic", (*TASKS, "bait")), ("weight_averaging", TASKS)):
        inputs = metadata(results / f"merged/{name}.safetensors")["inputs"]
        merged = {path.rsplit("/", 1)[1] for path in inputs if "/finetuned/" in path}
        assert merged == {f"{task}.safetensors" for task in ingredients}

    rows = load_table(results / "outcomes.parquet").astype({"surrogate": str, "target": str})
    facts = rows[["surrogate", "target", "in_merge"]].drop_duplicates()
    assert not facts.duplicated(["surrogate", "target"]).any()
    within = {(row.surrogate, row.target) for row in facts.itertuples() if row.in_merge}
    expected = {("finetuned", target) for target in (*BAITED, "weight_averaging")}
    assert within == expected | {("bait", target) for target in BAITED}
    assert set(NEW) < set(rows["surrogate"])

    # Gradients of everything, blocks of one architecture, features of any that is one model.
    pairs = load_table(results / "explanations/pairs/multitask.parquet").astype(str)
    assert set(pairs.loc[pairs["measure"] == "gradient_cosine", "surrogate"]) >= set(NEW)
    cka = pairs[pairs["measure"] == "cka"].groupby("surrogate")["block"].unique()
    assert set(cka["bait"]) == {"blocks.0", "blocks.1", "features"}
    assert set(cka["efficientnet"]) == {"features"}
    assert "ensemble" not in cka

    # The ensemble's answers are those of its members' mean logits: it beats no bound, but it is no member's.
    tensors, _ = load_tensors(results / "adversarial/latin/ensemble/pgd_eps8.safetensors")
    other, _ = load_tensors(results / "adversarial/latin/pretrained/pgd_eps8.safetensors")
    assert (tensors["linf"] <= 8 / 255 + 1e-6).all()
    assert (tensors["clean_margin"] != other["clean_margin"]).all()

    drawn = {path.stem for path in (copy.path / "reports/smoke/figures").glob("heatmap_*.svg")}
    assert drawn == {f"heatmap_{name}" for name in ("pretrained", "finetuned", *NEW)}
