"""The engine and the first methods: hand-worked values, invariants, and refusals that name what is wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advmerge.errors import StudyError
from advmerge.merging import MODULES, check, check_surgery, grid
from advmerge.merging.engine import check_models, merge

SYMMETRIC = {
    "average": {},
    "task_arithmetic": {"scale": 0.3},
    "ties": {"scale": 0.7, "keep": 0.4},
}
"""Methods for which the order of the tasks means nothing."""


def models(seed: int, tasks: int, dtype: torch.dtype = torch.float32) -> tuple[dict, dict[str, dict]]:
    """A pretrained model of two float tensors and a counter, and experts near it."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    pretrained = {"weight": random(4, 3), "bias": random(5), "steps": torch.tensor([7])}
    finetuned = {}
    for task in range(tasks):
        finetuned[f"t{task}"] = {
            "weight": pretrained["weight"] + random(4, 3) / 8,
            "bias": pretrained["bias"] + random(5) / 8,
            "steps": torch.tensor([100 + task]),
        }
    return pretrained, finetuned


def from_vectors(*vectors: list[float], base: float = 0.0) -> tuple[dict, dict]:
    """Models of one tensor whose task vectors are given."""
    pretrained = {"w": torch.full((len(vectors[0]),), base)}
    return pretrained, {f"t{i}": {"w": pretrained["w"] + torch.tensor(v)} for i, v in enumerate(vectors)}


def merged(name: str, *vectors: list[float], base: float = 0.0, **options: object) -> list[float]:
    return merge(name, *from_vectors(*vectors, base=base), **options)["w"].tolist()


def test_average_by_hand() -> None:
    assert merged("average", [3.0, 0.0], [1.0, -2.0], base=1.0) == [3.0, 0.0]


def test_task_arithmetic_by_hand() -> None:
    assert merged("task_arithmetic", [3.0, 0.0], [1.0, -2.0], base=1.0, scale=0.5) == [3.0, 0.0]
    assert merged("task_arithmetic", [3.0, 0.0], [1.0, -2.0], base=1.0, scale=0) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    # Entry by entry: both agree; majority sign of the sum wins (+3 −1); the sum is zero, so P stays; only one
    # is not zero; both are zero.
    [("sum", [3.0, 3.0, 0.0, -2.0, 0.0]), ("mean", [1.5, 3.0, 0.0, -2.0, 0.0])],
)
def test_ties_by_hand(aggregate: str, expected: list[float]) -> None:
    vectors = [1.0, 3.0, 2.0, -2.0, 0.0], [2.0, -1.0, -2.0, 0.0, 0.0]
    assert merged("ties", *vectors, keep=1, scale=1, aggregate=aggregate) == expected


def test_ties_trims_before_it_elects_the_sign() -> None:
    # Untrimmed, the last entry's sign is that of 1 − 3·0.5 < 0; trimmed to the top half, the small ones are gone.
    vectors = [[9.0, 9.0, 0.0, 1.0]] + [[9.0, 9.0, 0.0, -0.5]] * 3
    assert merged("ties", *vectors, keep=0.75, scale=1)[3] == pytest.approx(-1.5)
    assert merged("ties", *vectors, keep=0.5, scale=1)[3] == 0
    vectors = [[9.0, 9.0, 0.0, 1.0], *[[9.0, 9.0, 8.0, -0.5]] * 3]
    assert merged("ties", *vectors, keep=0.75, scale=1)[3] == 1


def test_ties_keeps_every_entry_that_equals_the_threshold() -> None:
    assert merged("ties", [2.0, -2.0, 2.0, 1.0], keep=0.25, scale=1) == [2.0, -2.0, 2.0, 0.0]


