"""A small study of published things: a CLIP, an expert, a dataset in its own layout, zero-shot heads; run for real."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from project import Tree
from safetensors.torch import save_file

from advmerge.artifacts import load_table, load_tensors, metadata
from advmerge.models import Normalise, build_encoder, to_unit
from advmerge.published import to_timm
from advmerge.zeroshot import prompts

pytestmark = pytest.mark.workflow

CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
CLASSES = 4
OPTIONS = ("--configfile", "published.yaml", "--cores", "2", "--resources", "gpu=2")


class Published(Tree):
    """A tree whose downloads lie in it."""

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"ADVMERGE_DATA": str(self.path / "sets")}


def write_images(folder: Path, counts: dict[str, int], suffix: str) -> None:
    rng = np.random.default_rng(0)
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 120, size=(36, 40, 3)) + 40 * np.eye(4, 3, dtype=int)[label % 4]
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:05d}{suffix}")


def write_signs(root: Path) -> None:
    """GTSRB as torchvision leaves it."""
    write_images(root / "GTSRB/Training", {f"{label:05d}": 8 for label in range(CLASSES)}, ".ppm")
    write_images(root / "GTSRB/Final_Test", {"Images": 16}, ".ppm")
    rows = [f"{number:05d}.ppm;40;36;1;1;39;35;{number % CLASSES}" for number in range(16)]
    columns = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    (root / "GT-final_test.csv").write_text("\n".join([columns, *rows]) + "\n")


@pytest.fixture(scope="module")
def study() -> dict[str, Any]:
    recipe = {"steps": 3, "batch": 4, "lr": 0.001, "weight_decay": 0.1, "warmup": 1, "anchor": 0, "anchor_batch": 4}
    return {
        "study": "published",
        "seed": 0,
        "seeds": [0],
        "hardware": {
            "device": "cpu",
            "precision": {"train": "bfloat16", "evaluate": "float32", "craft": "bfloat16"},
            "deterministic": True,
        },
        "data": {"splits": {"train": 12, "val": 6, "adapt": 6, "test": 8, "attack": 8}},
        "tasks": {
            "signs": {"kind": "gtsrb"},
            "birds": {"kind": "image_folder", "path": "birds", "finetuned": {"file": "expert.safetensors"}},
        },
        "backbone": {
            "timm": "vit_base_patch32_clip_quickgelu_224",
            "options": {
                "img_size": 32,
                "patch_size": 16,
                "embed_dim": 64,
                "depth": 1,
                "num_heads": 1,
                "num_classes": 16,
            },
            "mean": [0.48, 0.46, 0.41],
            "std": [0.27, 0.26, 0.28],
            "pretrained": {"file": "clip.safetensors"},
        },
        "pretrain": None,
        "head": {"kind": "zero-shot", "open_clip": "clip.json"},
        "finetune": recipe,
        "multitask": recipe,
        "merging": {"average": {"method": "average"}},
        "surrogates": ["pretrained"],
        "attacks": {"fgsm": {"method": "FastGradientMethod", "eps": "8/255"}},
        "controls": {"white_box": []},
        "evaluation": {"images": 8, "batch_size": 8},
        "explanations": {
            "images": 4,
            "attack": "fgsm_eps8",
            "boundary": {"reach": 2, "steps": 2, "halvings": 1},
            "dose": [0, 1],
            "path": {"vector": "sum", "scale": [0, 1]},
            "plane": {"merged": "average", "grid": [0, 1]},
        },
        "statistics": {"confidence": 0.95, "bootstrap": 100},
        "gallery": {"surrogate": "pretrained", "attack": "fgsm_eps8"},
        "labels": {},
    }


@pytest.fixture(scope="module")
def clips() -> list[Any]:
    """P, and an expert."""
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = open_clip.CLIP(CONFIG["embed_dim"], CONFIG["vision_cfg"], CONFIG["text_cfg"], quick_gelu=True)
        models.append(model.eval().requires_grad_(False))
    return models


@pytest.fixture(scope="module")
def run(new_tree: Callable[[], Tree], study: dict[str, Any], clips: list[Any]) -> Published:
    bare = new_tree()
    tree = Published(bare.path, bare.home)
    (tree.path / "published.yaml").write_text(yaml.safe_dump(study))
    (tree.path / "clip.json").write_text(json.dumps(CONFIG))
    for name, model in zip(("clip", "expert"), clips, strict=True):
        save_file(model.state_dict(), tree.path / f"{name}.safetensors")
    write_signs(tree.path / "sets/gtsrb")
    write_images(tree.path / "birds", {"golden_eagle": 16, "auk": 16, "finch": 16}, ".png")
    tree.snakemake("all_outcomes", "all_explained", *OPTIONS)
    return tree


def test_the_pretrained_model_answers_as_open_clip_does(
    run: Published, study: dict[str, Any], clips: list[Any]
) -> None:
    """From the stored images on; the classes' texts are those of the prompts."""
    answers = load_table(run.path / "results/published/clean/pretrained.parquet")
    normalise = Normalise(study["backbone"]["mean"], study["backbone"]["std"])
    tokenise = open_clip.get_tokenizer("ViT-B-32")
    for task, classes in (
        ("signs", [f"{label:05d}" for label in range(CLASSES)]),
        ("birds", ["auk", "finch", "golden_eagle"]),
    ):
        texts = prompts(study["tasks"][task]["kind"], classes)
        assert len(texts[0]) == (3 if task == "signs" else 1)
        rows = []
        for group in texts:
            each = clips[0].encode_text(tokenise(group), normalize=True).mean(0)
            rows.append(each / each.norm())
        data, _ = load_tensors(run.path / f"results/published/data/{task}.safetensors")
        images = normalise(to_unit(data["test_images"]))
        logits = clips[0].logit_scale.exp() * clips[0].encode_image(images, normalize=True) @ torch.stack(rows).T
        ours = answers[(answers["task"] == task) & (answers["split"] == "test")]
        best, _ = logits.topk(2)
        sure = (best[:, 0] - best[:, 1]) > 1e-3  # a tie may fall either way
        assert sure.sum() >= 4
        assert (torch.tensor(ours["prediction"].to_numpy())[sure] == logits.argmax(1)[sure]).all()


