"""Methods that see images, on a small vision transformer: AdaMerging, Fisher, RegMean, surgery."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from zoo import BACKBONE, Zoo

from advmerge.artifacts import save_tensors
from advmerge.errors import StudyError
from advmerge.merging import Adaptation, grid, method, regmean
from advmerge.merging.engine import adapt, merge
from advmerge.merging.fisher import diagonal
from advmerge.merging.surgery import operate
from advmerge.models import Model, Normalise, Surgery, state_of, to_unit
from advmerge.study import load

ADAPTIVE = [
    "adamerging",
    "adamerging_plus",
    "sigmoid_weighted",
    "fisher",
    "regmean",
    "regmean_plus",
    "selective_learning",
]


def entropy(zoo: Zoo, state: dict[str, Tensor]) -> float:
    """Σ over tasks of the mean entropy on all images."""
    total = 0.0
    with torch.no_grad():
        for task, images in zoo.images.items():
            p = zoo.classifier(task, state)(to_unit(images)).softmax(1)
            total += float(-(p * p.log()).sum(1).mean())
    return total


def floats(zoo: Zoo) -> list[str]:
    return [name for name, tensor in zoo.pretrained.items() if tensor.is_floating_point()]


@pytest.mark.parametrize("coefficients", ["layer", "task"])
def test_adamerging_without_steps_is_task_arithmetic(zoo: Zoo, coefficients: str) -> None:
    state, facts = adapt(
        "adamerging", zoo.pretrained, zoo.finetuned, zoo.tasks(), 0, steps=0, initial=0.4, coefficients=coefficients
    )
    expected = merge("task_arithmetic", zoo.pretrained, zoo.finetuned, scale=0.4)
    for name in zoo.pretrained:
        torch.testing.assert_close(state[name], expected[name], rtol=1e-5, atol=1e-6)
    count = len(floats(zoo)) if coefficients == "layer" else 1
    assert {task: len(values) for task, values in facts["coefficients"].items()} == dict.fromkeys(zoo.finetuned, count)


def test_adamerging_plus_without_steps_is_the_sum_of_ties(zoo: Zoo) -> None:
    options = {"keep": 0.3}
    state, _ = adapt("adamerging_plus", zoo.pretrained, zoo.finetuned, zoo.tasks(), 0, steps=0, initial=0.7, **options)
    expected = merge("ties", zoo.pretrained, zoo.finetuned, scale=0.7, **options)
    for name in zoo.pretrained:
        torch.testing.assert_close(state[name], expected[name], rtol=1e-5, atol=1e-6)


def test_sigmoid_weighted_without_steps_is_task_arithmetic(zoo: Zoo) -> None:
    state, _ = adapt("sigmoid_weighted", zoo.pretrained, zoo.finetuned, zoo.tasks(), 0, steps=0, initial=0.25)
    expected = merge("task_arithmetic", zoo.pretrained, zoo.finetuned, scale=0.25)
    for name in zoo.pretrained:
        torch.testing.assert_close(state[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("coefficients", ["layer", "task"])
@pytest.mark.parametrize("name", ["adamerging", "adamerging_plus", "sigmoid_weighted"])
def test_learned_coefficients_lower_the_entropy_and_stay_in_range(zoo: Zoo, name: str, coefficients: str) -> None:
    options = {"coefficients": coefficients, "lr": 0.02}
    before, _ = adapt(name, zoo.pretrained, zoo.finetuned, zoo.tasks(), 0, steps=0, **options)
    after, facts = adapt(name, zoo.pretrained, zoo.finetuned, zoo.tasks(), 0, steps=40, **options)
    assert entropy(zoo, after) < entropy(zoo, before) - 1e-3
    assert all(0 <= value <= 1 for values in facts["coefficients"].values() for value in values)


def full_batches(zoo: Zoo) -> dict[str, Adaptation]:
    """One image a task, so that every batch of it is the same whatever is drawn."""
    return {task: seen._replace(images=seen.images[:1]) for task, seen in zoo.tasks().items()}


@pytest.mark.parametrize("coefficients", ["layer", "task"])
def test_the_step_of_adamerging_is_that_of_a_direct_autograd_computation(zoo: Zoo, coefficients: str) -> None:
    tasks, names, lr = full_batches(zoo), floats(zoo), 0.01
    shape = (len(tasks), len(names) if coefficients == "layer" else 1)
    weights = torch.full(shape, 0.3, requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=lr)
    for _ in range(3):
        total = torch.zeros(())
        for task, seen in tasks.items():
            # The entropy as one graph from the coefficients on: nothing is cut at the merged weights.
            state = {}
            for i, name in enumerate(names):
                state[f"encoder.{name}"] = zoo.pretrained[name]
                for t, other in enumerate(tasks):
                    vector = zoo.finetuned[other][name] - zoo.pretrained[name]
                    coefficient = weights[t, i if coefficients == "layer" else 0]
                    state[f"encoder.{name}"] = state[f"encoder.{name}"] + coefficient * vector
            p = functional_call(zoo.classifier(task, zoo.pretrained), state, (to_unit(seen.images),)).softmax(1)
            total = total - (p * p.log()).sum(1).mean()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    _, facts = adapt(
        "adamerging", zoo.pretrained, zoo.finetuned, tasks, 0, steps=3, lr=lr, batch=4, coefficients=coefficients
    )
    learned = torch.tensor(list(facts["coefficients"].values()))
    # Adam divides by the gradient's size: coefficients whose gradient is next to nothing have no sure direction.
    sure = weights.grad.abs() > 1e-4
    assert sure.float().mean() > 0.5
    torch.testing.assert_close(learned[sure], weights.detach()[sure], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_methods_are_deterministic_and_answer(zoo: Zoo, name: str) -> None:
    runs = [adapt(name, zoo.pretrained, zoo.finetuned, zoo.tasks(), 5, **few(name))[0] for _ in range(2)]
    for key, tensor in zoo.pretrained.items():
        assert torch.equal(runs[0][key], runs[1][key])
        assert runs[0][key].dtype == tensor.dtype
        assert runs[0][key].shape == tensor.shape
        assert not any(m[key].requires_grad for m in (zoo.pretrained, runs[0], *zoo.finetuned.values()))
    for task in zoo.finetuned:
        logits = zoo.classifier(task, runs[0])(to_unit(zoo.images[task]))
        assert torch.isfinite(logits).all()
        assert logits.shape == (40, zoo.heads[task].weight.shape[0])


def few(name: str) -> dict[str, int]:
    """Options that make a method quick."""
    return {"images": 8} if name in ("fisher", "regmean", "regmean_plus") else {"steps": 3}


@pytest.mark.parametrize("name", ["fisher", "regmean", "regmean_plus", "selective_learning"])
def test_permuting_the_tasks_changes_nothing(zoo: Zoo, name: str) -> None:
    """Each task draws its own images; AdaMerging's tasks share one stream of draws, in their order."""
    order, tasks = ["blue", "red", "green"], zoo.tasks()
    one, _ = adapt(name, zoo.pretrained, zoo.finetuned, tasks, 0, **few(name))
    turned = {task: zoo.finetuned[task] for task in order}
    two, _ = adapt(name, zoo.pretrained, turned, {task: tasks[task] for task in order}, 0, **few(name))
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_half_precision_is_merged_in_float32_and_returned_as_it_came(zoo: Zoo, name: str, dtype: torch.dtype) -> None:
    low = {task: {k: v.to(dtype) for k, v in tensors.items()} for task, tensors in zoo.finetuned.items()}
    base = {k: v.to(dtype) for k, v in zoo.pretrained.items()}
    wide = {task: {k: v.float() for k, v in tensors.items()} for task, tensors in low.items()}
    ours, _ = adapt(name, base, low, zoo.tasks(), 0, **few(name))
    expected, _ = adapt(name, {k: v.float() for k, v in base.items()}, wide, zoo.tasks(), 0, **few(name))
    for key, tensor in ours.items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, expected[key].to(dtype))


