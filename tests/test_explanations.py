"""Gradients, representations, boundaries and the weights in between: closed forms, finite differences, invariances."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from advmerge import explanations as ex
from advmerge.artifacts import save_tensors
from advmerge.merging.engine import merge
from advmerge.models import PER_TASK, Classifier, Ensemble, Head, Model, Normalise, Surgery, build_encoder, predict
from test_models import BACKBONE

TWO_BLOCKS = {**BACKBONE, "options": {**BACKBONE["options"], "depth": 2}}


def head(features: int = 16, classes: int = 5, seed: int = 0) -> Head:
    draw = torch.Generator().manual_seed(seed)
    return Head(
        {
            "weight": 4 * torch.randn(classes, features, generator=draw),
            "bias": torch.zeros(classes),
            "mean": torch.zeros(features),
            "std": torch.ones(features),
        }
    )


def classifier(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(build_encoder(TWO_BLOCKS), head(), Normalise([0.5], [0.25])).eval().requires_grad_(False)


def pictures(count: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 28, 28, generator=draw), torch.randint(0, 5, (count,), generator=draw)


class Linear(nn.Module):
    """Logits (w·x + b, 0): class 0 where w·x + b > 0."""

    def __init__(self, weight: torch.Tensor, bias: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.bias = bias

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value = images.flatten(1) @ self.weight + self.bias
        return torch.stack([value, torch.zeros_like(value)], dim=1)


# ── gradients ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_gradient_is_that_of_finite_differences() -> None:
    model = classifier().double()
    images, labels = pictures(4)
    found = ex.probe(model, images.double(), labels, batch_size=3)
    draw = torch.Generator().manual_seed(1)
    for _ in range(5):
        direction = torch.randn(images.shape, generator=draw).double()
        step = 1e-5
        loss = [
            nn.functional.cross_entropy(model(images.double() + sign * step * direction), labels, reduction="none")
            for sign in (1, -1)
        ]
        slope = (loss[0] - loss[1]) / (2 * step)
        assert torch.allclose((found.gradient * direction).flatten(1).sum(1), slope, rtol=1e-5, atol=1e-8)


def test_a_model_is_aligned_with_itself_and_against_its_negative() -> None:
    images, labels = pictures()
    gradient = ex.probe(classifier(), images, labels, 5).gradient
    for sign, cosine, agreement in ((1, 1.0, 1.0), (-3, -1.0, 0.0)):
        found = ex.gradient_alignment(gradient, sign * gradient)
        assert torch.allclose(found[0], torch.full((12,), cosine, dtype=torch.float64))
        assert torch.allclose(found[1], torch.full((12,), agreement, dtype=torch.float64))


def test_alignment_by_hand() -> None:
    one = torch.tensor([[3.0, 4.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    other = torch.tensor([[4.0, -3.0, 1.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    cosine, signs = ex.gradient_alignment(one, other)
    assert cosine[:2].tolist() == pytest.approx([0.0, math.sqrt(0.5)])
    assert signs[:2].tolist() == [0.5, 1.0]
    assert cosine[2].isnan()
    assert signs[2].isnan()


def test_batches_do_not_change_what_is_probed_and_no_hook_stays() -> None:
    model = classifier()
    images, labels = pictures()
    whole, parts = ex.probe(model, images, labels, 12), ex.probe(model, images, labels, 5)
    assert list(whole.activations) == ["blocks.0", "blocks.1", ex.FEATURES]
    assert torch.allclose(whole.gradient, parts.gradient, atol=1e-6)
    features = predict(nn.Sequential(model.normalise, model.encoder), images, 12)
    assert torch.allclose(whole.activations[ex.FEATURES], features, atol=1e-6)
    assert torch.equal(whole.prediction, predict(model, images, 12).argmax(1))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_features_compared_are_those_after_surgery() -> None:
    plain = classifier()
    module = Surgery(16, 2, torch.Generator().manual_seed(0))
    module.up.data = torch.randn(16, 2, generator=torch.Generator().manual_seed(1))
    cut = Classifier(plain.encoder, plain.head, plain.normalise, module).eval().requires_grad_(False)
    images, labels = pictures()
    before, after = (ex.probe(model, images, labels, 12).activations for model in (plain, cut))
    assert torch.equal(before["blocks.1"], after["blocks.1"])
    assert torch.allclose(after[ex.FEATURES], module(before[ex.FEATURES]), atol=1e-6)
    assert not torch.allclose(after[ex.FEATURES], before[ex.FEATURES], atol=1e-2)


# ── representations ─────────────────────────────────────────────────────────────────────────────────────────


def test_cka_is_the_formula_of_the_paper_in_its_other_form() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 7, generator=draw).double(), torch.randn(30, 11, generator=draw).double()
    y[:, :5] += x[:, :5]
    a, b = x - x.mean(0), y - y.mean(0)
    cross = torch.linalg.matrix_norm(b.T @ a) ** 2
    expected = cross / (torch.linalg.matrix_norm(a.T @ a) * torch.linalg.matrix_norm(b.T @ b))
    assert ex.linear_cka(x, y, debiased=False) == pytest.approx(float(expected), rel=1e-12)


def test_cka_by_hand() -> None:
    x = torch.tensor([[1.0], [-1.0], [0.0], [0.0]])
    y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    # xᵀy = (1, −1): cross 2; ‖xᵀx‖ = 2; yᵀy = 2 I: ‖·‖ = 2√2
    assert ex.linear_cka(x, y, debiased=False) == pytest.approx(2 / (2 * 2 * math.sqrt(2)))


def test_debiased_hsic_is_the_sum_over_distinct_quadruples() -> None:
    """Song et al. 2012, the U-statistic that their estimator is: the mean over all ordered distinct i, j, q, r."""
    from itertools import permutations

    draw = torch.Generator().manual_seed(3)
    x, y = torch.randn(6, 3, generator=draw).double(), torch.randn(6, 2, generator=draw).double()

    def hsic(one: torch.Tensor, other: torch.Tensor) -> float:
        k, m = one @ one.T, other @ other.T
        terms = [
            k[i, j] * m[i, j] + k[i, j] * m[q, r] - 2 * k[i, j] * m[i, q] for i, j, q, r in permutations(range(6), 4)
        ]
        return float(torch.stack(terms).mean())

    expected = hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))
    assert ex.linear_cka(x, y) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(5, 24),
    features=st.integers(2, 9),
    factor=st.floats(0.01, 100),
    shift=st.floats(-10, 10),
    debiased=st.booleans(),
)
def test_cka_ignores_rotation_scale_and_offset_and_is_symmetric(
    seed: int, n: int, features: int, factor: float, shift: float, debiased: bool
) -> None:
    draw = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, features, generator=draw).double(), torch.randn(n, 4, generator=draw).double()
    rotation = torch.linalg.qr(torch.randn(features, features, generator=draw).double())[0]
    own = ex.linear_cka(x, y, debiased)
    assert ex.linear_cka(factor * x @ rotation + shift, y, debiased) == pytest.approx(own, abs=1e-8)
    assert ex.linear_cka(y, x, debiased) == pytest.approx(own, abs=1e-12)
    assert ex.linear_cka(x, -2 * x, debiased) == pytest.approx(1)
    assert abs(own) <= 1 + 1e-12
    order = torch.randperm(n, generator=draw)
    assert ex.linear_cka(x[order], y[order], debiased) == pytest.approx(own, abs=1e-9)


def test_cka_does_change_under_a_general_linear_map() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 4, generator=draw), torch.randn(40, 4, generator=draw)
    y += x
    stretched = x * torch.tensor([10.0, 1.0, 1.0, 0.1])
    assert abs(ex.linear_cka(stretched, y) - ex.linear_cka(x, y)) > 0.1


def test_more_features_than_images_fool_the_biased_estimator_alone() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 2000, generator=draw), torch.randn(32, 2000, generator=draw)
    assert ex.linear_cka(x, y, debiased=False) > 0.95
    assert abs(ex.linear_cka(x, y)) < 0.15


def test_cka_of_what_does_not_vary_is_unknown() -> None:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    assert math.isnan(ex.linear_cka(torch.ones(8, 3), x))
    assert math.isnan(ex.linear_cka(x[:3], x[:3]))


def test_representation_bias_is_the_mean_absolute_difference() -> None:
    found = ex.representation_bias(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 0.0]]))
    assert found.tolist() == [1.5, 0.0]


# ── boundaries ──────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), steps=st.integers(1, 9), halvings=st.integers(0, 8))
def test_a_linear_boundary_is_where_algebra_puts_it(seed: int, steps: int, halvings: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(20, 1, 3, 3, generator=draw)
    directions = torch.randn(20, 1, 3, 3, generator=draw)
    weight = torch.randn(9, generator=draw)
    value = images.flatten(1).double() @ weight.double() + 0.1
    unit = directions.flatten(1).double() / directions.flatten(1).double().norm(dim=1, keepdim=True)
    exact = -value / (unit @ weight.double())  # w·(x + α d) + b = 0
    labels = (value <= 0).long()
    labels[0] = 1 - labels[0]
    reach = torch.full((20,), 4.0)
    found = ex.boundary_distance(Linear(weight, 0.1), images, labels, directions, reach, steps, halvings, 7)
    assert found[0].isnan()
    for alpha, truth in zip(found[1:].tolist(), exact[1:].tolist(), strict=True):
        error = 4 / steps / 2 ** (halvings + 1)
        if 1e-4 < truth < 4 - 1e-4:
            assert abs(alpha - truth) <= error + 1e-4
        elif truth < -1e-4 or truth > 4 + 1e-4:
            assert alpha == math.inf


def test_no_direction_and_no_images() -> None:
    weight = torch.ones(4)
    images = torch.ones(2, 1, 2, 2)
    directions = torch.stack([torch.zeros(1, 2, 2), -torch.ones(1, 2, 2)])
    labels = torch.zeros(2, dtype=torch.long)
    found = ex.boundary_distance(Linear(weight, 0.0), images, labels, directions, torch.tensor([3.0, 3.0]), 4, 10, 2)
    assert found[0].isnan()
    assert float(found[1]) == pytest.approx(2, abs=1e-2)  # ‖(1, 1, 1, 1)‖
    none = torch.empty(0)
    assert len(ex.boundary_distance(Linear(weight, 0.0), images[:0], labels[:0], images[:0], none, 4, 2, 2)) == 0


def test_an_example_that_fools_lies_beyond_the_boundary() -> None:
    model = classifier()
    images, _ = pictures(40)
    labels = predict(model, images, 40).argmax(1)
    moves = 0.02 * ex.probe(model, images, labels, 40).gradient.sign()
    fooled = predict(model, images + moves, 40).argmax(1) != labels
    assert 0 < fooled.sum() < 40
    known = {"s": torch.ones(40, dtype=torch.bool)}
    known["s"][0] = False
    task = ex.Task(model.head, images, labels, {"s": images + moves}, known)
    found = ex.boundary(
        model, ex.probe(model, images, labels, 40), task, "s", reach=1, steps=8, halvings=3, batch_size=9
    )
    which, ratio = found["boundary_ratio", None]
    assert which == list(range(1, 40))
    assert (ratio[fooled[1:].numpy()] <= 1).all()
    assert found["boundary_distance", None][1] == pytest.approx(ratio * moves[1:].flatten(1).norm(dim=1).numpy())


# ── between the weights ─────────────────────────────────────────────────────────────────────────────────────


def weights(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {name: tensor.clone() for name, tensor in build_encoder(TWO_BLOCKS).state_dict().items()}


def test_the_path_is_task_arithmetic_and_ends_where_models_are() -> None:
    base, experts = weights(0), {"a": weights(1), "b": weights(2)}
    for scale in (0.0, 0.3, 1.0):
        merged = merge("task_arithmetic", base, experts, scale=scale)
        point = ex.shifted(base, [(scale, expert) for expert in experts.values()])
        assert all(torch.allclose(point[name], merged[name], atol=1e-6) for name in base)
    half = ex.shifted(base, [(0.5, expert) for expert in experts.values()])
    average = merge("average", base, experts)
    assert all(torch.allclose(half[name], average[name], atol=1e-6) for name in base)
    assert all(torch.equal(ex.shifted(base, [(0, experts["a"])])[name], base[name]) for name in base)
    one = ex.shifted(base, [(1, experts["a"]), (0, experts["b"])])
    assert all(torch.allclose(one[name], experts["a"][name], atol=1e-6) for name in base)


def test_counters_and_types_stay_the_pretrained_models() -> None:
    base = {"count": torch.tensor(3), "half": torch.tensor([1.0, 2.0], dtype=torch.float16)}
    other = {"count": torch.tensor(9), "half": torch.tensor([2.0, 6.0], dtype=torch.float16)}
    found = ex.shifted(base, [(0.5, other)])
    assert found["count"] == 3
    assert found["half"].dtype == torch.float16
    assert found["half"].tolist() == [1.5, 4.0]


def test_outcomes_are_counted_as_the_models_own_answers(tmp_path) -> None:
    images, labels = pictures(60)
    model = classifier()
    labels[::2] = predict(model, images, 60).argmax(1)[::2]
    crafted = (images + 0.15 * torch.randn(images.shape, generator=torch.Generator().manual_seed(5))).clamp(0, 1)
    surrogate_right = torch.rand(60, generator=torch.Generator().manual_seed(6)) < 0.8
    task = ex.Task(model.head, images, labels, {"p": crafted}, {"p": surrogate_right})
    embed = nn.Sequential(model.normalise, model.encoder)
    (row,) = ex.outcome(task, ex.view(embed, task, 16), torch.zeros(60, 16))
    clean, attacked = (predict(model, part, 60) for part in (images, crafted))
    right = clean.argmax(1) == labels
    both = right & surrogate_right
    assert 0 < both.sum() < 60
    assert row["correct"] == int(right.sum())
    assert row["loss"] == pytest.approx(float(nn.functional.cross_entropy(clean, labels)), rel=1e-5)
    assert row["n"] == int(both.sum())
    assert row["fooled"] == int((both & (attacked.argmax(1) != labels)).sum()) > 0
    assert row["representation_bias"] == pytest.approx(float(predict(embed, images, 60).abs().mean()), rel=1e-5)


def test_no_dose_is_the_base_and_a_full_dose_the_module(tmp_path) -> None:
    draw = torch.Generator().manual_seed(2)
    tensors = {"down": torch.randn(3, 16, generator=draw), "up": torch.randn(16, 3, generator=draw)}
    features = torch.randn(10, 16, generator=draw)
    module = Surgery(16, 3)
    module.load_state_dict(tensors)
    assert torch.equal(ex.dosed(tensors, 0)(features), features)
    assert torch.equal(ex.dosed(tensors, 1)(features), module(features))
    half = features + 0.5 * (module(features) - features)
    assert torch.allclose(ex.dosed(tensors, 0.5)(features), half, atol=1e-6)

    state = weights(0)
    path = tmp_path / "cut.safetensors"
    save_tensors(path, state | {f"surgery.t.{name}": part for name, part in tensors.items()}, {"backbone": TWO_BLOCKS})
    model = Model(path)
    images, _ = pictures()
    seen = predict(nn.Sequential(Normalise([0.5], [0.25]), model.encoder("t")), images, 12)
    whole = predict(model.classifier("t", head()), images, 12)
    assert torch.allclose(head()(ex.dosed(model.surgery["t"], 1)(seen)), whole, atol=1e-5)


def test_a_merge_that_answers_per_task_is_probed_as_the_model_of_the_task(tmp_path) -> None:
    base, experts = weights(0), {"a": weights(1), "b": weights(2)}
    path = tmp_path / "emr.safetensors"
    tensors = merge("emr", base, experts)
    assert any(name.startswith(PER_TASK) for name in tensors)
    save_tensors(path, tensors, {"backbone": TWO_BLOCKS})
    model = Model(path)
    images, labels = pictures()
    found = {task: ex.probe(model.classifier(task, head()), images, labels, 12) for task in experts}
    assert not torch.allclose(found["a"].gradient, found["b"].gradient, atol=1e-3)
    for task in experts:
        own = predict(nn.Sequential(Normalise([0.5], [0.25]), model.encoder(task)), images, 12)
        assert torch.allclose(found[task].activations[ex.FEATURES], own, atol=1e-5)


def test_blocks_of_another_architecture_are_not_compared() -> None:
    images, labels = pictures()
    ours = ex.probe(classifier(), images, labels, 12)
    torch.manual_seed(1)
    wide = {**BACKBONE, "options": {**BACKBONE["options"], "embed_dim": 24}}
    theirs = ex.probe(
        Classifier(build_encoder(wide), head(24), Normalise([0.5], [0.25])).eval().requires_grad_(False),
        images, labels, 12,
    )  # fmt: skip
    alike = ex.compare(ours, ours, ours, alike=True)
    assert [block for measure, block in alike if measure == "cka"] == ["blocks.0", "blocks.1", ex.FEATURES]
    assert all(values == pytest.approx([1.0]) for (measure, _), (_, values) in alike.items() if measure == "cka")
    other = ex.compare(theirs, ours, ours, alike=False)
    assert [block for measure, block in other if measure == "cka"] == [ex.FEATURES]
    assert ("feature_distance", None) not in other
    assert set(other) | {("feature_distance", None)} == {key for key in alike if key[1] in (None, ex.FEATURES)}


def test_an_ensemble_has_gradients_and_no_blocks() -> None:
    images, labels = pictures()
    one, other = classifier(0), classifier(1)
    fused = ex.probe(Ensemble([one, other]).eval(), images, labels, 5)
    assert fused.activations == {}
    alone = ex.probe(one, images, labels, 12)
    twice = ex.probe(Ensemble([one, one]).eval(), images, labels, 5)
    assert torch.allclose(twice.gradient, alone.gradient, atol=1e-5)
    assert not torch.allclose(fused.gradient, alone.gradient, atol=1e-3)
    found = ex.compare(fused, alone, alone, alike=False)
    assert ("gradient_cosine", None) in found
    assert not {"cka", "feature_distance"} & {measure for measure, _ in found}