def test_ties_counts_over_the_whole_model_not_per_tensor() -> None:
    pretrained = {"small": torch.zeros(4), "large": torch.zeros(4), "count": torch.tensor([1])}
    expert = {
        "small": torch.tensor([0.1, 0.2, 0.3, 0.4]),
        "large": torch.tensor([1.0, 2, 3, 4]),
        "count": torch.tensor([9]),
    }
    result = merge("ties", pretrained, {"t": expert}, keep=0.5, scale=1)
    assert result["small"].tolist() == [0, 0, 0, 0]
    assert result["large"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(("keep", "kept"), [(0, 0), (0.01, 1), (0.25, 1), (0.26, 2), (1, 4)])
def test_ties_keeps_the_ceiling_of_its_share(keep: float, kept: int) -> None:
    assert np.count_nonzero(merged("ties", [4.0, -3.0, 2.0, 1.0], keep=keep, scale=1)) == kept


def explicit_ties(pretrained: dict, finetuned: list[dict], keep: float, scale: float, aggregate: str) -> dict:
    """TIES by loops over single entries and a full sort, as the paper's algorithm 1 reads."""
    names = [name for name, tensor in pretrained.items() if tensor.is_floating_point()]
    flat = [[float(x) for name in names for x in (expert[name] - pretrained[name]).flatten()] for expert in finetuned]
    trimmed = []
    for vector in flat:
        count = int(np.ceil(np.float64(keep) * len(vector)))
        limit = sorted(map(abs, vector), reverse=True)[count - 1] if count else np.inf
        trimmed.append([x if abs(x) >= limit else 0.0 for x in vector])
    out = []
    for entries in zip(*trimmed, strict=True):
        total = sum(entries)
        agreeing = [x for x in entries if x * total > 0]
        value = sum(agreeing)
        if aggregate == "mean" and agreeing:
            value /= len(agreeing)
        out.append(scale * value)
    result, start = {}, 0
    for name in names:
        stop = start + pretrained[name].numel()
        result[name] = pretrained[name] + torch.tensor(out[start:stop]).view_as(pretrained[name])
        start = stop
    return result


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.sampled_from([0, 0.1, 0.2, 0.5, 0.9, 1]),
    st.sampled_from(["sum", "mean"]),
)
def test_ties_equals_the_explicit_algorithm(seed: int, tasks: int, keep: float, aggregate: str) -> None:
    pretrained, finetuned = models(seed, tasks)
    ours = merge("ties", pretrained, finetuned, keep=keep, scale=0.8, aggregate=aggregate)
    theirs = explicit_ties(pretrained, list(finetuned.values()), keep, 0.8, aggregate)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor)


@pytest.mark.parametrize("name", SYMMETRIC)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(4)))
def test_permuting_the_tasks_changes_nothing(name: str, seed: int, order: list[int]) -> None:
    pretrained, finetuned = models(seed, 4)
    permuted = {f"t{i}": finetuned[f"t{i}"] for i in order}
    one, two = (merge(name, pretrained, experts, **SYMMETRIC[name]) for experts in (finetuned, permuted))
    for key in pretrained:
        torch.testing.assert_close(one[key], two[key], rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9))
def test_averaging_copies_of_one_expert_gives_the_expert(seed: int, copies: int) -> None:
    pretrained, finetuned = models(seed, 1)
    result = merge("average", pretrained, {f"c{i}": finetuned["t0"] for i in range(copies)})
    for key in ("weight", "bias"):
        torch.testing.assert_close(result[key], finetuned["t0"][key], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", SYMMETRIC)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), tasks=st.integers(1, 7))
def test_a_tensor_that_no_expert_changed_comes_back_to_the_bit(name: str, seed: int, tasks: int) -> None:
    pretrained, finetuned = models(seed, tasks)
    frozen = {task: tensors | {"bias": pretrained["bias"].clone()} for task, tensors in finetuned.items()}
    assert torch.equal(merge(name, pretrained, frozen, **SYMMETRIC[name])["bias"], pretrained["bias"])


@pytest.mark.parametrize("name", SYMMETRIC)
def test_integer_buffers_come_from_the_pretrained_model(name: str) -> None:
    pretrained, finetuned = models(0, 3)
    result = merge(name, pretrained, finetuned, **SYMMETRIC[name])
    assert result["steps"].tolist() == [7]
    assert result["steps"].dtype == torch.int64
    assert list(result) == list(pretrained)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SYMMETRIC)
def test_half_precision_is_merged_in_float32_and_returned_as_it_came(name: str, dtype: torch.dtype) -> None:
    pretrained, finetuned = models(1, 3, dtype)
    result = merge(name, pretrained, finetuned, **SYMMETRIC[name])
    wide = {task: {k: v.float() for k, v in tensors.items()} for task, tensors in finetuned.items()}
    expected = merge(name, {k: v.float() for k, v in pretrained.items()}, wide, **SYMMETRIC[name])
    for key in ("weight", "bias"):
        assert result[key].dtype == dtype
        assert torch.equal(result[key], expected[key].to(dtype))


def test_the_inputs_are_left_as_they_were() -> None:
    pretrained, finetuned = models(2, 3)
    before = {k: v.clone() for k, v in pretrained.items()}, {k: v.clone() for k, v in finetuned["t1"].items()}
    for name, options in SYMMETRIC.items():
        result = merge(name, pretrained, finetuned, **options)
        for tensor in result.values():
            tensor.zero_()
    for kept, now in zip(before, (pretrained, finetuned["t1"]), strict=True):
        for key, tensor in kept.items():
            assert torch.equal(tensor, now[key])