@pytest.mark.parametrize("name", ADAPTIVE)
def test_integer_buffers_come_from_the_pretrained_model(zoo: Zoo, name: str) -> None:
    tasks = zoo.tasks()
    for encoder in {id(seen.classifier.encoder): seen.classifier.encoder for seen in tasks.values()}.values():
        encoder.register_buffer("steps", torch.tensor([7]))
    base = zoo.pretrained | {"steps": torch.tensor([7])}
    experts = {t: m | {"steps": torch.tensor([100])} for t, m in zoo.finetuned.items()}
    merged, _ = adapt(name, base, experts, tasks, 0, **few(name))
    assert merged["steps"].tolist() == [7]
    assert merged["steps"].dtype == torch.int64


@pytest.mark.parametrize("name", ["fisher", "regmean", "regmean_plus"])
def test_copies_of_one_expert_give_the_expert(zoo: Zoo, name: str) -> None:
    copies = dict.fromkeys(zoo.finetuned, zoo.finetuned["red"])
    state, _ = adapt(name, zoo.pretrained, copies, zoo.tasks(), 0, images=8)
    for key, tensor in zoo.finetuned["red"].items():
        torch.testing.assert_close(state[key], tensor, rtol=1e-4, atol=1e-5)


def test_fisher_is_the_mean_squared_gradient_of_single_images(zoo: Zoo) -> None:
    """Per-parameter loops and cross-entropy against what the merge uses, for the y that it drew."""
    model = zoo.classifier("blue", zoo.finetuned["blue"]).requires_grad_(True)
    images = zoo.images["blue"][:5]
    state = {name: zoo.finetuned["blue"][name] for name in floats(zoo)}
    ours = diagonal(zoo.tasks()["blue"].classifier, state, images, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    sums = {name: torch.zeros_like(parameter) for name, parameter in model.encoder.named_parameters()}
    for image in images:
        logits = model(to_unit(image[None]))
        label = torch.multinomial(logits.detach().softmax(1)[0], 1, generator=generator)
        model.zero_grad()
        nn.functional.cross_entropy(logits, label).backward()
        for name, parameter in model.encoder.named_parameters():
            sums[name] += parameter.grad**2
    for name, value in sums.items():
        torch.testing.assert_close(ours[name], value / len(images), rtol=1e-3, atol=1e-9)


def test_fisher_weighs_by_information(zoo: Zoo) -> None:
    """Σ F θ / Σ F by hand, from the diagonals; with a floor above all information it is the average."""
    tasks = zoo.tasks()
    state, _ = adapt("fisher", zoo.pretrained, zoo.finetuned, tasks, 0, images=8, floor=1)
    average = merge("average", zoo.pretrained, zoo.finetuned)
    informed, _ = adapt("fisher", zoo.pretrained, zoo.finetuned, tasks, 0, images=8, floor=1e-12)
    name = "blocks.0.mlp.fc1.weight"
    assert (state[name] - average[name]).abs().max() < (informed[name] - average[name]).abs().max()
    low = torch.stack([zoo.finetuned[t][name] for t in tasks]).amin(0)
    high = torch.stack([zoo.finetuned[t][name] for t in tasks]).amax(0)
    assert ((informed[name] >= low - 1e-6) & (informed[name] <= high + 1e-6)).all()


def test_regmean_solves_the_least_squares_problem() -> None:
    """The stacked problem min_W Σ_t ‖X_t (W − W_t)ᵀ‖² by a general solver."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(30, 6, generator=generator, dtype=torch.float64) for _ in range(3)]
    weights = [torch.randn(4, 6, generator=generator) for _ in range(3)]
    ours = regmean.solve(weights, [x.T @ x for x in inputs], 1.0)
    answers = torch.cat([x @ w.double().T for x, w in zip(inputs, weights, strict=True)])
    theirs = torch.linalg.lstsq(torch.cat(inputs), answers).solution.T
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-5)
    # With no off-diagonal entry left, every column is a mean weighted by its own energy.
    energy = [x.square().sum(0) for x in inputs]
    diagonal = sum(e * w.double() for e, w in zip(energy, weights, strict=True)) / sum(energy)
    torch.testing.assert_close(
        regmean.solve(weights, [x.T @ x for x in inputs], 0.0), diagonal.float(), rtol=1e-4, atol=1e-5
    )


def test_regmean_survives_inputs_that_never_vary() -> None:
    weights = [torch.ones(2, 3), 3 * torch.ones(2, 3)]
    found = regmean.solve(weights, [torch.zeros(3, 3, dtype=torch.float64)] * 2, 0.95)
    torch.testing.assert_close(found, torch.full((2, 3), 2.0))


def test_gram_matrices_are_of_the_real_inputs_of_a_layer(zoo: Zoo) -> None:
    """Against the layer's input captured in a model that holds the expert's weights."""
    name = "blocks.1.attn.qkv.weight"
    seen = zoo.tasks()["red"]
    layers = regmean.linear_layers(seen.classifier.encoder, zoo.pretrained)
    assert set(layers) == {
        f"blocks.{b}.{part}.weight" for b in (0, 1) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    ours = regmean.grams(seen.classifier, zoo.finetuned["red"], zoo.images["red"], layers, batch=7)[name]
    encoder = zoo.encoder(zoo.finetuned["red"])
    encoder.blocks[1].norm1.register_forward_hook(lambda *call: kept.append(call[2]))
    kept: list[Tensor] = []
    encoder((to_unit(zoo.images["red"]) - 0.5) / 0.5)
    rows = kept[0].reshape(-1, 16).double()
    torch.testing.assert_close(ours, rows.T @ rows / 40, rtol=1e-5, atol=1e-6)


def test_regmean_fits_the_experts_layers_better_than_averaging(zoo: Zoo) -> None:
    tasks = zoo.tasks()
    state, facts = adapt("regmean", zoo.pretrained, zoo.finetuned, tasks, 0, images=40, shrink=1.0)
    average = merge("average", zoo.pretrained, zoo.finetuned)
    assert len(facts["regressed"]) == 8
    found = {}
    for task, seen in tasks.items():
        layers = regmean.linear_layers(seen.classifier.encoder, zoo.pretrained)
        found[task] = regmean.grams(seen.classifier, zoo.finetuned[task], zoo.images[task], layers)

    def error(merged: dict[str, Tensor], name: str) -> float:
        """Σ_t ‖X_t (W − W_t)ᵀ‖²."""
        off = {task: (merged[name] - zoo.finetuned[task][name]).double() for task in tasks}
        return sum(float((off[task] @ found[task][name] @ off[task].T).trace()) for task in tasks)

    for name in facts["regressed"]:
        assert error(state, name) < error(average, name)
    torch.testing.assert_close(state["blocks.0.norm1.weight"], average["blocks.0.norm1.weight"])


def test_regmean_plus_differs_only_from_the_second_block_on(zoo: Zoo) -> None:
    """Without blocks before it the first sees what the experts' own sees, but for the averaged patch embedding."""
    same = {
        task: state | {k: zoo.pretrained[k] for k in state if k.startswith(("patch", "pos"))}
        for task, state in zoo.finetuned.items()
    }
    one, _ = adapt("regmean", zoo.pretrained, same, zoo.tasks(), 0, images=16)
    two, _ = adapt("regmean_plus", zoo.pretrained, same, zoo.tasks(), 0, images=16)
    for name in regmean.linear_layers(zoo.tasks()["red"].classifier.encoder, zoo.pretrained):
        near = torch.allclose(one[name], two[name], rtol=1e-3, atol=1e-5)
        assert near == name.startswith("blocks.0"), name


def test_selective_learning_without_steps_stitches_the_largest_entries(zoo: Zoo) -> None:
    """θ_0 + Σ m τ / Σ m with m the top share of each expert's magnitudes, by a full sort."""
    names, keep = floats(zoo), 0.3
    state, facts = adapt("selective_learning", zoo.pretrained, zoo.finetuned, zoo.tasks(), 0, steps=0, keep=keep)
    flat = {
        task: torch.cat([(tensors[n] - zoo.pretrained[n]).flatten() for n in names])
        for task, tensors in zoo.finetuned.items()
    }
    top, count = 0, torch.zeros_like(flat["red"])
    for vector in flat.values():
        size = int(np.ceil(keep * len(vector)))
        mask = torch.zeros_like(vector).scatter(0, vector.abs().argsort(descending=True)[:size], 1)
        top, count = top + mask * vector, count + mask
    assert set(count.tolist()) == {0, 1, 2, 3}
    expected = torch.cat([zoo.pretrained[n].flatten() for n in names]) + top / count.clamp(min=1)
    torch.testing.assert_close(torch.cat([state[n].flatten() for n in names]), expected)
    assert facts["chosen_by_magnitude_too"] == dict.fromkeys(zoo.finetuned, 1.0)


@pytest.mark.parametrize(("keep", "same"), [(0, "pretrained"), (1, "average")])
def test_selective_learning_of_nothing_and_of_all(zoo: Zoo, keep: float, same: str) -> None:
    state, _ = adapt("selective_learning", zoo.pretrained, zoo.finetuned, zoo.tasks(), 0, steps=2, keep=keep)
    expected = zoo.pretrained if same == "pretrained" else merge("average", zoo.pretrained, zoo.finetuned)
    for name in zoo.pretrained:
        torch.testing.assert_close(state[name], expected[name], rtol=1e-5, atol=1e-6)


def test_selective_learning_keeps_entries_that_answer_better_than_the_largest(zoo: Zoo) -> None:
    """One task; its labels are the expert's own answers, so that there is something to find."""
    images = zoo.images["blue"]
    labels = zoo.classifier("blue", zoo.finetuned["blue"])(to_unit(images)).argmax(1)
    tasks = {"blue": zoo.tasks()["blue"]._replace(labels=labels)}
    loss = {}
    for steps in (0, 60):
        experts = {"blue": zoo.finetuned["blue"]}
        state, facts = adapt("selective_learning", zoo.pretrained, experts, tasks, 0, steps=steps, keep=0.1, lr=0.3)
        changed = sum(int((state[n] != zoo.pretrained[n]).sum()) for n in floats(zoo))
        assert changed / sum(zoo.pretrained[n].numel() for n in floats(zoo)) == pytest.approx(0.1, abs=0.001)
        with torch.no_grad():
            loss[steps] = float(nn.functional.cross_entropy(zoo.classifier("blue", state)(to_unit(images)), labels))
    assert loss[60] < loss[0] - 0.02
    assert facts["chosen_by_magnitude_too"]["blue"] < 1


def test_selective_learning_wants_labels(zoo: Zoo) -> None:
    tasks = {task: seen._replace(labels=None) for task, seen in zoo.tasks().items()}
    with pytest.raises(StudyError, match="'selective_learning' needs labels; the task 'red' has none"):
        adapt("selective_learning", zoo.pretrained, zoo.finetuned, tasks, 0)


def test_adapt_refuses_what_needs_no_images(zoo: Zoo) -> None:
    with pytest.raises(StudyError, match="needs no images"):
        adapt("average", zoo.pretrained, zoo.finetuned, zoo.tasks(), 0)
    with pytest.raises(StudyError, match="unknown option 'step'"):
        adapt("adamerging", zoo.pretrained, zoo.finetuned, zoo.tasks(), 0, step=3)


def test_an_untrained_surgery_module_is_the_identity() -> None:
    features = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Surgery(12, 3)(features), features)


