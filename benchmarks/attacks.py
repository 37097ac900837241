"""What each attack costs, against the passes it makes and against its peers: python benchmarks/attacks.py [vit_base]

The floor of an attack is the forward and backward passes that it made, counted in images, at the price that
plain torch pays for them in the same batches. For FGSM, PGD and MI-FGSM it is a forward and backward pass a step, no
more, timed just before and after each run: the same images in the same batches and type through the same module, with
the mean cross-entropy's gradient by torch's own functions. Between numpy and torch nothing is converted in the floor;
in the attacks it is. Overhead is CPU time over the floor; speed is images per CPU second.
Success and L2 (median over the fooled) tell whether two attacks of one name do the same.

The model is the embedded study's, trained on digits: six minutes; or, with ``vit_base``, ViT-B/32 trained on digits
enlarged to 224 pixels, and images that it gets right. On a core with instructions for bfloat16 its training takes
seven minutes, once, and 8 images half an hour, with ``--quick`` half as long: most of that is stock ART's.
``--only DeepFool C&W`` runs the attacks whose names begin so.
"""

from __future__ import annotations

import argparse
import inspect
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

os.environ.setdefault("TIMM_FUSED_ATTN", "0")  # a quarter faster for input gradients on a CPU

import foolbox
import timm
import torch
import torchattacks
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from advmerge.attacks.bridge import craft
from advmerge.attacks.counting import Counted

BATCH, EPS = 128, 8 / 255


def digits(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Enlarged digits on the 8-bit grid, [1797, 1, side, side], and labels; a model is fitted to the first 1500."""
    data, target = load_digits(return_X_y=True)
    images = functional.interpolate(torch.tensor(data / 16).float().reshape(-1, 1, 8, 8), (side, side), mode="bilinear")
    return (images * 255).round() / 255, torch.tensor(target)


def fit(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    epochs: int,
    batch: int,
    rate: float,
    large: bool = False,
) -> None:
    """Train by AdamW; a large model in bfloat16, and at a rate that first rises to ``rate`` and then falls."""
    optimiser = torch.optim.AdamW(model.parameters(), rate)
    steps = epochs * -(-len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.2) if large else None
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(batch):
            with torch.autocast("cpu", torch.bfloat16, enabled=large):
                loss = functional.cross_entropy(model(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if schedule:
                schedule.step()


def small() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small vision transformer, 28 x 28 images that it has not seen, and their labels."""
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=28,
        patch_size=7,
        in_chans=1,
        embed_dim=64,
        depth=4,
        num_heads=2,
        mlp_ratio=2,
        class_token=False,
        global_pool="avg",
        num_classes=10,
    )
    images, labels = digits(28)
    fit(model, images[:1500], labels[:1500], epochs=12, batch=64, rate=1e-3)
    return model, images[1500:], labels[1500:]


def vit_base() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """ViT-B/32 at 224 pixels, colour images that it has not seen, and their labels.

    Its weights are kept in the folder for temporary files, under a name that tells this recipe and torch's version.
    """
    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch32_224", num_classes=10)
    images, labels = digits(224)
    images = images.expand(-1, 3, -1, -1)
    recipe = "".join(map(inspect.getsource, (vit_base, fit, digits))) + torch.__version__ + timm.__version__
    kept = Path(tempfile.gettempdir()) / f"advmerge-vit_base-{sha256(recipe.encode()).hexdigest()[:12]}.safetensors"
    if kept.exists():
        model.load_state_dict(load_file(kept))
        return model, images[1500:], labels[1500:]
    fit(model, images[:1500], labels[:1500], epochs=3, batch=32, rate=2e-4, large=True)
    save_file(model.state_dict(), kept)
    return model, images[1500:], labels[1500:]


