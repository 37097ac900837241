"""The paper-scale study with its seven datasets, zero-shot heads, methods and attacks, cut to a tiny CLIP; run for real."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch
import yaml
from project import ROOT, Tree
from safetensors.torch import save_file

from advmerge.artifacts import load_table, load_tensors, metadata, sha256
from advmerge.models import Normalise, build_encoder, to_unit
from advmerge.published import to_timm
from advmerge.zeroshot import prompts
from published_sets import DIGITS, SETS, leave

pytestmark = pytest.mark.workflow

CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
TINY = {"img_size": 32, "patch_size": 16, "embed_dim": 64, "depth": 1, "num_heads": 1, "num_classes": 16}
SPLITS = {"train": 30, "val": 6, "adapt": 6, "test": 8, "attack": 8}
RECIPE = {"steps": 3, "batch": 4, "lr": 0.001, "warmup": 1}
PUBLISHED = "dtd"  # the task whose expert is not trained
OPTIONS = ("--configfile", "studies/paper.yaml", "--cores", "2", "--resources", "gpu=2")


class Published(Tree):
    """A tree whose downloads lie in it, and that has no network."""

    @property
    def environment(self) -> dict[str, str]:
        here = {"ADVMERGE_DATA": str(self.path / "sets"), "HF_HOME": str(self.path / "hub"), "HF_HUB_OFFLINE": "1"}
        return super().environment | here


def within_hub(source: dict[str, str]) -> str:
    """Where the hub's client keeps a file, once it is downloaded."""
    repository, commit = source["hub"].split("@")
    return f"hub/hub/models--{repository.replace('/', '--')}/snapshots/{commit}/{source['file']}"


def cut(study: dict[str, Any]) -> None:
    """Make it small: a tiny CLIP, few images and steps, a method and an attack of each kind."""
    for options in study["tasks"].values():
        options["splits"] = SPLITS
    study["hardware"] |= {
        "device": "cpu",
        "precision": {"train": "bfloat16", "evaluate": "float32", "craft": "bfloat16"},
    }
    study["backbone"]["options"] = TINY
    study["head"]["open_clip"] = "clip.json"
    for name in ("finetune", "multitask"):
        study[name] |= RECIPE
    kept = ("weight_averaging", "ties", "adamerging", "ties_surgery")
    study["merging"] = {name: study["merging"][name] for name in kept}
    study["merging"]["adamerging"] |= {"steps": 2, "batch": 4}
    study["merging"]["ties_surgery"]["surgery"] |= {"rank": 2, "steps": 2, "batch": 4}
    study["surrogates"] = {"pretrained": {"attacks": ["pgd"]}, "finetuned": {}}
    study["attacks"] = {name: study["attacks"][name] for name in ("pgd", "cw", "deepfool")}
    study["attacks"]["pgd"] |= {"eps": "8/255", "eps_step": "2/255", "max_iter": 2}
    study["attacks"]["cw"] |= {"binary_search_steps": 1, "max_iter": 2, "halvings": 1}
    study["attacks"]["deepfool"] |= {"max_iter": 2}
    study["controls"]["white_box"] = []
    study["evaluation"] = {"images": 8, "batch_size": 8}
    boundary, path = {"reach": 2, "steps": 2, "halvings": 1}, {"vector": "sum", "scale": [0, 1]}
    plane = {"merged": "ties", "grid": [0, 1]}
    study["explanations"] |= {"images": 4, "boundary": boundary, "dose": [0, 1], "path": path, "plane": plane}
    study["statistics"]["bootstrap"] = 100


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
def study() -> dict[str, Any]:
    """studies/paper.yaml, but smaller."""
    content = yaml.safe_load((ROOT / "studies/paper.yaml").read_text())
    cut(content)
    return content


@pytest.fixture(scope="module")
def run(new_tree: Callable[[], Tree], study: dict[str, Any], clips: list[Any]) -> Published:
    bare = new_tree()
    tree = Published(bare.path, bare.home)
    (tree.path / "clip.json").write_text(json.dumps(CONFIG))
    source = study["backbone"]["pretrained"]
    downloaded = tree.path / within_hub(source)
    downloaded.parent.mkdir(parents=True)
    for model, file in zip(clips, (downloaded, tree.path / "expert.safetensors"), strict=True):
        save_file(model.state_dict(), file)
    source["sha256"] = sha256(downloaded)
    study["tasks"][PUBLISHED]["finetuned"] = {"file": "expert.safetensors"}
    for name, options in study["tasks"].items():
        kind = options.get("kind", name)
        leave(tree.path / "sets", kind, DIGITS if kind in ("svhn", "full_mnist") else SETS[kind].classes, 16, 6)
    (tree.path / "studies/paper.yaml").write_text(yaml.safe_dump(study))
    reports = [f"reports/paper/{name}" for name in ("claims.json", "figures/gallery.pdf")]
    tree.snakemake(*reports, "all_explained", *OPTIONS)
    return tree


