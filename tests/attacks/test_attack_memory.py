"""Passes through a model: no more than an attack needs, and of fewer images when memory runs out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_every_attack import TABLE, Row, run
from torch import nn
from victims import Victim

from advmerge import passes
from advmerge.errors import StudyError


class Cramped(nn.Module):
    """A model on a device whose memory holds the activations of ``room`` images, or gradients of as many."""

    def __init__(self, model: nn.Module, room: int, backward: bool = False) -> None:
        super().__init__()
        self.model = model
        self.room = room
        self.backward = backward
        self.refused: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.backward:
            self._need(images)
        elif images.requires_grad:
            images.register_hook(self._need)
        return self.model(images)

    def _need(self, images: torch.Tensor) -> None:
        if len(images) > self.room:
            self.refused.append(len(images))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.")


@pytest.fixture
def victim(victim: Victim, request: pytest.FixtureRequest) -> Victim:
    row = request.node.callspec.params.get("row") if hasattr(request.node, "callspec") else None
    return request.getfixturevalue("transformer") if row and row.transformer else victim


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_examples_do_not_depend_on_memory(victim: Victim, row: Row) -> None:
    """But for rounding, which may flip the sign of a gradient that is all but zero; draws are the batch's."""
    cramped = Cramped(victim.model, 10)
    found = run(Victim(cramped, victim.images, victim.labels), row)
    assert cramped.refused == ([64, 32, 16] if row.method != "UniformNoise" else [])
    free = run(victim, row)
    assert ((found - free).abs() > 1e-3).float().mean() < 4e-3
    assert (victim.fooled(found) == victim.fooled(free)).float().mean() > 0.98


@pytest.mark.parametrize("method", ["ProjectedGradientDescent", "NIFGSM", "BatchedDeepFool"])
def test_a_backward_pass_that_does_not_fit_is_halved_too(victim: Victim, method: str) -> None:
    row = next(row for row in TABLE if row.method == method)
    cramped = Cramped(victim.model, 20, backward=True)
    found = run(Victim(cramped, victim.images, victim.labels), row)
    assert cramped.refused[0] > 32 and all(size > 20 for size in cramped.refused)
    assert ((found - run(victim, row)).abs() > 1e-3).float().mean() < 2e-3


def test_a_device_that_holds_no_image_is_named_in_a_sentence(victim: Victim) -> None:
    with pytest.raises(StudyError, match=r"out of memory with one image a pass: CUDA out of memory"):
        run(Victim(Cramped(victim.model, 0), victim.images, victim.labels), TABLE[1])


def test_other_errors_are_not_taken_for_it(victim: Victim) -> None:
    calls: list[int] = []

    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            calls.append(len(images))
            raise RuntimeError("no such kernel")

    with pytest.raises(RuntimeError, match="no such kernel"):
        run(Victim(Broken(), victim.images, victim.labels), TABLE[1])
    assert calls == [64]


def test_in_parts_a_model_says_and_slopes_the_same(victim: Victim) -> None:
    limited = passes.InParts(victim.model, 50)
    seen: list[int] = []
    with victim.model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0]))):
        with torch.no_grad():
            assert torch.allclose(limited(victim.images), victim.model(victim.images), atol=1e-5)
        assert seen == [50, 50, 20, 120]
        x = victim.images.clone().requires_grad_()
        logits = limited(x)
        slopes = [torch.autograd.grad(logits[:, k].sum(), x, retain_graph=True)[0] for k in (0, 1)]
    for k, slope in enumerate(slopes):
        expected = torch.autograd.grad(victim.model(x)[:, k].sum(), x)[0]
        assert torch.allclose(slope, expected, atol=1e-5)
        assert expected.abs().max() > 0.1


@pytest.mark.parametrize(("free", "fits"), [(10_000, 16), (1_000, 4), (0, 3), (-2_400, 1)])
def test_what_fits_is_reckoned_from_a_pass_of_two(
    victim: Victim, monkeypatch: pytest.MonkeyPatch, free: int, fits: int
) -> None:
    """Two images take 1,200 bytes beside the 5,000 of the model; 2,500 more are torch's own to give."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 99_999))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 5_000)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 7_500)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 6_200)
    monkeypatch.setattr(passes, "_least", None)
    model, images = copy.deepcopy(victim.model), victim.images[:20].clone().requires_grad_()
    whole = torch.autograd.grad(model(images).sum(), images)[0]
    seen: list[torch.Tensor] = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))

    def gradients(parts: list[slice]) -> torch.Tensor:
        return torch.cat([torch.autograd.grad(model(images[p]).sum(), images)[0][p] for p in parts])

    for trials in ([2, 2], []):  # it is remembered
        assert torch.allclose(passes.in_parts(model, 20, 64, gradients), whole, atol=1e-5)
        assert [len(output) for output in seen] == trials + [fits] * (20 // fits) + [20 % fits] * (20 % fits > 0)
        seen.clear()
    assert passes.least() == fits
    with torch.no_grad():  # which takes less
        passes.in_parts(model, 20, 64, lambda parts: [model(images[p]) for p in parts])
    assert [len(output) for output in seen][:3] == [2, 2, fits]


def test_where_two_images_do_not_fit_one_is_tried(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    cramped = Cramped(victim.model, 1)
    found = passes.in_parts(cramped, 3, 3, lambda parts: [cramped(victim.images[part]) for part in parts])
    assert torch.allclose(torch.cat(found), victim.model(victim.images[:3]), atol=1e-5)
    assert cramped.refused == [2]


RAW: list[tuple[str, dict[str, Any], int]] = [
    ("FastGradientMethod", {}, 1),
    ("ProjectedGradientDescent", {"eps_step": 0.02, "max_iter": 7, "num_random_init": 1}, 7),
    ("MomentumIterativeMethod", {"eps_step": 0.02, "max_iter": 7}, 7),
    ("NIFGSM", {"max_iter": 7}, 7),
]


@pytest.mark.parametrize(("method", "options", "steps"), RAW)
def test_each_step_is_one_pass_and_there_are_no_others(
    victim: Victim, method: str, options: dict[str, Any], steps: int
) -> None:
    """ART's PGD would spend two more of every image on a log line."""
    seen: list[int] = []
    with victim.model[0].register_forward_hook(lambda *a: seen.append(len(a[-1]))):
        victim.attacked(method, eps=0.1, **options)
    assert seen == [120] * steps
