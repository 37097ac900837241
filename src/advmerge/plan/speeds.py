"""How fast passes are: of a GPU as its maker states it, or of this machine as it is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from advmerge.hardware import choose
from advmerge.models import Normalise, build_encoder
from advmerge.plan.networks import Network, Work
from advmerge.study import Study

SECONDS = 0.5  # that each kind of pass is measured
FEW = 8  # images at least of a batch that is learnt from: gradients of the weights are written once for all of them
UTILISATION = 0.3  # of a device's peak that the passes of a study make


class Speeds(NamedTuple):
    """What one job gets out of the machine, and how many run at once.

    Attributes:
        flops: FLOP/s of a forward pass, a backward pass to the pixels, and one to the weights with its Adam step.
        at_once: jobs.
        disk: bytes a second.
        start: seconds that a job takes before and after its work.
    """

    flops: Work
    at_once: int
    disk: float
    start: float = 0.3

    def seconds(self, network: Network, work: Work) -> float:
        """Of some work of one network."""
        return sum(
            images * flops / speed
            for images, flops, speed in zip(work, network.flops, self.flops, strict=True)
            if images
        )


def stated(tflops: float, utilisation: float) -> Work:
    """FLOP/s of a device that makes so many at its peak, and of these a share in the study's passes."""
    return Work(*[tflops * 1e12 * utilisation] * 3)


@contextmanager
def _one_thread() -> Iterator[None]:
    """As jobs have it; two that wait for each other on a busy machine say nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
def measured(study: Study, network: Network) -> Work:
    """FLOP/s of the study's own backbone on the device that it asks for: seconds, in batches of the study or of what takes one."""
    place = choose(study.hardware.device)
    backbone = study.backbone.model_dump()
    model = nn.Sequential(Normalise.of(backbone), build_encoder(backbone)).eval().to(place)
    shape = study.data_slice(next(iter(study.tasks)))["shape"]

    def forward(images: torch.Tensor) -> None:
        with torch.inference_mode():
            model(images)

    def pixels(images: torch.Tensor) -> None:
        images = images.requires_grad_()
        torch.autograd.grad(model(images).sum(), images)

    one = torch.rand(1, *shape, device=place)
    forward(one)  # the first pass pays for what later ones have
    count = max(1, min(study.evaluation.batch_size, int(SECONDS / 3 / _seconds(lambda: forward(one), place, 0))))
    images = torch.rand(count, *shape, device=place)
    model.requires_grad_(False)
    ahead = _seconds(lambda: forward(images), place, SECONDS) / count
    back = _seconds(lambda: pixels(images), place, SECONDS) / count
    model.requires_grad_(True).train()
    several = max(count, min(FEW, study.finetune.batch))
    learn, step = _training(model, torch.rand(several, *shape, device=place))
    trained = _seconds(learn, place, SECONDS) / several + _seconds(step, place, SECONDS) / study.finetune.batch
    spent = Work(ahead, max(back - ahead, ahead / 4), max(trained - ahead, ahead / 4))
    return Work(*(flops / seconds for flops, seconds in zip(network.flops, spent, strict=True)))


def _training(model: nn.Module, images: torch.Tensor) -> tuple[Callable[[], None], Callable[[], None]]:
    """A step of training, as :mod:`advmerge.training` makes it: what it costs by image, and what by batch."""
    parameters = list(model.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=1e-9, fused=True)
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def learn() -> None:
        optimiser.zero_grad(set_to_none=True)
        functional.cross_entropy(model(images), labels).backward()

    def step() -> None:
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()

    return learn, step


def _seconds(work: Callable[[], None], place: torch.device, least: float) -> float:
    """Of CPU time that one call takes, on a GPU of the clock's; over as many calls as ``least`` seconds hold."""
    clock = time.perf_counter if place.type == "cuda" else time.process_time
    start, calls = clock(), 0
    while not calls or clock() - start < least:
        work()
        calls += 1
        if place.type == "cuda":
            torch.cuda.synchronize(place)
    return max((clock() - start) / calls, 1e-9)