def test_the_published_expert_is_used_and_the_other_is_trained(
    run: Published, study: dict[str, Any], clips: list[Any]
) -> None:
    models = run.path / "results/published/models"
    pretrained, expert, trained = (
        load_tensors(models / f"{name}.safetensors")[0] for name in ("pretrained", "finetuned/birds", "finetuned/signs")
    )
    for state, clip in ((pretrained, clips[0]), (expert, clips[1])):
        expected = to_timm(clip.state_dict(), build_encoder(study["backbone"]))
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert any(not torch.equal(trained[name], tensor) for name, tensor in pretrained.items())
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}


def test_each_kind_of_job_computes_in_its_own_precision(run: Published) -> None:
    made = {
        "models/finetuned/signs.safetensors": "bfloat16",
        "merged/average.safetensors": "float32",
        "adversarial/signs/pretrained/fgsm_eps8.safetensors": "bfloat16",
        "clean/pretrained.parquet": "float32",
    }
    found = {path: metadata(run.path / "results/published" / path)["made_on"]["precision"] for path in made}
    assert found == made


def test_test_and_attacked_images_are_the_official_test_images(run: Published) -> None:
    """The fixture's test images are all of one colour class; the stored ones are among them."""
    data, metadata = load_tensors(run.path / "results/published/data/signs.safetensors")
    assert metadata["classes"] == [f"{label:05d}" for label in range(CLASSES)]
    stored = torch.cat([data["test_images"], data["attack_images"]])
    folder = run.path / "sets/gtsrb/GTSRB/Final_Test/Images"
    means = {tuple(np.asarray(Image.open(file).resize((36, 32), 3)).mean((0, 1)).round()) for file in folder.iterdir()}
    ours = {tuple(image.float().mean((1, 2)).round().tolist()) for image in stored}
    assert len(stored) == 16
    assert pd.Series([min(np.abs(np.subtract(o, m)).max() for m in means) for o in ours]).max() <= 3


def test_the_audit_finds_every_artifact_right_and_no_corpus(run: Published) -> None:
    said = run.run("python", "workflow/scripts/audit.py", "published.yaml")
    assert "artifacts are what the study asks for" in said
    assert not (run.path / "results/published/data/corpus.safetensors").exists()


def test_other_weights_in_the_file_rerun_what_depends_on_them(run: Published, clips: list[Any]) -> None:
    changed = {name: tensor * 1.01 if tensor.ndim else tensor for name, tensor in clips[1].state_dict().items()}
    save_file(changed, run.path / "expert.safetensors")
    run.forget_logs()
    run.snakemake("all_merged", *OPTIONS)
    logs = run.path / "logs/published"
    ran = {str(path.relative_to(logs).with_suffix("")) for path in logs.glob("**/*.log")}
    assert ran == {"models/finetuned/birds", "merged/average"}