def operated(zoo: Zoo, merged: dict[str, Tensor], task: str, **options: object) -> tuple[dict[str, Surgery], dict]:
    encoders = zoo.encoder(merged), zoo.encoder(zoo.finetuned[task])
    return operate(*encoders, Normalise([0.5], [0.5]), zoo.images[task], 0, task, **options)  # type: ignore[arg-type]


def saved(zoo: Zoo, path: Path, merged: dict[str, Tensor], modules: dict[str, Surgery], task: str) -> Model:
    """As the workflow's script lays it down."""
    own = {f"surgery.{task}.{w}{n}": p.data for w, m in modules.items() for n, p in m.named_parameters()}
    save_tensors(path, merged | own, {"backbone": BACKBONE})
    return Model(path)


@pytest.mark.parametrize("kind", ["final", "deep"])
def test_surgery_without_steps_changes_nothing(zoo: Zoo, tmp_path: Path, kind: str) -> None:
    merged = merge("average", zoo.pretrained, zoo.finetuned)
    modules, facts = operated(zoo, merged, "red", kind=kind, steps=0)
    assert list(modules) == ([""] if kind == "final" else ["blocks.0.", "blocks.1.", ""])
    assert facts["distance_before"] == facts["distance_after"] > 0
    model = saved(zoo, tmp_path / "m.safetensors", merged, modules, "red").classifier("red", zoo.heads["red"])
    images = to_unit(zoo.images["red"])
    torch.testing.assert_close(model(images), zoo.classifier("red", merged)(images))