def cpu_seconds(work: Callable[[], object], times: int = 1) -> float:
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", choices=["embedded", "vit_base"], default="embedded")
    parser.add_argument("--images", type=int, help="256 of the embedded model, 8 of ViT-B/32")
    parser.add_argument("--quick", action="store_true", help="an eighth of the images, or half of those of ViT-B/32")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="attacks whose names begin so")
    args = parser.parse_args()
    torch.set_num_threads(1)
    large = args.model == "vit_base"
    count = args.images or ((4 if large else 32) if args.quick else (8 if large else 256))
    network, images, labels = vit_base() if large else small()
    model = Counted(network.eval().requires_grad_(False)).eval()
    if large:  # a wrong image costs an attack nothing, or as much as it is let
        right = torch.cat([model(part).argmax(1) for part in images[: 2 * count].split(32)]) == labels[: 2 * count]
        images, labels = images[: 2 * count][right], labels[: 2 * count][right]
    images, labels = images[:count], labels[:count]
    some = images[:BATCH]
    times = 1 if large else 5

    def raw(x: torch.Tensor, y: torch.Tensor) -> None:
        for part, its in zip(x.split(BATCH), y.split(BATCH), strict=True):
            part = part.clone().requires_grad_()
            torch.autograd.grad(functional.cross_entropy(model.model(part), its), part)

    with torch.no_grad():
        forward = min(cpu_seconds(lambda: model(some), times) for _ in range(3)) / len(some)
    both = min(cpu_seconds(lambda: raw(some, labels[:BATCH]), times) for _ in range(3)) / len(some)
    print(f"forward {1 / forward:.3g} images/s, forward and backward {1 / both:.3g} images/s\n")
    print("| attack | by | images/s | passes/image | overhead | success | median L2 |")
    print("|---|---|---|---|---|---|---|")
    speeds: dict[str, dict[str, float]] = {}
    made: dict[str, dict[str, int]] = {}

    def row(
        name: str,
        by: str,
        count: int,
        attack: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        steps: int | None = None,
    ) -> None:
        if not name.startswith(tuple(args.only)):
            return
        x, y = images[:count], labels[:count]
        model.forwards = model.backwards = 0
        result: list[torch.Tensor] = []
        seconds = cpu_seconds(lambda: result.append(attack(x, y)))
        passes = f"{model.forwards / count:.0f}f {model.backwards / count:.0f}b"
        made.setdefault(name, {})[by] = model.forwards + model.backwards
        floor = model.forwards * forward + model.backwards * (both - forward)
        overhead = f"{seconds / floor:.2f}" if floor else ""
        if steps:
            ratios = []
            for _ in range(times):
                before = cpu_seconds(lambda: raw(x, y), steps)
                seconds = cpu_seconds(lambda: attack(x, y))
                after = cpu_seconds(lambda: raw(x, y), steps)
                ratios.append(2 * seconds / (before + after) / steps)
            overhead = f"{statistics.median(ratios):.2f}"
        speeds.setdefault(name, {})[by] = count / seconds
        with torch.no_grad():
            right = model(x).argmax(1) == y
            fooled = (model(result[0]).argmax(1) != y) & right
        size = (result[0] - x)[fooled].flatten(1).norm(dim=1).median() if fooled.any() else torch.nan
        print(
            f"| {name} | {by} | {count / seconds:.3g} | {passes} | {overhead} "
            f"| {fooled.sum() / right.sum():.2f} | {size:.3f} |",
            flush=True,
        )

    def through_bridge(method: str, batch_size: int = BATCH, **options: object) -> Callable[..., torch.Tensor]:
        return lambda x, y: craft(model, x, y, method, options, seed=(0, method), classes=10, batch_size=batch_size)

    def in_batches(
        attack: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> Callable[..., torch.Tensor]:
        return lambda x, y: torch.cat([attack(*part) for part in zip(x.split(BATCH), y.split(BATCH), strict=True)])

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")

    def with_foolbox(attack: foolbox.attacks.base.Attack, eps: float | None = None) -> Callable[..., torch.Tensor]:
        return in_batches(lambda x, y: attack(wrapped, x, y, epsilons=eps)[1])

    step, steps, peers = EPS / 4, 10, torchattacks
    every = len(images)
    row("noise", "ours", every, through_bridge("UniformNoise", eps=EPS))
    row("FGSM", "ART", every, through_bridge("FastGradientMethod", eps=EPS), 1)
    row("FGSM", "torchattacks", every, in_batches(peers.FGSM(model, eps=EPS)), 1)
    row("FGSM", "foolbox", every, with_foolbox(foolbox.attacks.LinfFastGradientAttack(), EPS), 1)
    ball = {"eps": EPS, "eps_step": step, "max_iter": steps}
    row("PGD-10", "ART", every, through_bridge("ProjectedGradientDescent", **ball), steps)
    row("PGD-10", "torchattacks", every, in_batches(peers.PGD(model, EPS, step, steps, random_start=False)), steps)
    linf = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=steps, random_start=False)
    row("PGD-10", "foolbox", every, with_foolbox(linf, EPS), steps)
    row("MI-FGSM-10", "ART", every, through_bridge("MomentumIterativeMethod", **ball), steps)
    row("MI-FGSM-10", "torchattacks", every, in_batches(peers.MIFGSM(model, EPS, step, steps, decay=1.0)), steps)
    if large:
        row("DeepFool-50", "ours", every, through_bridge("BatchedDeepFool"))
        row("DeepFool-50", "foolbox", every, with_foolbox(foolbox.attacks.L2DeepFoolAttack(steps=50, candidates=10)))
        row("DeepFool-50", "torchattacks", min(2, every), peers.DeepFool(model, steps=50))
        row("DeepFool-50", "ART", every, through_bridge("DeepFool", max_iter=50, epsilon=0.02))
        few = {"binary_search_steps": 2, "max_iter": 15, "initial_const": 1}
        fewer = {"binary_search_steps": 1, "max_iter": 10, "initial_const": 1}
        row("C&W 2 x 15", "ours, 1 x 10", every, through_bridge("BatchedCarliniL2", **fewer, halvings=6))
        row("C&W 2 x 15", "ours", every, through_bridge("BatchedCarliniL2", **few, halvings=10))
        carlini = foolbox.attacks.L2CarliniWagnerAttack(2, 15, stepsize=0.05, initial_const=1)
        row("C&W 2 x 15", "foolbox", every, with_foolbox(carlini))
        row("C&W 2 x 15", "torchattacks", every, in_batches(peers.CW(model, c=1, steps=30, lr=0.05)))
        row("C&W 2 x 15", "ART", every, through_bridge("CarliniL2Method", learning_rate=0.05, **few))
    else:
        the_rest(row, through_bridge, in_batches, with_foolbox, model, every, ball)
    for name, by in speeds.items():
        for ours in sorted(by.keys() & {"ours", "ours, 1 x 10"}) if "ART" in by else ():
            fewer = made[name]["ART"] / made[name][ours]
            print(
                f"\n{name}, {ours}: {by[ours] / by['ART']:.1f} times as fast as stock ART, "
                f"which makes {fewer:.1f} times the passes"
            )


