"""The momentum family's parts in any combination, such as SI-NI-TI-DI-FGSM and VMI-CT-FGSM."""

from __future__ import annotations

from typing import ClassVar

import torch
from art.estimators.classification import PyTorchClassifier

from advmerge.attacks.admix import admixed
from advmerge.attacks.ascent import ASCENT, ascend, check_ascent, loss_gradient
from advmerge.attacks.base import TorchAttack, whole
from advmerge.attacks.di_fgsm import check_diversity, diverse
from advmerge.attacks.si_fgsm import scaled
from advmerge.attacks.ti_fgsm import check_kernel, smoothed
from advmerge.attacks.vmi_fgsm import variance_tuned


class IterativeFGSM(TorchAttack):
    """MI-FGSM (Dong et al. 2018) and what its successors add to it, each off unless asked for.

    With one option on, it is the attack of that name: see :class:`NIFGSM`, :class:`DIFGSM`, :class:`TIFGSM`,
    :class:`SIFGSM`, :class:`Admix` (mixes 3, scales 5) and :class:`VMIFGSM`. Each gradient, also at neighbours, is
    taken through mixtures, their scaled copies and random views of those; the smoothing comes last.

    Args:
        eps: radius of the L-infinity ball, in [0, 1] pixels.
        eps_step: length of a step; ``eps / max_iter`` if not given.
        max_iter: steps.
        decay: of the momentum.
        nesterov: take the gradient ahead of the iterate.
        diversity: probability that a gradient sees a random view.
        resize: least side of the view, as a share of the image's.
        kernel_size: side of the Gaussian that smooths gradients, in pixels, odd.
        scales: copies of the image with ever less light.
        mixes: other images, a fifth of which is mixed in.
        neighbours: points within 1.5 eps that tune the gradient.
    """

    attack_params: ClassVar[list[str]] = [
        *TorchAttack.attack_params,
        *ASCENT,
        "nesterov",
        "diversity",
        "resize",
        "kernel_size",
        "scales",
        "mixes",
        "neighbours",
    ]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        eps: float,
        eps_step: float | None = None,
        max_iter: int = 10,
        decay: float = 1.0,
        nesterov: bool = False,
        diversity: float = 0.0,
        resize: float = 0.9,
        kernel_size: int = 1,
        scales: int = 1,
        mixes: int = 0,
        neighbours: int = 0,
        batch_size: int = 128,
    ) -> None:
        super().__init__(estimator, batch_size)
        self.eps = eps
        self.eps_step = eps_step
        self.max_iter = max_iter
        self.decay = decay
        self.nesterov = nesterov
        self.diversity = diversity
        self.resize = resize
        self.kernel_size = kernel_size
        self.scales = scales
        self.mixes = mixes
        self.neighbours = neighbours
        self._check_params()

    def _check_params(self) -> None:
        check_ascent(self.eps, self.eps_step, self.max_iter, self.decay)
        check_diversity(self.diversity, self.resize)
        check_kernel(self.kernel_size)
        whole("scales", self.scales)
        whole("mixes", self.mixes, least=0)
        whole("neighbours", self.neighbours, least=0)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        model = diverse(self.model, self.diversity, self.resize) if self.diversity else self.model
        gradient = loss_gradient(model)
        if self.scales > 1:
            gradient = scaled(gradient, self.scales)
        if self.mixes:
            gradient = admixed(gradient, self.mixes, portion=0.2)
        if self.neighbours:
            gradient = variance_tuned(gradient, 1.5 * self.eps, self.neighbours)
        if self.kernel_size > 1:
            gradient = smoothed(gradient, self.kernel_size)
        return ascend(
            images,
            labels,
            gradient,
            eps=self.eps,
            eps_step=self.eps_step,
            max_iter=self.max_iter,
            decay=self.decay,
            nesterov=self.nesterov,
        )