def test_surgery_distances_are_those_of_features_and_mean_tokens(zoo: Zoo) -> None:
    """By a loop over timm's own steps: embed, position, blocks, norm, pool."""
    merged = merge("average", zoo.pretrained, zoo.finetuned)
    pixels = (to_unit(zoo.images["blue"]) - 0.5) / 0.5

    def walk(state: dict[str, Tensor]) -> list[Tensor]:
        encoder, found = zoo.encoder(state), []
        tokens = encoder.patch_embed(pixels) + encoder.pos_embed
        for block in encoder.blocks:
            tokens = block(tokens)
            found.append(tokens.mean(1))
        return [*found, encoder.fc_norm(encoder.norm(tokens).mean(1))]

    apart = [float((a - b).abs().mean()) for a, b in zip(walk(merged), walk(zoo.finetuned["blue"]), strict=True)]
    _, final = operated(zoo, merged, "blue", kind="final", steps=0)
    _, deep = operated(zoo, merged, "blue", kind="deep", steps=0)
    assert final["distance_before"] == pytest.approx(apart[-1], rel=1e-5)
    assert deep["distance_before"] == pytest.approx(sum(apart), rel=1e-5)


@pytest.mark.parametrize("kind", ["final", "deep"])
def test_surgery_lowers_the_distance_and_the_saved_model_has_it_inside(zoo: Zoo, tmp_path: Path, kind: str) -> None:
    merged = merge("task_arithmetic", zoo.pretrained, zoo.finetuned, scale=0.6)
    options = {"kind": kind, "rank": 8, "steps": 150, "lr": 0.01}
    modules, facts = operated(zoo, merged, "green", **options)
    assert facts["distance_after"] < 0.8 * facts["distance_before"]
    model = saved(zoo, tmp_path / "m.safetensors", merged, modules, "green").classifier("green", zoo.heads["green"])
    images = to_unit(zoo.images["green"])
    with torch.no_grad():
        features = model.surgery(model.encoder(model.normalise(images)))
        expert, plain = (zoo.encoder(s)(model.normalise(images)) for s in (zoo.finetuned["green"], merged))
        assert (features - expert).abs().mean() < (plain - expert).abs().mean()
        torch.testing.assert_close(copy.deepcopy(model)(images), model(images))
        # Step by step: each block's output less U·ReLU(D·x) of it goes into the next.
        encoder = zoo.encoder(merged)
        tokens = encoder.patch_embed(model.normalise(images)) + encoder.pos_embed
        for index, block in enumerate(encoder.blocks):
            tokens = block(tokens)
            if kind == "deep":
                part = modules[f"blocks.{index}."]
                tokens = tokens - (tokens @ part.down.T).relu() @ part.up.T
        z = encoder.fc_norm(encoder.norm(tokens).mean(1))
        z = z - (z @ modules[""].down.T).relu() @ modules[""].up.T
        torch.testing.assert_close(model(images), zoo.heads["green"](z))
    again, _ = operated(zoo, merged, "green", **options)
    for name, module in modules.items():
        assert torch.equal(module.up, again[name].up)
        assert not module.up.requires_grad
    images = images[:2].requires_grad_()
    assert torch.autograd.grad(model(images).sum(), images)[0].abs().sum() > 0


