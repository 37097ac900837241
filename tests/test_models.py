"""Heads, classifiers, surgery and training, against values worked by hand or in another way."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from advmerge.artifacts import save_tensors
from advmerge.errors import StudyError
from advmerge.models import (
    Classifier,
    Head,
    Model,
    Normalise,
    Surgery,
    build_encoder,
    load_head,
    margin,
    predict,
    to_unit,
)
from advmerge.seeding import derive, numpy_generator, torch_generator
from advmerge.training import Anchor, augment, feature_statistics, few_shot_head, finetune, pretrain, probe_head
from advmerge.transfer import answers, answers_and_gradients, distances

BACKBONE: dict[str, Any] = {
    "timm": "vit_tiny_patch16_224",
    "options": {
        "img_size": 28,
        "patch_size": 7,
        "in_chans": 1,
        "embed_dim": 16,
        "depth": 1,
        "num_heads": 2,
        "mlp_ratio": 1.0,
        "class_token": False,
        "global_pool": "avg",
    },
    "mean": [0.5],
    "std": [0.25],
}


@pytest.fixture
def encoder() -> nn.Module:
    torch.manual_seed(0)
    return build_encoder(BACKBONE).eval()


@pytest.fixture
def normalise() -> Normalise:
    return Normalise([0.5], [0.25])


def images(count: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 28, 28), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_normalise_per_channel() -> None:
    module = Normalise([0.5, 0.0], [0.25, 2.0])
    pixels = torch.tensor([1.0, 1.0]).view(1, 2, 1, 1)
    assert module(pixels).flatten().tolist() == [2.0, 0.5]


def test_head_is_a_cosine_of_standardised_features() -> None:
    head = Head(
        {
            "weight": torch.tensor([[10.0, 0.0], [0.0, 10.0]]),
            "bias": torch.tensor([0.0, 1.0]),
            "mean": torch.tensor([1.0, 1.0]),
            "std": torch.tensor([2.0, 1.0]),
        }
    )
    # (7, 5) → (3, 4) → (0.6, 0.8)
    assert torch.allclose(head(torch.tensor([[7.0, 5.0]])), torch.tensor([[6.0, 9.0]]))
    assert not list(head.parameters())


def test_margin_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 4.0, 5.0]])
    assert margin(logits, torch.tensor([0, 1])).tolist() == [1.0, -1.0]


def test_predict_is_batch_invariant_and_takes_both_pixel_types(encoder: nn.Module, normalise: Normalise) -> None:
    model = nn.Sequential(normalise, encoder)
    whole = predict(model, images(), 24)
    assert torch.allclose(predict(model, images(), 7), whole, atol=1e-5)
    assert torch.equal(predict(model, to_unit(images()), 24), whole)


def test_few_shot_head_by_another_way(encoder: nn.Module, normalise: Normalise) -> None:
    pixels, labels = images(), torch.arange(24) % 3
    mean, std = feature_statistics(encoder, normalise, images(50, seed=1))
    tensors = few_shot_head(encoder, normalise, pixels, labels, 3, (mean, std), shots=2, scale=10.0)
    with torch.no_grad():
        features = (encoder(normalise(pixels.float() / 255)) - mean) / std
    for label in range(3):
        first, second = features[label], features[label + 3]
        direction = first / first.norm() + second / second.norm()
        assert torch.allclose(tensors["weight"][label], 10 * direction / direction.norm(), atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_probe_is_where_the_penalised_loss_is_flat(encoder: nn.Module, normalise: Normalise, classes: int) -> None:
    pixels, labels = images(60), torch.arange(60) % classes
    statistics = feature_statistics(encoder, normalise, images(50, seed=1))
    tensors = probe_head(encoder, normalise, pixels, labels, statistics, penalty=0.5)
    head = Head(tensors)
    with torch.no_grad():
        features = encoder(normalise(pixels.float() / 255))
        z = F.normalize((features - statistics[0]) / statistics[1], dim=-1)
    assert torch.allclose(head(features), z @ tensors["weight"].T + tensors["bias"], atol=1e-5)

    def loss(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        # Of two classes scikit-learn penalises the one row that it fits.
        return F.cross_entropy(z @ weight.T + bias, labels, reduction="sum") + 0.25 * weight.square().sum()

    weight, bias = (tensors[name].clone().requires_grad_() for name in ("weight", "bias"))
    slopes = torch.autograd.grad(loss(weight, bias), (weight, bias))
    fitted = slice(1, None) if classes == 2 else slice(None)
    assert max(float(slope[fitted].abs().max()) for slope in slopes) < 1e-3
    assert loss(weight, bias) < loss(weight * 0, bias * 0) - 0.1


def test_few_shot_head_names_the_class_that_is_short(encoder: nn.Module, normalise: Normalise) -> None:
    statistics = feature_statistics(encoder, normalise, images())
    with pytest.raises(StudyError, match=r"class 1 has 0 training images; the head needs head.shots = 4"):
        few_shot_head(encoder, normalise, images(), torch.zeros(24, dtype=torch.long), 2, statistics, 4, 10.0)


def test_untrained_surgery_changes_nothing_and_classifiers_use_it() -> None:
    features = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    module = Surgery(8, 3, torch.Generator().manual_seed(1))
    assert torch.equal(module(features), features)
    nn.init.ones_(module.up)
    expected = features - F.relu(features @ module.down.T).sum(1, keepdim=True)
    assert torch.allclose(module(features), expected)
    model = Classifier(nn.Identity(), nn.Identity(), nn.Identity(), module)
    assert torch.allclose(model(features), expected)


def save(path: Path, encoder: nn.Module, extra: dict[str, torch.Tensor] | None = None) -> Path:
    save_tensors(path, {**encoder.state_dict(), **(extra or {})}, {"backbone": BACKBONE})
    return path


def head_for(classes: int = 4) -> Head:
    weight = 10 * torch.eye(classes, 16)
    return Head({"weight": weight, "bias": torch.zeros(classes), "mean": torch.zeros(16), "std": torch.ones(16)})


def test_a_saved_model_answers_as_before(tmp_path: Path, encoder: nn.Module, normalise: Normalise) -> None:
    loaded = Model(save(tmp_path / "m.safetensors", encoder)).classifier("any", head_for())
    expected = head_for()(encoder(normalise(to_unit(images()))))
    assert torch.allclose(loaded(to_unit(images())), expected, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training


def test_surgery_is_inside_the_model_that_answers(tmp_path: Path, encoder: nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    extra = {
        "surgery.mnist.down": torch.randn(3, 16, generator=generator),
        "surgery.mnist.up": torch.randn(16, 3, generator=generator),
    }
    model = Model(save(tmp_path / "m.safetensors", encoder, extra))
    plain = Model(save(tmp_path / "p.safetensors", encoder)).classifier("mnist", head_for())
    operated = model.classifier("mnist", head_for())
    assert not torch.allclose(operated(to_unit(images())), plain(to_unit(images())))
    with pytest.raises(StudyError, match="no surgery module for the task 'latin'"):
        model.classifier("latin", head_for())


def test_wrong_files_are_named(tmp_path: Path, encoder: nn.Module) -> None:
    save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(StudyError, match="not an encoder of this workflow"):
        Model(tmp_path / "x.safetensors")
    with pytest.raises(StudyError, match="not a head: it lacks bias, mean, std, weight"):
        load_head(tmp_path / "x.safetensors")
    state = encoder.state_dict()
    state["patch_embed.proj.bias"] = torch.zeros(3)
    save_tensors(tmp_path / "y.safetensors", state, {"backbone": BACKBONE})
    with pytest.raises(StudyError, match="does not fit vit_tiny_patch16_224"):
        Model(tmp_path / "y.safetensors").encoder()


def test_augmentation_stays_in_range_keeps_shape_and_follows_its_generator() -> None:
    pixels = to_unit(images())
    first = augment(pixels, torch.Generator().manual_seed(0))
    assert first.shape == pixels.shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert torch.equal(first, augment(pixels, torch.Generator().manual_seed(0)))
    assert not torch.equal(first, augment(pixels, torch.Generator().manual_seed(1)))


RECIPE = {"steps": 60, "batch": 16, "lr": 3e-3, "weight_decay": 0.01, "warmup": 3, "anchor": 0.0, "anchor_batch": 8}


def separable(count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(count) % 2
    pixels = torch.zeros(count, 1, 28, 28, dtype=torch.uint8)
    pixels[labels == 0, :, ::7] = 255  # stripes across
    pixels[labels == 1, :, :, ::7] = 255  # stripes along
    return pixels, labels


def test_pretraining_learns(encoder: nn.Module, normalise: Normalise) -> None:
    pixels, labels = separable()
    recipe = {**RECIPE, "steps": 200, "label_smoothing": 0.0}
    weights = torch.full((len(labels),), 1 / len(labels))
    facts = pretrain(encoder, normalise, pixels, labels, weights, recipe, torch.Generator().manual_seed(0))
    assert facts["train_accuracy"] > 0.8


def train(encoder: nn.Module, normalise: Normalise, anchor: float, seed: int = 0) -> tuple[dict, float]:
    pixels, labels = separable()
    head = head_for(2)
    penalty = Anchor(encoder, normalise, images(32, seed=9), 8)
    recipe = {**RECIPE, "anchor": anchor}
    finetune(encoder, normalise, {"t": (pixels, labels, head)}, penalty, recipe, torch.Generator().manual_seed(seed))
    drift = float(((predict(nn.Sequential(normalise, encoder), images(32, seed=9), 32) - penalty.features) ** 2).mean())
    prediction, _ = answers(Classifier(encoder, head, normalise), pixels, labels, 32)
    return {"state": encoder.state_dict(), "accuracy": float((prediction == labels).float().mean())}, drift


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return build_encoder(BACKBONE)


def test_finetuning_learns_the_anchor_holds_and_seeds_decide(normalise: Normalise) -> None:
    free, drift = train(fresh(), normalise, 0.0)
    _, held_drift = train(fresh(), normalise, 100.0)
    assert free["accuracy"] > 0.9
    assert held_drift < drift / 4
    again, _ = train(fresh(), normalise, 0.0)
    other, _ = train(fresh(), normalise, 0.0, seed=1)
    assert all(torch.equal(free["state"][name], again["state"][name]) for name in free["state"])
    assert any(not torch.equal(free["state"][name], other["state"][name]) for name in free["state"])


def test_anchor_penalty_is_zero_at_the_start(encoder: nn.Module, normalise: Normalise) -> None:
    penalty = Anchor(encoder, normalise, images(), 16)
    assert penalty.penalty(encoder, penalty.draw(torch.Generator().manual_seed(0))).item() == pytest.approx(0, abs=1e-6)


def test_divergence_is_said(normalise: Normalise) -> None:
    broken = fresh()
    nn.init.constant_(next(broken.parameters()), float("nan"))
    with pytest.raises(StudyError, match="the loss is not finite"):
        train(broken, normalise, 0.0)


def test_distances_by_hand() -> None:
    clean = torch.zeros(2, 1, 2, 2)
    other = clean.clone()
    other[1, 0, 0] = torch.tensor([0.3, -0.4])
    l2, linf, changed = distances(clean, other)
    assert l2.tolist() == pytest.approx([0, 0.5])
    assert linf.tolist() == pytest.approx([0, 0.4])
    assert changed.tolist() == [False, True]


def test_zero_gradients_are_seen() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 2, bias=False))
    model.register_buffer("place", torch.zeros(1))
    nn.init.ones_(model[1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(model[1].weight[0])  # type: ignore[arg-type, index]
    pixels = to_unit(images(4))
    pixels[0] = 0  # logits (0, 0): the gradient is not zero; the others saturate at hundreds
    labels = torch.tensor([1, 1, 0, 1])
    *said, share = answers_and_gradients(model, pixels, labels, 2)
    assert share == 0.5  # the third is wrong, which has a gradient too
    assert all(torch.equal(*both) for both in zip(said, answers(model, pixels, labels, 4), strict=True))


def test_seeds_differ_by_purpose_and_are_stable() -> None:
    assert derive(0, "a", 1) != derive(0, "a", 2) != derive(1, "a", 1)
    assert derive(0, "pretrain") == int(hashlib.sha256(b"0/pretrain").hexdigest()[:16], 16) // 2
    assert torch.equal(
        torch.rand(3, generator=torch_generator(0, "x")), torch.rand(3, generator=torch_generator(0, "x"))
    )
    assert numpy_generator(0, "x").random() != numpy_generator(0, "y").random()
