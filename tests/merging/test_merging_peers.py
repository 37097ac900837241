"""Held against FusionBench and mergekit: equal where they are right, and what each does that we do not.

Both are test-only requirements (``envs/requirements-peers.txt``); a test is skipped where its peer is missing.
"""

from __future__ import annotations

import copy
import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import Zoo

from advmerge.merging import fisher, regmean
from advmerge.merging.engine import adapt, merge
from advmerge.merging.sparse import drop_by_magnitude
from advmerge.models import Classifier, Surgery, state_of
from advmerge.seeding import torch_generator

Models = tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]


@pytest.fixture(scope="module")
def fusion_bench() -> Any:
    pytest.importorskip("fusion_bench")

    def find(module: str) -> Any:
        return importlib.import_module(f"fusion_bench.{module}")

    return find


@pytest.fixture(scope="module")
def mergekit() -> Any:
    pytest.importorskip("mergekit")

    def find(module: str) -> Any:
        return importlib.import_module(f"mergekit.{module}")

    return find


def random_models(seed: int, tasks: int, distance: float = 1.0, **shapes: tuple[int, ...]) -> Models:
    """A pretrained model of the given tensors, and experts at a distance."""
    generator = torch.Generator().manual_seed(seed)
    pretrained = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return pretrained, {
        f"t{i}": {k: v + distance * torch.randn(v.shape, generator=generator) for k, v in pretrained.items()}
        for i in range(tasks)
    }


def vectors_of(pretrained: dict[str, Tensor], finetuned: dict[str, dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    return [{name: expert[name] - base for name, base in pretrained.items()} for expert in finetuned.values()]


def added(pretrained: dict[str, Tensor], vector: dict[str, Tensor], scale: float = 1) -> dict[str, Tensor]:
    return {name: base + scale * vector[name].detach() for name, base in pretrained.items()}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], atol: float = 1e-6) -> None:
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name].detach(), rtol=1e-5, atol=atol, msg=name)


def by_mergekit(find: Any, method: str, pretrained: dict, finetuned: dict, **options: Any) -> dict[str, Tensor]:
    """What mergekit makes of every tensor; ``weight``, ``density``, … are the same for all experts."""
    chosen = find("merge_methods.registry").get(method)
    group_of = find("merge_methods.base").TensorGroup.from_tensors
    merged = {}
    for name, base in pretrained.items():
        group = group_of([base, *(expert[name] for expert in finetuned.values())], base_index=0)
        parameters: dict[str, Any] = {"int8_mask": False, "lambda": 1.0, "rescale": False, "weight": 1.0} | options
        for each in {"weight", "density", "epsilon", "gamma"} & set(parameters):
            parameters[each] = {entry.id: parameters[each] for entry in group.non_base}
        merged[name] = chosen.merge_group(group, **parameters)
    return merged


def pool(find: Any, zoo: Zoo) -> Any:
    """FusionBench's model pool of the tiny transformer and its experts."""
    models = {"_pretrained_": zoo.pretrained} | zoo.finetuned
    modules = {name: zoo.encoder(copy.deepcopy(state)).requires_grad_(True) for name, state in models.items()}
    return find("modelpool").BaseModelPool(modules)


# ── sums and arcs ───────────────────────────────────────────────────────────────────────────────────────────


def test_averaging_is_fusion_benchs_and_mergekits(zoo: Zoo, fusion_bench: Any, mergekit: Any) -> None:
    ours = merge("average", zoo.pretrained, zoo.finetuned)
    assert_same(ours, fusion_bench("method.simple_average").simple_average(list(zoo.finetuned.values())))
    linear = by_mergekit(mergekit, "task_arithmetic", zoo.pretrained, zoo.finetuned, weight=1.0, normalize=True)
    assert_same(ours, linear)