def the_rest(
    row: Callable[..., None],
    through_bridge: Callable[..., Any],
    in_batches: Callable[..., Any],
    with_foolbox: Callable[..., Any],
    model: Counted,
    every: int,
    ball: dict[str, Any],
) -> None:
    """The attacks that take too long for a large model."""
    peers = torchattacks
    step, steps = ball["eps_step"], ball["max_iter"]
    row("APGD-10", "ours", every, through_bridge("BatchedAutoPGD", eps=EPS, max_iter=steps))
    row("APGD-10", "torchattacks", every, in_batches(peers.APGD(model, eps=EPS, steps=steps)))
    row(
        "APGD-10",
        "ART",
        every,
        through_bridge("AutoProjectedGradientDescent", eps=EPS, eps_step=2 * EPS, max_iter=steps, nb_random_init=1),
    )
    row("DeepFool-50", "ours", every, through_bridge("BatchedDeepFool"))
    row("DeepFool-50", "foolbox", every, with_foolbox(foolbox.attacks.L2DeepFoolAttack(steps=50, candidates=10)))
    row("DeepFool-50", "torchattacks", min(64, every), peers.DeepFool(model, steps=50))
    row("DeepFool-50", "ART", every, through_bridge("DeepFool", max_iter=50, epsilon=0.02))
    few = {"binary_search_steps": 3, "max_iter": 20, "initial_const": 0.1}
    row("C&W 3 x 20", "ours", every, through_bridge("BatchedCarliniL2", **few))
    row("C&W 4 x 30", "ours", every, through_bridge("BatchedCarliniL2"))
    for search, inner in ((3, 20), (4, 30)):
        carlini = foolbox.attacks.L2CarliniWagnerAttack(search, inner, stepsize=0.05, initial_const=0.1)
        row(f"C&W {search} x {inner}", "foolbox", every, with_foolbox(carlini))
    row("C&W 1 x 60", "torchattacks", every, in_batches(peers.CW(model, c=1, steps=60, lr=0.05)))
    row("C&W 3 x 20", "ART", every, through_bridge("CarliniL2Method", learning_rate=0.05, **few))

    row("NI-FGSM-10", "ours", every, through_bridge("NIFGSM", **ball))
    row("NI-FGSM-10", "torchattacks", every, in_batches(peers.NIFGSM(model, EPS, step, steps, decay=1.0)))
    row("DI-FGSM-10", "ours", every, through_bridge("DIFGSM", **ball))
    row("DI-FGSM-10", "torchattacks", every, in_batches(peers.DIFGSM(model, EPS, step, steps, decay=1.0)))
    row("TI-FGSM-10", "ours", every, through_bridge("TIFGSM", **ball, kernel_size=5))
    row("SI-FGSM-10 x 5", "ours", every, through_bridge("SIFGSM", **ball))
    row("SI-NI-FGSM-10 x 5", "ours", every, through_bridge("IterativeFGSM", **ball, nesterov=True, scales=5))
    row("SI-NI-FGSM-10 x 5", "torchattacks", every, in_batches(peers.SINIFGSM(model, EPS, step, steps, m=5)))
    row("VMI-FGSM-10 x 5", "ours", every, through_bridge("VMIFGSM", **ball, neighbours=5))
    row("VMI-FGSM-10 x 5", "torchattacks", every, in_batches(peers.VMIFGSM(model, EPS, step, steps, N=5)))
    row("Admix-10 x 15", "ours", every, through_bridge("Admix", **ball))
    row("PGN-10 x 5", "ours", every, through_bridge("PGN", **ball, neighbours=5))
    row("PNA-PatchOut-10", "ours", every, through_bridge("PNAPatchOut", **ball))
    row("TGR-10", "ours", every, through_bridge("TGR", **ball))
    row("universal-50", "ours", every, through_bridge("BatchedUniversal", eps=EPS))
    row("APGD-T 9 x 20", "ours", every, through_bridge("AutoPGDTargeted", eps=EPS, max_iter=20))
    row("APGD-T 9 x 20", "torchattacks", every, in_batches(peers.APGDT(model, eps=EPS, steps=20)))
    row("FAB-T 9 x 10", "ours", every, through_bridge("FastAdaptiveBoundary", max_iter=10))
    fab = peers.FAB(model, eps=1, steps=10, multi_targeted=False)
    row("FAB, untargeted, 10", "torchattacks", every, in_batches(fab))
    row("C&W Linf 8 x 30", "ours", every, through_bridge("BatchedCarliniLInf"))
    row("Square-200", "ours", every, through_bridge("BatchedSquare", eps=EPS, max_iter=200))
    row("Square-200", "torchattacks", every, in_batches(peers.Square(model, eps=EPS, n_queries=200)))
    row("Square-200", "ART", every, through_bridge("SquareAttack", eps=EPS, max_iter=200))
    standard = through_bridge("StandardAutoAttack", eps=EPS, max_iter=20, queries=200)
    row("AutoAttack, 20 steps, 200 queries", "ours", every, standard)


if __name__ == "__main__":
    main()