def broken(**changes: Tensor | None) -> tuple[dict, dict]:
    pretrained, finetuned = models(0, 2)
    for key, value in changes.items():
        if value is None:
            del finetuned["t1"][key]
        else:
            finetuned["t1"][key] = value
    return pretrained, finetuned


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bias": None}, "expert 't1': lacks the tensor 'bias'"),
        ({"more": torch.ones(1)}, "expert 't1': has a tensor 'more'"),
        ({"bias": torch.ones(6)}, r"expert 't1': the tensor 'bias' has shape \[6\], pretrained \[5\]"),
        ({"bias": torch.tensor([1, 2, float("nan"), 4, 5])}, "expert 't1': the tensor 'bias' .*not finite"),
        ({"bias": torch.tensor([1, 2, float("-inf"), 4, 5])}, "expert 't1': the tensor 'bias' .*not finite"),
        ({"bias": torch.tensor([1, float("inf"), float("-inf"), 4, 5])}, "expert 't1': the tensor 'bias' .*not finite"),
    ],
)
def test_a_mismatch_names_the_expert_and_the_tensor(changes: dict, said: str) -> None:
    pretrained, finetuned = broken(**changes)
    for call in (lambda: check_models(pretrained, finetuned), lambda: merge("average", pretrained, finetuned)):
        with pytest.raises(StudyError, match=said):
            call()


def test_large_finite_values_are_not_taken_for_infinite() -> None:
    pretrained, finetuned = broken(bias=torch.full((5,), 3e38))
    check_models(pretrained, finetuned)


def test_no_expert_is_refused() -> None:
    with pytest.raises(StudyError, match="at least one"):
        merge("average", models(0, 1)[0], {})


def test_a_method_that_adapts_cannot_merge_weights_alone() -> None:
    with pytest.raises(StudyError, match="adapts on images"):
        merge("adamerging", *models(0, 2))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("tie", {}, "merging.x.method: unknown merging method 'tie'; choose one of: .*ties"),
        ("ties", {"scale": 1, "keep": 0.2, "kep": 1}, "merging.x: unknown option 'kep'; choose one of: .*keep"),
        ("ties", {"scale": [], "keep": 1}, "merging.x.scale: an empty list"),
        ("adamerging", {"steps": 1.5}, "merging.x.steps: 1.5 is not a whole number between 0 and"),
        ("ties", {"scale": 1}, "merging.x: method 'ties' needs the option 'keep'"),
        ("ties", {"scale": 1, "keep": 1.5}, "merging.x.keep: 1.5 is not a number between 0 and 1"),
        ("ties", {"scale": 1, "keep": [0.2, "a"]}, "merging.x.keep: 'a' is not a number"),
        ("ties", {"scale": True, "keep": 0.2}, "merging.x.scale: True is not a number"),
        ("ties", {"scale": 1, "keep": 0.2, "aggregate": "max"}, "merging.x.aggregate: unknown value 'max'.*mean, sum"),
        ("adamerging", {"steps": -1}, "merging.x.steps: -1 is not"),
        ("adamerging", {"coefficients": "both"}, "merging.x.coefficients: unknown value 'both'"),
    ],
)
def test_check_says_what_is_wrong(name: str, options: dict, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        check("x", name, options)


def test_check_accepts_what_is_right() -> None:
    check("x", "average", {})
    check("x", "task_arithmetic", {"scale": [0.2, 1]})
    check("x", "ties", {"scale": [0, -1.5], "keep": [0, 1], "aggregate": ["sum", "mean"]})
    check("x", "adamerging", {"coefficients": "task", "steps": 0})
    check_surgery("x", {"rank": 8, "steps": 10, "lr": 0.01, "batch": 4})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rnak": 3}, "merging.x.surgery: unknown option 'rnak'; .*rank"),
        ({"rank": 0}, "merging.x.surgery.rank"),
        ({"kind": "shallow"}, "merging.x.surgery.kind: unknown value 'shallow'; choose one of: deep, final"),
        (3, "expected options"),
    ],
)
def test_check_surgery_says_what_is_wrong(options: object, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        check_surgery("x", options)  # type: ignore[arg-type]


def test_every_registered_name_has_a_docstring_with_a_paper() -> None:
    from advmerge.merging import method

    for name in MODULES:
        assert re.search(r"\b20[12]\d\b|\b19\d\d\b", method(name).function.__doc__ or ""), name


def test_grid_is_every_combination_in_order() -> None:
    assert grid({}) == [{}]
    assert grid({"a": 1}) == [{"a": 1}]
    assert grid({"a": [1, 2], "b": 0, "c": [3, 4]}) == [{"a": a, "b": 0, "c": c} for a in (1, 2) for c in (3, 4)]
    assert grid({"a": []}) == []