def test_task_arithmetic_is_fusion_benchs_and_mergekits(zoo: Zoo, fusion_bench: Any, mergekit: Any) -> None:
    ours = merge("task_arithmetic", zoo.pretrained, zoo.finetuned, scale=0.3)
    algorithm = fusion_bench("method.task_arithmetic.task_arithmetic").TaskArithmeticAlgorithm(scaling_factor=0.3)
    assert_same(ours, algorithm.run(pool(fusion_bench, zoo)).state_dict())
    theirs = by_mergekit(mergekit, "task_arithmetic", zoo.pretrained, zoo.finetuned, weight=0.3, normalize=False)
    assert_same(ours, theirs)


def test_fixed_weights_are_fusion_benchs(zoo: Zoo, fusion_bench: Any) -> None:
    """Zero among them: a weight like any other."""
    weights = [0.5, 0.0, 0.5]
    ours = merge("weighted", zoo.pretrained, zoo.finetuned, weights=weights)
    weighted_sum = fusion_bench("utils.state_dict_arithmetic").state_dict_weighted_sum
    assert_same(ours, weighted_sum(list(zoo.finetuned.values()), weights))


def test_slerp_is_fusion_benchs_and_mergekits(fusion_bench: Any, mergekit: Any) -> None:
    pretrained, finetuned = random_models(0, 2, a=(6, 5), b=(40,))
    ours = merge("slerp", pretrained, finetuned, fraction=0.3)
    one, two = finetuned.values()
    theirs = fusion_bench("method.slerp.slerp").slerp_on_state_dicts(0.3, one, two)
    assert_same(ours, theirs)
    slerp = mergekit("merge_methods.slerp").slerp
    assert_same(ours, {name: slerp(torch.tensor([0.3]), one[name][None], two[name][None])[0] for name in one})


def test_slerp_stays_on_the_arc_where_both_peers_take_the_chord(fusion_bench: Any, mergekit: Any) -> None:
    """Peers go straight once the cosine exceeds 0.9995: where most fine-tuned models lie. We do below sine 1e-6."""
    angle = 0.03
    one, two = torch.tensor([1.0, 0.0]), torch.tensor([angle, 0.0]).cos() * torch.tensor([1.0, 0.0])
    two = torch.stack([two[0], torch.tensor(angle).sin()])
    ours = merge("slerp", {"w": one}, {"a": {"w": one}, "b": {"w": two}}, fraction=0.5)["w"]
    assert float(ours.double().norm()) == pytest.approx(1, abs=1e-7)
    chord = float(((one + two) / 2).double().norm())
    assert chord < 1 - 1e-4
    theirs = fusion_bench("method.slerp.slerp_utils").slerp(0.5, one, two)
    assert float(theirs.double().norm()) == pytest.approx(chord, abs=1e-7)
    theirs = mergekit("merge_methods.slerp").slerp(torch.tensor([0.5]), one[None], two[None])[0]
    assert float(theirs.double().norm()) == pytest.approx(chord, abs=1e-7)


def test_integer_buffers_stop_both_peers_not_us(fusion_bench: Any, mergekit: Any) -> None:
    pretrained = {"w": torch.zeros(2, 2), "steps": torch.tensor([7])}
    experts = {t: {"w": torch.ones(2, 2), "steps": torch.tensor([9])} for t in "ab"}
    assert merge("average", pretrained, experts)["steps"].tolist() == [7]
    with pytest.raises(RuntimeError, match="can't be cast"):
        fusion_bench("method.simple_average").simple_average([dict(m) for m in experts.values()])
    group_of = mergekit("merge_methods.base").TensorGroup.from_tensors
    linear = mergekit("merge_methods.linear").linear_merge
    whole = linear([group_of([m["w"] for m in experts.values()])], parameters={"weight": 1.0})
    assert whole[0].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    with pytest.raises(TypeError, match="floating-point"):
        linear([group_of([m["steps"] for m in experts.values()])], parameters={"weight": 1.0})


