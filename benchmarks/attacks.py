"""What each attack costs, against the passes it makes and against its peers: python benchmarks/attacks.py [vit_base]

The floor of an attack is the forward and backward passes that it made, counted in images, at the price that
plain torch pays for them in the same batches. For FGSM, PGD and MI-FGSM it is a forward and backward pass a step, no
more, timed just before and after each run: the same images in the same batches and type through the same module, with
the mean cross-entropy's gradient by torch's own functions. Between numpy and torch nothing is converted in the floor;
in the attacks it is. Overhead is CPU time over the floor; speed is images per CPU second.
Success and L2 (median over the fooled) tell whether two attacks of one name do the same.

The model is the embedded study's, trained on digits: six minutes; or, with ``vit_base``, ViT-B/32 at 224 pixels, whose
weights are random but for a head fitted to its features of enlarged digits: a quarter of an hour for 8 images, three
minutes with ``--quick``. ``--only DeepFool C&W`` runs the attacks whose names begin so.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TIMM_FUSED_ATTN", "0")  # a quarter faster for input gradients on a CPU

import foolbox
import timm
import torch
import torchattacks
from sklearn.datasets import load_digits
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional

from advmerge.attacks.bridge import craft
from advmerge.attacks.counting import Counted

BATCH, EPS = 128, 8 / 255


def trained() -> tuple[Counted, torch.Tensor, torch.Tensor]:
    """A small vision transformer, 28 x 28 images it has not seen, and their labels."""
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
    data, target = load_digits(return_X_y=True)
    images = functional.interpolate(torch.tensor(data / 16).float().reshape(-1, 1, 8, 8), (28, 28), mode="bilinear")
    images, labels = (images * 255).round() / 255, torch.tensor(target)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(12):
        for rows in torch.randperm(1500).split(64):
            loss = functional.cross_entropy(model(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.eval().requires_grad_(False)
    return Counted(model).eval(), images[1500:1756], labels[1500:1756]


def cpu_seconds(work: Callable[[], object], times: int = 1) -> float:
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times


def probed(count: int) -> tuple[Counted, torch.Tensor, torch.Tensor]:
    """ViT-B/32 with random weights but for its head, by ridge regression; enlarged digits it was not fitted to, and labels.

    It gets nine digits in ten right; those it gets wrong are left out.
    """
    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch32_224", num_classes=10).eval().requires_grad_(False)
    data, target = load_digits(return_X_y=True)
    fitted = 300
    digits = torch.tensor(data[: fitted + 2 * count] / 16).float().reshape(-1, 1, 8, 8)
    labels = torch.tensor(target[: len(digits)])
    images = functional.interpolate(digits, (224, 224), mode="bilinear").expand(-1, 3, -1, -1)
    images = (images * 255).round() / 255
    with torch.no_grad():
        parts = [model.forward_head(model.forward_features(part), pre_logits=True) for part in images.split(50)]
        features = torch.cat(parts)
        mean = features[:fitted].mean(0)
        centred = features[:fitted] - mean
        ridge = 1e-3 * fitted * centred.var(0).mean() * torch.eye(len(mean))
        goals = functional.one_hot(labels[:fitted], 10).float() - 0.1
        weight = 10 * torch.linalg.solve(centred.T @ centred + ridge, centred.T @ goals)  # 10: logits some units apart
        model.head.weight.copy_(weight.T)
        model.head.bias.copy_(-mean @ weight)
        right = (model.head(features[fitted:]).argmax(1) == labels[fitted:]).nonzero()[:count, 0] + fitted
    return Counted(model).eval(), images[right], labels[right]


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
    model, images, labels = probed(count) if large else trained()
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
        row("DeepFool-50", "ART", every, through_bridge("DeepFool", max_iter=50, epsilon=0.02))
        few = {"binary_search_steps": 2, "max_iter": 15, "initial_const": 1}
        row("C&W 2 x 15", "ours", every, through_bridge("BatchedCarliniL2", **few, halvings=10))
        carlini = foolbox.attacks.L2CarliniWagnerAttack(2, 15, stepsize=0.05, initial_const=1)
        row("C&W 2 x 15", "foolbox", every, with_foolbox(carlini))
        row("C&W 2 x 15", "ART", every, through_bridge("CarliniL2Method", learning_rate=0.05, **few))
    else:
        the_rest(row, through_bridge, in_batches, with_foolbox, model, every, ball)
    for name, by in speeds.items():
        if {"ours", "ART"} <= by.keys():
            fewer = made[name]["ART"] / made[name]["ours"]
            print(
                f"\n{name}: {by['ours'] / by['ART']:.1f} times as fast as stock ART, which makes {fewer:.1f} times the passes"
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
