"""What precision, memory layout and compilation do to a model.

    python benchmarks/precision.py [MODEL…]
    python benchmarks/precision.py --answers [FOLDER]

Models: ``embedded`` (the embedded study's, batches of 128), ``vit`` (ViT-B/32) and ``conv`` (ResNet-50, of as many
operations), both at 224 pixels with random weights, in batches of 8. For each: a forward pass (evaluation), a pass
and its gradient for the images (a step of an attack), and one for the parameters (a step of training); each in
float32, in float32 with ``channels_last``, compiled by ``torch.compile``, and under autocast to bfloat16: plain, with the
images alone in ``channels_last`` (as jobs do it), and with the weights too. On CUDA if there
is one, else on one thread of the CPU. Times are the best of three in turn, those of eager float32 over the rest: above 1 is faster.
Compilation is timed apart, since a job pays it at its start.

``--answers`` asks the models of a finished embedded study, whose results lie in the folder (here unless named), again in bfloat16:
of the examples that fool the surrogate that they were crafted on, how many still do; how far transfer ASR to the targets moves, at
most over surrogates and targets, all tasks together; and how many of the targets' answers change. Two minutes.
"""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TIMM_FUSED_ATTN", "0")  # as the study's jobs do

import timm
import torch
from torch import nn
from torch.nn import functional

from advmerge.artifacts import load_tensors
from advmerge.models import answering, predict
from advmerge.study import load

SMALL = {"img_size": 28, "patch_size": 7, "in_chans": 1, "embed_dim": 64, "depth": 4, "num_heads": 2, "mlp_ratio": 2.0}
MODELS = {
    "embedded": ("vit_tiny_patch16_224", {**SMALL, "class_token": False, "global_pool": "avg"}, (128, 1, 28, 28)),
    "vit": ("vit_base_patch32_224", {}, (8, 3, 224, 224)),
    "conv": ("resnet50", {}, (8, 3, 224, 224)),
}
ROUNDS = 3
PLACE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def forward(model: nn.Module, images: torch.Tensor) -> None:
    with torch.inference_mode():
        model(images)


def images_gradient(model: nn.Module, images: torch.Tensor) -> None:
    model.requires_grad_(False)
    x = images.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    torch.autograd.grad(
        functional.cross_entropy(model(x).float(), torch.zeros(len(x), dtype=torch.long, device=x.device)), x
    )


def parameters_gradient(model: nn.Module, images: torch.Tensor) -> None:
    model.requires_grad_(True)
    functional.cross_entropy(
        model(images).float(), torch.zeros(len(images), dtype=torch.long, device=images.device)
    ).backward()
    model.zero_grad(set_to_none=True)


def seconds(work: Callable[[], None]) -> float:
    """Of one call: on the CPU those that it had, so that other programs count little."""
    if PLACE.type == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def variants(name: str) -> dict[str, tuple[nn.Module, torch.Tensor, torch.dtype]]:
    """Variant → the model, its images, and the type of its multiplications."""
    timm_name, options, shape = MODELS[name]
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(PLACE)

    def made() -> nn.Module:
        torch.manual_seed(0)
        return timm.create_model(timm_name, num_classes=10, **options).eval().to(PLACE)

    last = torch.channels_last
    return {
        "float32": (made(), images, torch.float32),
        "channels_last": (made().to(memory_format=last), images.to(memory_format=last), torch.float32),
        "compiled": (torch.compile(made()), images, torch.float32),
        "bfloat16": (made(), images, torch.bfloat16),
        "bfloat16, images last": (made(), images.to(memory_format=last), torch.bfloat16),
        "bfloat16, channels_last": (made().to(memory_format=last), images.to(memory_format=last), torch.bfloat16),
    }


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    kind = torch.cuda.get_device_name() if PLACE.type == "cuda" else f"cpu, {torch.backends.cpu.get_cpu_capability()}"
    print(f"{kind}, torch {torch.__version__}\n")
    print(f"{'model':10}{'pass':22}{'variant':26}{'ms':>9}{'speed-up':>10}{'first s':>9}")
    for name in names:
        held = variants(name)
        for work in (forward, images_gradient, parameters_gradient):

            def once(variant: str, work: Callable[..., None] = work, held: dict = held) -> float:
                model, images, dtype = held[variant]
                with torch.autocast(PLACE.type, torch.bfloat16, enabled=dtype != torch.float32):
                    return seconds(lambda: work(model, images))

            first = {variant: once(variant) for variant in held}
            taken = {
                variant: min(t)
                for variant, t in zip(
                    held, zip(*([once(v) for v in held] for _ in range(ROUNDS)), strict=True), strict=True
                )
            }
            for variant, best in taken.items():
                print(
                    f"{name:10}{work.__name__:22}{variant:26}{1000 * best:9.1f}"
                    f"{taken['float32'] / best:10.2f}{first[variant]:9.1f}",
                    flush=True,
                )


def answers(root: Path) -> None:
    torch.set_num_threads(1)
    study, precisions = load("params.yaml"), (torch.float32, torch.bfloat16)
    images = study.evaluation.images
    counts: dict[tuple[str, str, str], torch.Tensor] = defaultdict(lambda: torch.zeros(6, dtype=torch.int64))
    for task in study.tasks:
        data, _ = load_tensors(root / f"{study.results}/data/{task}.safetensors")
        clean, labels = data["attack_images"][:images], data["attack_labels"][:images]
        sets = {
            (cell, name): load_tensors(root / f"{study.results}/adversarial/{task}/{name}/{cell}.safetensors")[0]
            for cell in study.cells()
            for name in study.surrogates
            if study.attacked_by(name, cell)
        }
        for model in (*study.targets, *study.surrogates):
            paths = {model: root / study.model(model, task)}, {model: root / study.head_of(model, task)}
            models = [answering(task, *paths, dtype=dtype) for dtype in precisions]
            right = [predict(each, clean, 128).argmax(1) == labels for each in models]
            for (cell, name), crafted in sets.items():
                if model in study.surrogates and model != name:
                    continue
                said = [predict(each, crafted["images"], 128).argmax(1) for each in models]
                held = crafted["clean_prediction"] == labels
                both = [held & good for good in right]
                fooled = [kept & (answer != labels) for kept, answer in zip(both, said, strict=True)]
                still, moved = fooled[0] & fooled[1], said[0] != said[1]
                counts[cell, name, model] += torch.stack([one.sum() for one in (*both, *fooled, still, moved)])
    print(f"{'attack':<16}{'still fool':>12}{'transfer ASR':>14}{'answers':>9}")
    for cell in study.cells():
        own = [found for (attack, name, model), found in counts.items() if attack == cell and model == name]
        others = [found for (attack, name, model), found in counts.items() if attack == cell and model in study.targets]
        kept = [float(found[4] / found[2]) for found in own]
        rates = [float((found[3] / found[1] - found[2] / found[0]).abs()) for found in others]
        changed = sum(int(found[5]) for found in others) / (len(others) * images * len(study.tasks))
        print(f"{cell:<16}{min(kept):>6.3f}{max(kept):>6.3f}{max(rates):>14.4f}{changed:>9.4f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--answers"]:
        answers(Path(*sys.argv[2:3]))
    else:
        main(sys.argv[1:] or list(MODELS))