# ── dropping ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("aggregate", ["sum", "mean"])
def test_ties_is_fusion_benchs_but_for_one_entry_a_task(zoo: Zoo, fusion_bench: Any, aggregate: str) -> None:
    """Its k-th smallest of k = n − ⌊K n⌋ with ≥ keeps ⌊K n⌋ + 1 entries; we keep ⌈K n⌉."""
    size = sum(tensor.numel() for tensor in zoo.pretrained.values())
    algorithm = fusion_bench("method.ties_merging.ties_merging").TiesMergingAlgorithm(
        scaling_factor=0.7, threshold=20, remove_keys=[], merge_func=aggregate
    )
    theirs = algorithm.run(pool(fusion_bench, zoo)).state_dict()
    options = {"scale": 0.7, "aggregate": aggregate}
    assert_same(merge("ties", zoo.pretrained, zoo.finetuned, keep=(size // 5 + 1) / size, **options), theirs)
    ours = merge("ties", zoo.pretrained, zoo.finetuned, keep=0.2, **options)
    differing = sum(int((~torch.isclose(ours[name], theirs[name], atol=1e-6)).sum()) for name in ours)
    assert differing <= len(zoo.finetuned)


def test_ties_that_keeps_everything_stops_fusion_bench(fusion_bench: Any) -> None:
    """K = 1 becomes k = 0, and there is no 0-th smallest entry."""
    vectors = torch.tensor([[1.0, -2.0], [3.0, 1.0]])
    with pytest.raises(RuntimeError):
        fusion_bench("method.ties_merging.ties_merging_utils").ties_merging(vectors, 1.0, "sum")
    experts = {f"t{i}": {"w": vector} for i, vector in enumerate(vectors)}
    assert merge("ties", {"w": torch.zeros(2)}, experts, keep=1, scale=1)["w"].tolist() == [4.0, -2.0]


def test_where_signs_cancel_ties_elects_none_and_the_peers_elect_one(fusion_bench: Any, mergekit: Any) -> None:
    """FusionBench takes the sign of most of the model, mergekit takes plus; the sum elects neither."""
    vectors = torch.tensor([[2.0, -5.0, -4.0], [-2.0, -5.0, -4.0]])
    pretrained, experts = {"w": torch.zeros(3)}, {f"t{i}": {"w": v} for i, v in enumerate(vectors)}
    assert merge("ties", pretrained, experts, keep=1, scale=1)["w"].tolist() == [0, -10, -8]
    theirs = fusion_bench("method.ties_merging.ties_merging_utils").ties_merging(vectors, 0.99, "sum")
    assert theirs.tolist() == [-2, -10, -8]
    theirs = by_mergekit(mergekit, "ties", pretrained, experts, density=1.0, normalize=False)["w"]
    assert theirs.tolist() == [2, -10, -8]


@pytest.mark.parametrize("aggregate", ["sum", "mean"])
def test_ties_of_one_tensor_is_mergekits(mergekit: Any, aggregate: str) -> None:
    pretrained, finetuned = random_models(1, 3, w=(20, 50))
    theirs = by_mergekit(
        mergekit, "ties", pretrained, finetuned, density=0.2, normalize=aggregate == "mean", **{"lambda": 0.6}
    )
    assert_same(merge("ties", pretrained, finetuned, keep=0.2, scale=0.6, aggregate=aggregate), theirs)


def test_ties_trims_the_whole_model_and_mergekit_each_tensor(mergekit: Any) -> None:
    pretrained = {"small": torch.zeros(4), "large": torch.zeros(4)}
    experts = {"t": {"small": torch.tensor([0.1, 0.2, 0.3, 0.4]), "large": torch.tensor([1.0, 2, 3, 4])}}
    ours = merge("ties", pretrained, experts, keep=0.5, scale=1)
    assert [int(tensor.count_nonzero()) for tensor in ours.values()] == [0, 4]
    theirs = by_mergekit(mergekit, "ties", pretrained, experts, density=0.5, normalize=False)
    assert [int(tensor.count_nonzero()) for tensor in theirs.values()] == [2, 2]


class Draws:
    """Stands for the peers' global generator: the numbers that DARE and DELLA draw here, in the peer's order."""

    def __init__(self, method: str, seed: int, zoo: Zoo) -> None:
        self.order = iter(
            torch.rand(tensor.shape, generator=torch_generator(seed, method, task, name))
            for task in zoo.finetuned
            for name, tensor in zoo.pretrained.items()
        )

    def __call__(self, like: Tensor) -> Tensor:
        found = next(self.order)
        assert found.shape == like.shape
        return found


def test_dare_is_fusion_benchs_with_the_same_draws(
    zoo: Zoo, fusion_bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = fusion_bench("method.dare").DareTaskArithmetic(0.4, 0.6, only_on_linear_weights=False)
    models = pool(fusion_bench, zoo)
    monkeypatch.setattr(torch, "rand_like", Draws("dare", 3, zoo))
    theirs = algorithm.run(models).state_dict()
    assert_same(merge("dare", zoo.pretrained, zoo.finetuned, seed=3, scale=0.4, drop=0.6), theirs)


def test_dare_with_ties_is_fusion_benchs_with_the_same_draws(
    zoo: Zoo, fusion_bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DARE comes first there too."""
    size = sum(tensor.numel() for tensor in zoo.pretrained.values())
    algorithm = fusion_bench("method.dare").DareTiesMerging(0.5, False, True, 0.8, 20, [], "sum")
    models = pool(fusion_bench, zoo)
    monkeypatch.setattr(torch, "rand_like", Draws("dare", 3, zoo))
    theirs = algorithm.run(models).state_dict()
    keep = (size // 5 + 1) / size
    assert_same(merge("dare_ties", zoo.pretrained, zoo.finetuned, seed=3, scale=0.8, drop=0.5, keep=keep), theirs)


def masked_by(monkeypatch: pytest.MonkeyPatch, method: str, zoo: Zoo, names: list[str]) -> list[Tensor]:
    """Give mergekit our draws; it goes tensor by tensor, task by task. Its chances to keep are collected."""
    draws = iter(
        torch.rand(zoo.pretrained[name].shape, generator=torch_generator(3, method, task, name))
        for name in names
        for task in zoo.finetuned
    )
    chances: list[Tensor] = []

    def bernoulli(keep: Tensor) -> Tensor:
        chances.append(keep)
        return (next(draws).view_as(keep) >= 1 - keep).to(keep.dtype)

    monkeypatch.setattr(torch, "bernoulli", bernoulli)
    return chances


@pytest.mark.parametrize("method", ["dare", "dare_ties"])
def test_dare_is_mergekits_with_the_same_draws(
    zoo: Zoo, mergekit: Any, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    masked_by(monkeypatch, "dare", zoo, list(zoo.pretrained))
    name = {"dare": "dare_linear"}.get(method, method)
    theirs = by_mergekit(mergekit, name, zoo.pretrained, zoo.finetuned, density=0.4, weight=0.5 / 0.4, normalize=False)
    assert_same(merge(method, zoo.pretrained, zoo.finetuned, seed=3, scale=0.5, drop=0.6), theirs)


def test_dare_keeps_the_expectation_where_mergekit_keeps_the_sum_of_magnitudes(mergekit: Any) -> None:
    """Yu et al. divide by 1 − p. mergekit's default rescaling is by the L1 norms, so it depends on the draw."""
    pretrained, experts = {"w": torch.zeros(1000)}, {"t": {"w": torch.linspace(-1, 3, 1000)}}
    ours = merge("dare", pretrained, experts, scale=1, drop=0.5)["w"]
    kept = ours != 0
    torch.testing.assert_close(ours[kept], 2 * experts["t"]["w"][kept])
    torch.manual_seed(0)  # mergekit draws from the global generator
    theirs = by_mergekit(mergekit, "dare_linear", pretrained, experts, density=0.5, normalize=False, rescale=True)["w"]
    left = theirs != 0
    assert float(theirs.abs().sum()) == pytest.approx(float(experts["t"]["w"].abs().sum()), rel=1e-5)
    ratio = (theirs[left] / experts["t"]["w"][left]).unique()
    assert not torch.allclose(ratio, torch.tensor(2.0), rtol=1e-3)


def test_della_drops_what_mergekit_drops_and_rescales_as_the_paper(
    mergekit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same chances and, with the same draws, the same entries left; each divided by its own chance to stay.

    That is MagPrune's rule and that of the authors' code; mergekit rescales all by one ratio of L1 norms.
    """
    vector = torch.randn(7, 30, generator=torch.Generator().manual_seed(0))
    chances: list[Tensor] = []

    def bernoulli(keep: Tensor) -> Tensor:
        chances.append(keep)
        return (torch.rand(keep.shape, generator=torch.Generator().manual_seed(5)) >= 1 - keep).float()

    monkeypatch.setattr(torch, "bernoulli", bernoulli)
    theirs = mergekit("sparsify").della_magprune(vector, density=0.6, epsilon=0.1)
    ours = drop_by_magnitude(vector, 0.4, 0.2, torch.Generator().manual_seed(5))
    assert (theirs == 0).any() and (theirs != 0).any()
    torch.testing.assert_close(ours, theirs / chances[0])
    rescaled = mergekit("sparsify").della_magprune(vector, 0.6, 0.1, mergekit("sparsify").RescaleNorm.l1)
    left = rescaled != 0
    assert (rescaled / theirs)[left].unique().numel() < 10  # one ratio, to rounding
    assert (ours / theirs)[left].unique().numel() > 10


def test_della_is_mergekits_without_a_window(zoo: Zoo, mergekit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the rescaling of paper and authors is one factor, which the weight can stand for."""
    names = ["blocks.0.mlp.fc1.weight", "blocks.1.attn.qkv.weight"]
    pretrained = {name: zoo.pretrained[name] for name in names}
    experts = {task: {name: state[name] for name in names} for task, state in zoo.finetuned.items()}
    masked_by(monkeypatch, "della", zoo, names)
    theirs = by_mergekit(
        mergekit, "della", pretrained, experts, density=0.6, epsilon=0.0, normalize=True, **{"lambda": 0.8 / 0.6}
    )
    assert_same(merge("della", pretrained, experts, seed=3, scale=0.8, drop=0.4, window=0), theirs)


def test_breadcrumbs_is_mergekits(mergekit: Any) -> None:
    pretrained, finetuned = random_models(2, 3, a=(20, 50), b=(200,))
    theirs = by_mergekit(
        mergekit, "breadcrumbs", pretrained, finetuned, density=0.7, gamma=0.05, weight=0.3, normalize=False
    )
    assert_same(merge("breadcrumbs", pretrained, finetuned, scale=0.3, drop_small=0.25, drop_large=0.05), theirs)


# ── masks ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_tall_masks_are_fusion_benchs_given_the_weights_it_names(zoo: Zoo, fusion_bench: Any) -> None:
    """Its function asks for θ_t and θ_mt and is given τ_t and τ_mt: called right, its masks are ours."""
    generate = fusion_bench("method.tall_mask.task_arithmetic").generate_task_masks
    vectors = vectors_of(zoo.pretrained, zoo.finetuned)
    summed = {name: sum(vector[name] for vector in vectors) for name in zoo.pretrained}
    zero = {name: torch.zeros_like(tensor) for name, tensor in zoo.pretrained.items()}
    ours = merge("tall", zoo.pretrained, zoo.finetuned, threshold=0.4)
    for task, vector in zip(zoo.finetuned, vectors, strict=True):
        right = generate(summed, vector, zero, 0.4)  # τ_t is θ_t where θ_0 is zero
        assert_same(state_of(ours, task), added(zoo.pretrained, {k: right[k] * summed[k] for k in summed}))


def test_fusion_benchs_tall_masks_are_nearly_all_ones(zoo: Zoo, fusion_bench: Any) -> None:
    """|θ_0 − τ_t| > λ |τ_mt − τ_t| holds wherever weights are larger than task vectors."""
    algorithm = fusion_bench("method.tall_mask.task_arithmetic").TallMaskTaskArithmeticAlgorithm(0.4)
    generate = fusion_bench("method.tall_mask.task_arithmetic").generate_task_masks
    near = {
        task: {name: zoo.pretrained[name] + 0.01 * (tensor - zoo.pretrained[name]) for name, tensor in state.items()}
        for task, state in zoo.finetuned.items()
    }
    vectors = vectors_of(zoo.pretrained, near)
    summed = {name: sum(vector[name] for vector in vectors) for name in zoo.pretrained}
    theirs = generate(summed, vectors[0], zoo.pretrained, 0.4)
    names = [name for name in zoo.pretrained if name.endswith("weight")]
    share = sum(float(theirs[name].sum()) for name in names) / sum(theirs[name].numel() for name in names)
    ours = merge("tall", zoo.pretrained, near, threshold=0.4)
    state = state_of(ours, next(iter(near)))
    kept = sum(int((state[name] != zoo.pretrained[name]).sum()) for name in names)
    assert share > 0.9 > kept / sum(theirs[name].numel() for name in names)
    assert algorithm.tall_mask_lambda == 0.4  # the algorithm that calls it so


def test_emr_of_one_tensor_is_fusion_benchs(fusion_bench: Any) -> None:
    pretrained, finetuned = random_models(3, 3, w=(20, 50))
    vectors = vectors_of(pretrained, finetuned)
    unified, masks, scales = fusion_bench("method.emr_merging.utils").emr_merge(vectors)
    ours = merge("emr", pretrained, finetuned)
    for index, task in enumerate(finetuned):
        theirs = added(pretrained, {"w": scales[index] * masks["w"][index] * unified["w"]})
        assert_same(state_of(ours, task), theirs)


def test_emr_rescales_by_sums_over_the_model_and_elects_nothing_where_signs_cancel(fusion_bench: Any) -> None:
    """FusionBench adds up means of tensors, so that a bias weighs as much as a matrix; and it takes zero for minus."""
    emr_merge = fusion_bench("method.emr_merging.utils").emr_merge
    pretrained = {"a": torch.zeros(1), "b": torch.zeros(3)}
    finetuned = {
        "s": {"a": torch.tensor([1.0]), "b": torch.tensor([3.0, 3, 3])},
        "t": {"a": torch.tensor([2.0]), "b": torch.tensor([-1.0, -1, -1])},
    }
    # τ_u = [2], [3, 3, 3]. Task s: Σ|τ| = 10 over 11; by means 4 over 5. Task t: 5 over 2; by means 3 over 2.
    ours = merge("emr", pretrained, finetuned)
    assert [float(state_of(ours, t)["a"]) for t in "st"] == pytest.approx([2 * 10 / 11, 2 * 5 / 2])
    _, _, scales = emr_merge(list(finetuned.values()))
    assert scales.tolist() == pytest.approx([4 / 5, 3 / 2])
    opposed = {"s": {"a": torch.tensor([1.0])}, "t": {"a": torch.tensor([-1.0])}}
    assert float(merge("emr", {"a": torch.zeros(1)}, opposed)["per_task.vector.a"]) == 0
    assert emr_merge(list(opposed.values()))[0]["a"].tolist() == [-1]


# ── matrices ────────────────────────────────────────────────────────────────────────────────────────────────


def fusion_bench_matrices(find: Any, method: str, vectors: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    vectors = copy.deepcopy(vectors)
    if method == "tsv":
        found = find("method.task_singular_vector.utils.TSVM_utils").compute_and_sum_svd_mem_reduction
        return found(vectors, accelerator="cpu")
    if method == "wudi":
        return find("method.wudi.wudi").wudi_merging(vectors, accelerator="cpu", iter_num=20)
    if method == "iso_c":
        return find("method.isotropic_merging.iso_utils").iso_c(vectors, accelerator="cpu")
    return find("method.isotropic_merging.iso_utils").iso_cts(vectors, 0.8, accelerator="cpu")


SPECTRAL: dict[str, dict[str, Any]] = {
    "tsv": {"scale": 1},
    "iso_c": {"scale": 1},
    "iso_cts": {"scale": 1, "common": 0.8},
    "wudi": {"steps": 20},
}


@pytest.mark.parametrize("method", SPECTRAL)
@pytest.mark.parametrize("tasks", [2, 3, 7])
def test_matrix_methods_are_fusion_benchs(fusion_bench: Any, method: str, tasks: int) -> None:
    shapes = {"blocks.0.fc.weight": (24, 16), "blocks.1.fc.weight": (16, 30), "norm.bias": (16,)}
    pretrained, finetuned = random_models(4, tasks, **shapes)
    theirs = fusion_bench_matrices(fusion_bench, method, vectors_of(pretrained, finetuned))
    assert_same(merge(method, pretrained, finetuned, **SPECTRAL[method]), added(pretrained, theirs), atol=2e-5)


@pytest.mark.parametrize("method", SPECTRAL)
def test_embeddings_are_no_matrices_but_fusion_bench_takes_them_for_some(fusion_bench: Any, method: str) -> None:
    """It goes by two axes alone, unless told the names to leave out."""
    name = "embeddings.position_embedding.weight"
    pretrained, finetuned = random_models(5, 3, **{name: (12, 8)})
    vectors = vectors_of(pretrained, finetuned)
    theirs = added(pretrained, fusion_bench_matrices(fusion_bench, method, vectors))
    ours = merge(method, pretrained, finetuned, **SPECTRAL[method])[name]
    torch.testing.assert_close(ours, pretrained[name] + sum(vector[name] for vector in vectors) / 3)
    assert not torch.allclose(ours, theirs[name], atol=1e-3)


def test_regmean_solves_what_fusion_bench_solves(fusion_bench: Any) -> None:
    generator = torch.Generator().manual_seed(6)
    weights = [torch.randn(5, 8, generator=generator) for _ in range(3)]
    grams = [x.T @ x for x in (torch.randn(40, 8, generator=generator) for _ in range(3))]
    theirs = fusion_bench("method.regmean.regmean").merging_with_regmean_weights(
        {"fc.weight": weights}, [{"fc": gram} for gram in grams], reduce_non_diagonal_ratio=0.9
    )["fc.weight"]
    ours = regmean.solve(weights, [gram.double() for gram in grams], 0.9)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_fisher_weighs_as_fusion_bench_does(zoo: Zoo, fusion_bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the same diagonals, without its normalisation of the experts' Fisher norms, which the paper lacks."""
    generator = torch.Generator().manual_seed(7)
    found = [
        {name: torch.rand(tensor.shape, generator=generator) for name, tensor in zoo.pretrained.items()}
        for _ in zoo.finetuned
    ]
    order = iter(found)
    monkeypatch.setattr(fisher, "diagonal", lambda *_: next(order))
    ours, _ = adapt("fisher", zoo.pretrained, zoo.finetuned, zoo.tasks(), 0, images=1)
    theirs = fusion_bench("method.fisher_merging.fisher_merging").merging_with_fisher_weights(
        {name: [state[name] for state in zoo.finetuned.values()] for name in zoo.pretrained},
        found,
        torch.full((3,), 1 / 3),
        normalize_fisher_weight=False,
    )
    assert_same(ours, theirs)


# ── surgery ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_surgery_is_inside_what_is_called_and_fusion_benchs_is_not(
    zoo: Zoo, fusion_bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack that calls its wrapper attacks the model without surgery."""
    clip = pytest.importorskip("transformers.models.clip.modeling_clip")
    if not hasattr(clip, "CLIPVisionTransformer"):  # it imports a name that newer releases have not
        monkeypatch.setattr(clip, "CLIPVisionTransformer", clip.CLIPVisionModel, raising=False)
    wrapper = fusion_bench("models.surgery.surgerymodelwrapper").SurgeryModelWrapper
    body = nn.Linear(4, 3)
    theirs = wrapper(body, ["red"], projection_dim=3, hidden_dim=2)
    features = torch.randn(5, 4, generator=torch.Generator().manual_seed(8))
    for parameter in theirs.collect_trainable_params():
        nn.init.ones_(parameter)
    assert torch.equal(theirs(features), body(features))
    module = Surgery(3, 2)
    nn.init.ones_(module.down), nn.init.ones_(module.up)
    ours = Classifier(body, nn.Identity(), nn.Identity(), module)
    assert not torch.allclose(ours(features), body(features))