def test_deep_surgery_wants_blocks_of_tokens(zoo: Zoo) -> None:
    plain, normalise = nn.Sequential(nn.Flatten(), nn.Linear(256, 3)), Normalise([0.5], [0.5])
    with pytest.raises(StudyError, match="deep surgery goes after each of a transformer's blocks; Sequential has none"):
        operate(plain, plain, normalise, zoo.images["red"], 0, "red", kind="deep", steps=0)
    maps = nn.Module()
    maps.blocks, maps.forward = nn.Sequential(nn.Conv2d(1, 2, 3)), lambda x: maps.blocks(x).mean((2, 3))
    with pytest.raises(StudyError, match=r"goes on tokens \[N, L, width\]; Conv2d gives 4 axes"):
        operate(maps, maps, normalise, zoo.images["red"], 0, "red", kind="deep", steps=0)


def test_every_method_of_the_full_study(zoo: Zoo) -> None:
    """Its options as the study gives them, the first of a list, but for fewer steps, give an encoder like P and not P."""
    entries = load(Path(__file__).parents[2] / "studies/full.yaml").merging
    for name, entry in entries.items():
        if "base" in entry:
            continue
        (options, *_) = grid({key: value for key, value in entry.items() if key != "method"})
        chosen = method(entry["method"])
        if "steps" in chosen.options:
            options["steps"] = 2
        if chosen.adaptive:
            merged, _ = adapt(entry["method"], zoo.pretrained, zoo.finetuned, zoo.tasks(), 0, **options)
        else:
            merged = merge(entry["method"], zoo.pretrained, zoo.finetuned, **options)
        for task in zoo.finetuned:
            state = state_of(merged, task)
            assert state.keys() == zoo.pretrained.keys(), name
            assert all(tensor.isfinite().all() for tensor in state.values()), name
            moved = [not torch.equal(state[key], zoo.pretrained[key]) for key in state]
            assert any(moved), name