def test_the_pretrained_model_answers_as_open_clip_does(
    run: Published, study: dict[str, Any], clips: list[Any]
) -> None:
    """From the stored images on; the classes' texts are those of the prompts."""
    answers = load_table(run.path / "results/paper/clean/pretrained.parquet")
    normalise = Normalise(study["backbone"]["mean"], study["backbone"]["std"])
    tokenise = open_clip.get_tokenizer("ViT-B-32")
    for task, kind, templates in (("gtsrb", "gtsrb", 3), ("cars", "stanford_cars", 8)):
        texts = prompts(kind, SETS[kind].classes)
        assert len(texts[0]) == templates
        rows = []
        for group in texts:
            each = clips[0].encode_text(tokenise(group), normalize=True).mean(0)
            rows.append(each / each.norm())
        data, _ = load_tensors(run.path / f"results/paper/data/{task}.safetensors")
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
    models = run.path / "results/paper/models"
    pretrained, expert, trained = (
        load_tensors(models / f"{name}.safetensors")[0] for name in ("pretrained", "finetuned/dtd", "finetuned/cars")
    )
    for state, clip in ((pretrained, clips[0]), (expert, clips[1])):
        expected = to_timm(clip.state_dict(), build_encoder(study["backbone"]))
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert any(not torch.equal(trained[name], tensor) for name, tensor in pretrained.items())
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}


def test_each_kind_of_job_computes_in_its_own_precision(run: Published) -> None:
    made = {
        "models/finetuned/cars.safetensors": "bfloat16",
        "merged/ties.safetensors": "float32",
        "adversarial/cars/pretrained/pgd_eps8.safetensors": "bfloat16",
        "clean/pretrained.parquet": "float32",
    }
    found = {path: metadata(run.path / "results/paper" / path)["made_on"]["precision"] for path in made}
    assert found == made


def test_test_and_attacked_images_are_the_official_test_images(run: Published, study: dict[str, Any]) -> None:
    """The red of a tiny dataset's image tells its official split; digits are grey, and EuroSAT has no split."""
    for task in set(study["tasks"]) - {"mnist", "eurosat"}:
        data, _ = load_tensors(run.path / f"results/paper/data/{task}.safetensors")
        for split, red in {"train": 40, "val": 40, "adapt": 40, "test": 200, "attack": 200}.items():
            assert len(data[f"{split}_images"]) == SPLITS[split]
            assert (data[f"{split}_images"][:, 0].float() - red).abs().max() <= 3  # JPEG


def test_the_audit_finds_every_artifact_right_and_no_corpus(run: Published) -> None:
    said = run.run("python", "workflow/scripts/audit.py", "studies/paper.yaml")
    assert "artifacts are what the study asks for" in said
    assert not (run.path / "results/paper/data/corpus.safetensors").exists()


def test_every_claim_has_a_verdict_and_every_task_an_example(run: Published) -> None:
    claims = json.loads((run.path / "reports/paper/claims.json").read_text())["claims"]
    assert {claim["name"] for claim in claims} == set(yaml.safe_load((ROOT / "claims.yaml").read_text())["claims"])
    assert {claim["verdict"] for claim in claims} <= {"supported", "contradicted", "undecided"}
    gallery = (run.path / "reports/paper/figures/gallery.svg").read_text()
    assert {"Cars", "RESISC45", "EuroSAT", "SVHN", "GTSRB", "MNIST", "DTD"} <= set(re.findall(r"[A-Za-z0-9]+", gallery))


def test_the_reference_beside_the_study_is_compared_with(run: Published) -> None:
    command = ("env", "PYTHONPATH=src", "python", "-m", "advmerge.cli", "check-reference", "studies/paper.yaml")
    said = run.run(*command, fails=True)
    rows = [line.split() for line in said.splitlines()[1:]]
    assert {row[0]: row[1] for row in rows} == dict.fromkeys(
        ("pretrained", "finetuned", "multitask", "weight_averaging", "ties", "adamerging", "ties_surgery"), "7"
    )


def test_other_weights_in_the_file_rerun_what_depends_on_them(run: Published, clips: list[Any]) -> None:
    changed = {name: tensor * 1.01 if tensor.ndim else tensor for name, tensor in clips[1].state_dict().items()}
    save_file(changed, run.path / "expert.safetensors")
    run.forget_logs()
    run.snakemake("results/paper/merged/weight_averaging.safetensors", *OPTIONS)
    logs = run.path / "logs/paper"
    ran = {str(path.relative_to(logs).with_suffix("")) for path in logs.glob("**/*.log")}
    assert ran == {"models/finetuned/dtd", "merged/weight_averaging"}
