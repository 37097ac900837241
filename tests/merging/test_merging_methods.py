"""Every data-free method: hand-worked values, explicit reference implementations, and invariants."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from zoo import BACKBONE, Zoo

from advmerge.artifacts import save_tensors
from advmerge.errors import StudyError
from advmerge.merging import MODULES, check, method, sparse
from advmerge.merging.engine import merge, stream
from advmerge.merging.selection import largest, largest_near
from advmerge.merging.sparse import between, drop_by_magnitude
from advmerge.merging.spectral import is_matrix, orthogonal
from advmerge.merging.wudi import interference
from advmerge.models import Model, pack_mask, state_of, to_unit, unpack_mask

FREE: dict[str, dict[str, Any]] = {
    "average": {},
    "weighted": {"weights": {"red": 0.5, "green": 0.3, "blue": 0}},
    "task_arithmetic": {"scale": 0.3},
    "slerp": {"fraction": 0.3},
    "ties": {"scale": 0.7, "keep": 0.4},
    "dare": {},
    "dare_ties": {"scale": 0.5, "keep": 0.3},
    "della": {"scale": 0.8},
    "breadcrumbs": {},
    "pcb": {"keep": 0.3},
    "consensus": {"scale": 0.5},
    "tall": {},
    "emr": {},
    "tsv": {},
    "iso_c": {"scale": 1.2},
    "iso_cts": {"scale": 1.2, "common": 0.6},
    "wudi": {"steps": 5},
}
"""Every method that needs no data, with options to try it with."""

RANDOM = {"dare", "dare_ties", "della"}
PER_TASK = {"tall", "emr"}
SYMMETRIC = sorted(set(FREE) - RANDOM - {"slerp"})


def experts_for(name: str, zoo: Zoo) -> dict[str, dict[str, Tensor]]:
    return {t: m for t, m in zoo.finetuned.items() if name != "slerp" or t != "blue"}


def from_vectors(*vectors: list[float], base: float = 0.0) -> tuple[dict, dict]:
    pretrained = {"w": torch.full((len(vectors[0]),), base)}
    return pretrained, {f"t{i}": {"w": pretrained["w"] + torch.tensor(v)} for i, v in enumerate(vectors)}


def merged(name: str, *vectors: list[float], base: float = 0.0, **options: object) -> list[float]:
    return merge(name, *from_vectors(*vectors, base=base), **options)["w"].tolist()


def per_task(name: str, *vectors: list[float], base: float = 0.0, **options: object) -> list[list[float]]:
    pretrained, finetuned = from_vectors(*vectors, base=base)
    tensors = merge(name, pretrained, finetuned, **options)
    return [state_of(tensors, task)["w"].tolist() for task in finetuned]


# ── all of them ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_table_names_every_method_that_needs_no_data() -> None:
    assert set(FREE) == {name for name in MODULES if method(name).data == "none"}
    assert {name for name in MODULES if method(name).per_task} == PER_TASK


@pytest.mark.parametrize("name", FREE)
def test_every_method_makes_a_classifier_that_answers(name: str, zoo: Zoo, tmp_path: Path) -> None:
    check("x", name, FREE[name])
    experts = experts_for(name, zoo)
    tensors = merge(name, zoo.pretrained, experts, seed=1, **FREE[name])
    save_tensors(tmp_path / "m.safetensors", tensors, {"backbone": BACKBONE})
    model = Model(tmp_path / "m.safetensors")
    answers = {}
    for task in experts:
        state = state_of(tensors, task)
        assert {k: (v.shape, v.dtype) for k, v in state.items()} == {
            k: (v.shape, v.dtype) for k, v in zoo.pretrained.items()
        }
        assert any(not torch.equal(state[key], zoo.pretrained[key]) for key in state)
        images = to_unit(zoo.images[task])
        logits = model.classifier(task, zoo.heads[task])(images)
        torch.testing.assert_close(logits, zoo.classifier(task, state)(images))
        assert torch.isfinite(logits).all()
        answers[task] = model.encoder(task)(images)
    if name in PER_TASK:
        with pytest.raises(StudyError, match="has an encoder a task: name the task; it has: blue, green, red"):
            model.encoder()
        with pytest.raises(StudyError, match="has no encoder for the task 'grey'"):
            model.encoder("grey")
        assert sorted(model.per_task) == sorted(experts)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_permuting_the_tasks_changes_nothing(name: str, zoo: Zoo) -> None:
    order = ["blue", "red", "green"]
    one = merge(name, zoo.pretrained, zoo.finetuned, **FREE[name])
    two = merge(name, zoo.pretrained, {task: zoo.finetuned[task] for task in order}, **FREE[name])
    for task in order:
        a, b = state_of(one, task), state_of(two, task)
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_random_methods_draw_from_the_seed_the_task_and_the_tensor_alone(name: str, zoo: Zoo) -> None:
    torch.manual_seed(1)
    one = merge(name, zoo.pretrained, zoo.finetuned, seed=3, **FREE[name])
    torch.manual_seed(2)
    order = ["blue", "red", "green"]
    reverse = {key: zoo.pretrained[key] for key in reversed(zoo.pretrained)}
    two = merge(name, reverse, {task: zoo.finetuned[task] for task in order}, seed=3, **FREE[name])
    other = merge(name, zoo.pretrained, zoo.finetuned, seed=4, **FREE[name])
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-5, atol=1e-6)
    assert not torch.equal(one["blocks.0.mlp.fc1.weight"], other["blocks.0.mlp.fc1.weight"])


COPIES_GIVE_THE_EXPERT = {
    "average": {},
    "weighted": {"weights": [0.2, 0.5, 0.3]},
    "task_arithmetic": {"scale": 1 / 3},
    "ties": {"scale": 1, "keep": 1, "aggregate": "mean"},
    "pcb": {"scale": 1, "keep": 1, "clip": 0},
    "tall": {"threshold": 0},
    "emr": {},
    "dare": {"scale": 1 / 3, "drop": 0},
    "dare_ties": {"scale": 1, "drop": 0, "aggregate": "mean"},
    "della": {"scale": 1, "drop": 0, "window": 0},
    "breadcrumbs": {"scale": 1 / 3, "drop_small": 0, "drop_large": 0},
    "wudi": {"steps": 0},
}


@pytest.mark.parametrize("name", COPIES_GIVE_THE_EXPERT)
def test_copies_of_one_expert_give_it_back(name: str, zoo: Zoo) -> None:
    """With the options that undo scaling and dropping. Where a method sums, the sum of three is three task vectors."""
    copies = dict.fromkeys(zoo.finetuned, zoo.finetuned["red"])
    state = state_of(merge(name, zoo.pretrained, copies, **COPIES_GIVE_THE_EXPERT[name]), "blue")
    factor = {"tall": 3}.get(name, 1)
    for key, expert in zoo.finetuned["red"].items():
        if name == "wudi" and is_matrix(key, expert):
            factor_here = 3  # its start, Στ
        elif name == "pcb":
            # The least entry's weight is zero, whose share of itself is zero.
            close = torch.isclose(state[key], expert, rtol=1e-4, atol=1e-5)
            assert (~close).sum() <= 1
            continue
        else:
            factor_here = factor
        expected = zoo.pretrained[key] + factor_here * (expert - zoo.pretrained[key])
        torch.testing.assert_close(state[key], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FREE)
def test_half_precision_and_buffers_survive(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    pretrained = {
        "weight": torch.randn(6, 5, generator=generator).to(dtype),
        "scalar": torch.randn((), generator=generator).to(dtype),
        "none": torch.zeros(0, 3, dtype=dtype),
        "count": torch.tensor(3),
        "flags": torch.tensor([True, False]),
    }
    experts = {
        t: {k: v + torch.randn(v.shape, generator=generator).to(dtype) if v.is_floating_point() else v * 0 for k, v in pretrained.items()}
        for t in ("red", "green", "blue")
    }  # fmt: skip
    if name == "slerp":
        del experts["blue"]
    state = state_of(merge(name, pretrained, experts, **FREE[name]), "red")
    assert {k: (v.dtype, v.shape) for k, v in state.items()} == {k: (v.dtype, v.shape) for k, v in pretrained.items()}
    assert state["count"] == 3
    assert state["flags"].tolist() == [True, False]
    assert torch.isfinite(state["weight"]).all()


@pytest.mark.parametrize("name", FREE)
def test_tensors_that_share_memory_stay_equal(name: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def model() -> dict[str, Tensor]:
        weight = torch.randn(6, 5, generator=generator)
        return {"a.weight": weight, "bias": torch.randn(5, generator=generator), "b.weight": weight}

    pretrained, experts = model(), {t: model() for t in ("red", "green", "blue")}
    if name == "slerp":
        del experts["blue"]
    tensors = merge(name, pretrained, experts, **FREE[name])
    state = state_of(tensors, "red")
    assert list(state) == list(pretrained)
    assert torch.equal(state["a.weight"], state["b.weight"])
    if name not in PER_TASK:
        assert tensors["a.weight"].data_ptr() == tensors["b.weight"].data_ptr()


@pytest.mark.parametrize("name", FREE)
def test_an_infinite_entry_is_refused_not_merged(name: str, zoo: Zoo) -> None:
    experts = experts_for(name, zoo)
    bad = {k: v.clone() for k, v in experts["green"].items()}
    bad["fc_norm.bias"][3] = float("nan")
    with pytest.raises(StudyError, match=r"expert 'green': the tensor 'fc_norm.bias' has values that are not finite"):
        merge(name, zoo.pretrained, experts | {"green": bad}, **FREE[name])


# ── sums ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_weighted_by_hand_and_zero_is_a_weight() -> None:
    assert merged("weighted", [4.0], [8.0], base=1.0, weights=[0.5, 0]) == [3.0]
    assert merged("weighted", [4.0], [8.0], base=1.0, weights={"t1": 0.25, "t0": 0}) == [3.0]


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1.0], "1 of them for 2 tasks"),
        ({"t0": 1.0}, "are for t0, the tasks are t0, t1"),
        ({"t0": 1, "x": 1}, "for t0, x"),
    ],
)
def test_weights_must_be_one_a_task(weights: object, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        merged("weighted", [4.0], [8.0], weights=weights)


@pytest.mark.parametrize("weights", [3, "a", [], {}, {"a": "b"}, {"a": True}])
def test_weights_that_are_no_numbers_are_refused_before_the_merge(weights: object) -> None:
    with pytest.raises(StudyError, match=r"merging.x.weights"):
        check("x", "weighted", {"weights": [weights] if isinstance(weights, list) else weights})


def test_slerp_by_hand() -> None:
    def arc(fraction: float, *vectors: list[float]) -> list[float]:
        return merged("slerp", *vectors, fraction=fraction)

    half = 2**-0.5
    assert arc(0.5, [1.0, 0.0], [0.0, 1.0]) == pytest.approx([half, half])
    assert arc(1 / 3, [1.0, 0.0], [0.0, 1.0]) == pytest.approx([np.cos(np.pi / 6), 0.5])
    assert arc(0, [1.0, 0.0], [0.0, 1.0]) == pytest.approx([1, 0])
    assert arc(1, [1.0, 0.0], [0.0, 1.0]) == pytest.approx([0, 1], abs=1e-7)
    assert arc(0.25, [1.0, 1.0], [3.0, 3.0]) == pytest.approx([1.5, 1.5])  # parallel: the straight line
    assert arc(0.5, [0.0, 0.0], [3.0, 1.0]) == pytest.approx([1.5, 0.5])
    with pytest.raises(StudyError, match="joins two experts, not 3"):
        arc(0.5, [1.0], [2.0], [3.0])


# ── dropping ────────────────────────────────────────────────────────────────────────────────────────────────


def test_dare_keeps_or_rescales_each_entry_and_keeps_the_expectation() -> None:
    count = 20_000
    values = merge("dare", {"w": torch.zeros(count)}, {"t": {"w": torch.ones(count)}}, scale=1, drop=0.75)["w"]
    assert set(values.tolist()) == {0.0, 4.0}
    assert float((values != 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert merged("dare", [1.0, 2.0], [3.0, 4.0], scale=0.5, drop=0) == [2.0, 3.0]


def test_dare_drops_before_ties_trims() -> None:
    """Trimming to the top tenth after DARE keeps a tenth of all entries; before it, the half that DARE leaves of it."""
    vector = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    kept = merge("dare_ties", {"w": torch.zeros(10_000)}, {"t": {"w": vector}}, scale=1, drop=0.5, keep=0.1)["w"]
    assert int((kept != 0).sum()) == 1000
    left = merge("dare", {"w": torch.zeros(10_000)}, {"t": {"w": vector}}, scale=1, drop=0.5)["w"]
    assert torch.equal(kept, left.where(left.abs() >= left.abs().topk(1000).values[-1], 0))


def test_dare_ties_elects_the_sign_among_what_is_left() -> None:
    pretrained, finetuned = from_vectors([1.0] * 500, [-2.0] * 500)
    values = set(merge("dare_ties", pretrained, finetuned, scale=1, drop=0.5)["w"].tolist())
    # Both left: −4 wins over 2; one left: it wins; none left: zero.
    assert values == {-4.0, 2.0, 0.0}


def test_della_drops_small_entries_more_often() -> None:
    generator = torch.Generator().manual_seed(0)
    vector = torch.arange(1, 6).float().repeat(20_000, 1)
    left = drop_by_magnitude(vector, 0.5, 0.4, generator)
    shares = (left == 0).float().mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.6, 0.5, 0.4, 0.3]), rtol=0, atol=0.015)
    torch.testing.assert_close(left.mean(0), vector[0], rtol=0.03, atol=0)
    assert left[:, 4].unique().tolist() == pytest.approx([0, 5 / 0.7])


def test_della_by_hand() -> None:
    """p = 0.4, ε = 0.2, four entries: chances 0.3, 0.3667, 0.4333, 0.5 from the largest to the smallest."""
    vector = torch.tensor([[3.0, -1.0, -4.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
    chances = torch.tensor([[11 / 30, 0.5, 0.3, 13 / 30], [0.5, 13 / 30, 11 / 30, 0.3]])
    draws = torch.rand(2, 4, generator=torch.Generator().manual_seed(1))
    assert (draws < chances).any() and (draws >= chances).any()
    expected = vector * (draws >= chances) / (1 - chances)
    torch.testing.assert_close(drop_by_magnitude(vector, 0.4, 0.2, torch.Generator().manual_seed(1)), expected)


def test_della_ranks_rows_of_matrices_kernels_and_whole_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((7,), (3, 7), (2, 3, 4, 4), (1,), ()):
        vector = torch.randn(shape, generator=generator)
        assert drop_by_magnitude(vector, 0.0, 0.0, generator).equal(vector)


def test_della_refuses_chances_outside_the_unit_interval() -> None:
    with pytest.raises(StudyError, match="drop ± window/2"):
        merged("della", [1.0], scale=1, drop=0.1, window=0.4)


def test_breadcrumbs_by_hand() -> None:
    vector = torch.tensor([1.0, -9.0, 3.0, -2.0, 5.0, 4.0, -7.0, 8.0, 6.0, 10.0])
    expected = torch.tensor([0, -9.0, 0, 0, 5.0, 4.0, -7.0, 8.0, 6.0, 0])
    assert torch.equal(between(vector, 0.3, 0.1), expected)
    assert torch.equal(between(vector, 0, 0), vector)
    assert between(vector, 0.6, 0.4).count_nonzero() == 0
    assert torch.equal(between(torch.tensor([2.0, -2.0, 2.0]), 0.34, 0.34), torch.tensor([2.0, -2.0, 2.0]))
    assert merged("breadcrumbs", vector.tolist(), scale=2, drop_small=0.3, drop_large=0.1) == (2 * expected).tolist()


def explicit_pcb(vectors: np.ndarray, keep: float, clip: float, scale: float) -> np.ndarray:
    """PCB on a [T, n] array by full sorts in float64."""
    tasks, size = vectors.shape
    out_top, out_bottom = np.zeros(size), np.zeros(size)
    for vector in vectors:
        magnitudes = np.sort(np.abs(vector))
        low, high = magnitudes[int(size * clip)], magnitudes[int(size * (1 - clip) - 1)]
        clipped = np.clip(np.abs(vector), low, high)
        score = np.exp(tasks * ((clipped - low) / (high - low)) ** 2) * np.tanh(vector * vectors.sum(0))
        least = np.sort(score)[::-1][int(np.ceil(keep * size)) - 1]
        weight = np.maximum(score - least, 0) / (score.max() - least)
        out_top += weight * np.sign(vector) * clipped
        out_bottom += weight
    return scale * out_top / np.maximum(out_bottom, 1e-12)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(2, 4), st.sampled_from([0.05, 0.2, 0.7]), st.sampled_from([0, 1e-4, 0.01, 0.1])
)
def test_pcb_equals_the_explicit_formula(seed: int, tasks: int, keep: float, clip: float) -> None:
    vectors = np.random.default_rng(seed).normal(size=(tasks, 200)).astype(np.float32)
    pretrained = {"a": torch.zeros(10, 12), "b": torch.zeros(80)}
    experts = {
        f"t{i}": {"a": torch.tensor(v[:120]).view(10, 12), "b": torch.tensor(v[120:])} for i, v in enumerate(vectors)
    }
    ours = merge("pcb", pretrained, experts, keep=keep, clip=clip, scale=1.2)
    flat = torch.cat([ours["a"].flatten(), ours["b"]]).numpy()
    np.testing.assert_allclose(flat, explicit_pcb(vectors.astype(np.float64), keep, clip, 1.2), rtol=2e-3, atol=1e-3)


def test_pcb_by_hand() -> None:
    # Στ = [4, 0, 4]. Scores of the first: exp(2 · [0, ¼, 1]) · tanh([4, 0, 12]) = [0.99933, 0, 7.38906]; the second's are
    # those in reverse. Less the least and over the greatest: w = 0.135245 and 1. (1 w + 3) / (w + 1) = 2.761734.
    vectors = [1.0, -2.0, 3.0], [3.0, 2.0, 1.0]
    assert merged("pcb", *vectors, keep=1, clip=0, scale=1) == pytest.approx([2.761734, 0, 2.761734], rel=1e-5)
    # A tenth clips none of three at the lower end and one at the upper: [1, 2, 2]. (1 w + 2) / (w + 1) = 1.880867.
    assert merged("pcb", *vectors, keep=1, clip=0.1, scale=1) == pytest.approx([1.880867, 0, 1.880867], rel=1e-5)


def test_pcb_that_keeps_nothing_is_the_pretrained_model() -> None:
    assert merged("pcb", [1.0, 2.0], [3.0, -1.0], base=5.0, keep=0) == [5.0, 5.0]


# ── masks ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_tall_by_hand() -> None:
    # Στ = [3, 1, 0]. Task 0, λ = 1: |τ| > |Στ − τ|: 2 > 1, 3 > 2, not 1 > 1. Task 1: not 1 > 2, not 2 > 3, not 1 > 1.
    vectors = [2.0, 3.0, 1.0], [1.0, -2.0, -1.0]
    assert per_task("tall", *vectors, base=1.0, threshold=1) == [[4.0, 2.0, 1.0], [1.0, 1.0, 1.0]]
    # λ = 0.5: 2 > 0.5, 3 > 1, 1 > 0.5; task 1: not 1 > 1, 2 > 1.5, 1 > 0.5.
    assert per_task("tall", *vectors, base=1.0, threshold=0.5) == [[4.0, 2.0, 1.0], [1.0, 2.0, 1.0]]


def test_tall_compares_with_what_is_left_of_the_sum_not_with_the_weights() -> None:
    """A public implementation puts τ_t for θ_t: |τ_t| > λ |θ_mt − τ_t| changes with P. Ours does not."""
    vectors = [2.0, 3.0, 1.0], [1.0, -2.0, -1.0]
    one, two = (per_task("tall", *vectors, base=base, threshold=0.5) for base in (0.0, 64.0))
    assert [[x + 64 for x in row] for row in one] == two


def test_consensus_by_hand() -> None:
    # Masks at λ = 0.5: task 0 [1, 1, 1], task 1 [0, 1, 1] (see above); two agree on the last two entries.
    vectors = [2.0, 3.0, 1.0], [1.0, -2.0, -1.0]
    assert merged("consensus", *vectors, base=1.0, threshold=0.5, scale=2) == [1.0, 3.0, 1.0]
    assert merged("consensus", *vectors, base=1.0, threshold=0.5, scale=2, agree=1) == [7.0, 3.0, 1.0]
    with pytest.raises(StudyError, match="3 of 2 tasks cannot agree"):
        merged("consensus", *vectors, scale=1, agree=3)


def test_emr_by_hand() -> None:
    # Στ = [3, −2, 0, 0, −1]; τ_u = [2, −4, 0, 0, −1]: the largest that agrees; where the sum is zero, nothing.
    vectors = [2.0, 2.0, 1.0, 0.0, 0.0], [1.0, -4.0, -1.0, 0.0, -1.0]
    # Task 0: mask [1, 0, 0, 0, 0], λ = 5/2. Task 1: mask [1, 1, 0, 0, 1], λ = 7/7.
    assert per_task("emr", *vectors, base=1.0) == [[6.0, 1.0, 1.0, 1.0, 1.0], [3.0, -3.0, 1.0, 1.0, 0.0]]


def test_emr_rescales_over_the_whole_model() -> None:
    pretrained = {"a": torch.zeros(1), "b": torch.zeros(1)}
    finetuned = {
        "s": {"a": torch.tensor([1.0]), "b": torch.tensor([3.0])},
        "t": {"a": torch.tensor([2.0]), "b": torch.tensor([-1.0])},
    }
    # τ_u = [2, 3]; task s: both agree, λ = 4/5; task t: the first, λ = 3/2.
    tensors = merge("emr", pretrained, finetuned)
    assert [float(state_of(tensors, "s")[k]) for k in "ab"] == pytest.approx([1.6, 2.4])
    assert [float(state_of(tensors, "t")[k]) for k in "ab"] == pytest.approx([3.0, 0.0])


def test_emr_of_an_expert_that_did_not_move_is_the_pretrained_model() -> None:
    assert per_task("emr", [1.0, 2.0], [0.0, 0.0], base=3.0) == [[4.0, 5.0], [3.0, 3.0]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_masks_survive_packing(bits: list[bool]) -> None:
    mask = torch.tensor(bits)
    packed = pack_mask(mask)
    assert packed.numel() == -(-len(bits) // 8)
    assert unpack_mask(packed, mask.shape).equal(mask)


def test_a_task_can_be_taken_out_of_the_stream(zoo: Zoo) -> None:
    tensors = merge("emr", zoo.pretrained, zoo.finetuned)
    alone = dict(stream("emr", zoo.pretrained, zoo.finetuned, task="green"))
    for key, value in state_of(tensors, "green").items():
        torch.testing.assert_close(alone[key], value)
    with pytest.raises(StudyError, match="makes one model for all tasks"):
        next(stream("average", zoo.pretrained, zoo.finetuned, task="green"))
    with pytest.raises(StudyError, match="unknown expert 'grey'; choose one of: blue, green, red"):
        next(stream("emr", zoo.pretrained, zoo.finetuned, task="grey"))


# ── singular values ─────────────────────────────────────────────────────────────────────────────────────────


def matrices(seed: int, tasks: int, shape: tuple[int, int]) -> tuple[dict, dict]:
    generator = torch.Generator().manual_seed(seed)
    pretrained = {"fc.weight": torch.randn(shape, generator=generator), "fc.bias": torch.randn(4, generator=generator)}
    finetuned = {
        f"t{i}": {k: v + torch.randn(v.shape, generator=generator) for k, v in pretrained.items()} for i in range(tasks)
    }
    return pretrained, finetuned


def polar(matrix: np.ndarray) -> np.ndarray:
    """The nearest orthonormal matrix as (M Mᵀ)^(-1/2) M or M (Mᵀ M)^(-1/2), by eigenvalues."""
    if matrix.shape[0] < matrix.shape[1]:
        return polar(matrix.T).T
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    return matrix @ (vectors / np.sqrt(values)) @ vectors.T


def test_orthogonal_is_the_polar_factor() -> None:
    for shape in ((7, 4), (4, 7), (5, 5)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        np.testing.assert_allclose(orthogonal(matrix).numpy(), polar(matrix.numpy()), atol=1e-9)


@pytest.mark.parametrize("shape", [(8, 6), (6, 9)])
def test_tsv_equals_numpy_and_numpys_polar_factors(shape: tuple[int, int]) -> None:
    pretrained, finetuned = matrices(0, 3, shape)
    ours = merge("tsv", pretrained, finetuned, scale=0.7)
    lefts, values, rights = [], [], []
    for expert in finetuned.values():
        u, s, v = np.linalg.svd((expert["fc.weight"] - pretrained["fc.weight"]).double().numpy())
        lefts.append(u[:, :2]), values.extend(s[:2]), rights.append(v[:2])  # ⌊6/3⌋ triples of each
    product = polar(np.hstack(lefts)) @ np.diag(values) @ polar(np.vstack(rights))
    np.testing.assert_allclose(ours["fc.weight"], pretrained["fc.weight"].double().numpy() + 0.7 * product, atol=1e-4)
    mean = sum(expert["fc.bias"] for expert in finetuned.values()) / 3
    torch.testing.assert_close(ours["fc.bias"], pretrained["fc.bias"] + 0.7 * (mean - pretrained["fc.bias"]))


def test_tsv_of_one_task_is_the_expert() -> None:
    pretrained, finetuned = matrices(1, 1, (5, 7))
    torch.testing.assert_close(
        merge("tsv", pretrained, finetuned)["fc.weight"], finetuned["t0"]["fc.weight"], rtol=1e-4, atol=1e-5
    )


def test_iso_c_has_one_singular_value_and_keeps_the_directions() -> None:
    pretrained, finetuned = matrices(2, 3, (8, 6))
    total = sum(expert["fc.weight"] - pretrained["fc.weight"] for expert in finetuned.values()).double().numpy()
    ours = (merge("iso_c", pretrained, finetuned, scale=1)["fc.weight"] - pretrained["fc.weight"]).double().numpy()
    strength = np.linalg.svd(total, compute_uv=False).mean()
    np.testing.assert_allclose(ours, strength * polar(total), atol=1e-4)


def test_iso_cts_with_only_common_directions_is_iso_c() -> None:
    pretrained, finetuned = matrices(3, 3, (8, 6))
    one = merge("iso_c", pretrained, finetuned, scale=1.3)
    two = merge("iso_cts", pretrained, finetuned, scale=1.3, common=1)
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-5)


def test_iso_cts_equals_the_explicit_construction() -> None:
    pretrained, finetuned = matrices(4, 2, (9, 7))
    vectors = [(e["fc.weight"] - pretrained["fc.weight"]).double().numpy() for e in finetuned.values()]
    u, s, v = np.linalg.svd(sum(vectors), full_matrices=False)
    shared = 3  # 7 − ⌊0.4 · 7⌋ = 5 is nearest to two for each task, which leaves three
    lefts, values, rights = [u[:, :shared]], [s[:shared]], [v[:shared]]
    for vector in vectors:
        a, b, c = np.linalg.svd((np.eye(9) - u[:, :shared] @ u[:, :shared].T) @ vector, full_matrices=False)
        lefts.append(a[:, :2]), values.append(b[:2]), rights.append(c[:2])
    expected = np.concatenate(values).mean() * polar(np.hstack(lefts)) @ polar(np.vstack(rights))
    ours = merge("iso_cts", pretrained, finetuned, scale=1, common=0.4)["fc.weight"] - pretrained["fc.weight"]
    np.testing.assert_allclose(ours.double().numpy(), expected, atol=1e-4)


def test_iso_cts_of_the_usual_share_rounds_as_whole_numbers_do() -> None:
    """0.2 · 10 of two tasks is one each, whatever 1 − 0.8 is in binary."""
    pretrained, finetuned = matrices(5, 2, (10, 10))
    ours = merge("iso_cts", pretrained, finetuned, scale=1, common=0.8)["fc.weight"] - pretrained["fc.weight"]
    values = torch.linalg.svdvals(ours)
    torch.testing.assert_close(values, values.mean().expand(10), rtol=1e-4, atol=1e-4)
    one = merge("iso_c", pretrained, finetuned, scale=1)["fc.weight"] - pretrained["fc.weight"]
    assert not torch.allclose(ours, one, atol=1e-2)


def test_iso_cts_of_many_tasks_gives_them_no_more_directions_than_there_are() -> None:
    """Four directions, seven tasks, nothing common: 4/7 rounds to one a task, which is too many; so all are common."""
    pretrained, finetuned = matrices(6, 7, (4, 5))
    one = merge("iso_c", pretrained, finetuned, scale=1)
    two = merge("iso_cts", pretrained, finetuned, scale=1, common=0)
    torch.testing.assert_close(one["fc.weight"], two["fc.weight"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "is_one"),
    [
        ("blocks.0.attn.qkv.weight", (9, 3), True),
        ("visual.proj", (4, 4), True),
        ("positional_embedding", (4, 4), False),
        ("embeddings.position_embedding.weight", (4, 4), False),
        ("pos_embed", (4, 4), False),
        ("patch_embed.proj.weight", (4, 3, 2, 2), False),
        ("attn.relative_position_bias_table", (4, 4), False),
        ("token_embedding.weight", (4, 4), False),
        ("norm.weight", (4,), False),
        ("layers.0.proj.weight", (1, 4), False),
    ],
)
def test_what_is_a_matrix(name: str, shape: tuple[int, ...], is_one: bool) -> None:
    assert is_matrix(name, torch.zeros(shape)) == is_one


def test_wudi_lowers_the_interference_towards_the_closed_form() -> None:
    pretrained, finetuned = matrices(6, 3, (8, 6))
    vectors = torch.stack([e["fc.weight"] - pretrained["fc.weight"] for e in finetuned.values()])
    explicit = sum(float(((vectors[0] * 2 - v) @ v.T).square().sum() / v.square().sum()) for v in vectors)
    assert float(interference(vectors[0] * 2, vectors)) == pytest.approx(explicit, rel=1e-5)
    weights = [v.T.double() @ v.double() / v.double().square().sum() for v in vectors]
    best = sum(v.double() @ w for v, w in zip(vectors, weights, strict=True)) @ torch.linalg.inv(sum(weights))
    few, many = (
        merge("wudi", pretrained, finetuned, steps=steps, lr=0.01)["fc.weight"] - pretrained["fc.weight"]
        for steps in (20, 2000)
    )
    start = interference(vectors.sum(0), vectors)
    assert interference(few, vectors) < start
    torch.testing.assert_close(many, best.float(), rtol=0, atol=2e-2)


# ── order statistics ────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=60),
    st.data(),
)
def test_the_kth_largest_is_exact(values: list[float], data: st.DataObject) -> None:
    ranks = data.draw(st.lists(st.integers(1, len(values)), min_size=1, max_size=4))
    cut = data.draw(st.integers(0, len(values)))
    tensor = torch.tensor(values, dtype=torch.float32)
    pieces = [tensor[:cut], tensor[cut:]]
    (found,) = largest(lambda: ([piece] for piece in pieces), [ranks])
    ordered = sorted(tensor.tolist(), reverse=True)
    assert found == [ordered[rank - 1] for rank in ranks]


@pytest.mark.parametrize(
    ("rank", "guess", "passes"),
    [
        (20_000, 1.2816, 1),  # the normal distribution's
        (20_000, 1.29, 1),
        (20_000, 1.4, 3),  # what is sought is among the smaller
        (20_000, 1.1, 3),  # among the greater
        (20_000, 0.0, 2),  # no guess at all
        (20_000, -1.2816, 2),
        (1, 4.5, 3),
        (60_000, 1e-3, 3),  # of entries that are all zero
    ],
)
def test_the_kth_largest_whatever_is_guessed(rank: int, guess: float, passes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(100_000, generator=generator).abs_(), torch.randn(100_000, generator=generator).abs_()]
    if rank == 60_000:
        vectors = [vector * (torch.rand(100_000, generator=generator) < 0.5) for vector in vectors]
    begun = []

    def stream() -> Iterator[list[torch.Tensor]]:
        begun.append(1)
        yield from ([part[start : start + 7_000] for part in vectors] for start in range(0, 100_000, 7_000))

    found = largest_near(stream, [rank] * 2, [guess, 1.2816])
    assert found == [float(vector.sort(descending=True).values[rank - 1]) for vector in vectors]
    assert len(begun) == passes


def test_a_large_model_is_trimmed_where_sorting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "CHUNK", 1024)  # what is large is told from it
    one, two = torch.randn(2, 300, 300, generator=torch.Generator().manual_seed(0))
    pretrained = {"a": torch.zeros(300, 300), "b": torch.zeros(7)}
    finetuned = {name: {"a": part, "b": torch.ones(7)} for name, part in {"one": one, "two": 1e-3 * two}.items()}
    for keep in (0.001, 0.2, 0.9, 1.0):
        found = sparse.thresholds(pretrained, finetuned, 0, keep=keep)["thresholds"]
        every = [torch.cat([t.flatten().abs() for t in model.values()]) for model in finetuned.values()]
        count = math.ceil(keep * 90_007)
        assert found == [float(entries.sort(descending=True).values[count - 1]) for entries in every]


def test_equal_entries_are_counted_together() -> None:
    vector = torch.tensor([2.0] * 3 + [1.0] * 5 + [0.5] * 2)
    for rank in range(1, 11):
        assert largest_near(lambda: [[vector]], [rank], [1.0]) == [vector[rank - 1].item()]


def test_the_kth_largest_of_large_and_close_values() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = [1 + 1e-6 * torch.randn(2_100_000, generator=generator), torch.randn(2_100_000, generator=generator)]
    found = largest(lambda: [vectors], [[1, 420_000], [7, 2_100_000]])
    for vector, ranks, values in zip(vectors, [[1, 420_000], [7, 2_100_000]], found, strict=True):
        ordered = vector.sort(descending=True).values
        assert values == [float(ordered[rank - 1]) for rank in ranks]
