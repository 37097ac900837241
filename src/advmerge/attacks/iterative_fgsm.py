"""The momentum family's parts in any combination, such as SI-NI-TI-DI-FGSM and VMI-CT-FGSM."""

from __future__ import annotations

import torch

from advmerge.attacks.admix import admixed
from advmerge.attacks.ascent import Gradient, MomentumAttack, loss_gradient
from advmerge.attacks.base import fraction, whole
from advmerge.attacks.di_fgsm import diverse
from advmerge.attacks.ni_fgsm import ahead
from advmerge.attacks.si_fgsm import scaled
from advmerge.attacks.ti_fgsm import check_kernel, smoothed
from advmerge.attacks.vmi_fgsm import variance_tuned


class IterativeFGSM(MomentumAttack):
    """MI-FGSM (Dong et al. 2018) and what its successors add to it, each off unless asked for.

    With one option on, it is the attack of that name: see :class:`NIFGSM`, :class:`DIFGSM`, :class:`TIFGSM`,
    :class:`SIFGSM`, :class:`Admix` (mixes 3, scales 5) and :class:`VMIFGSM`. SI-NI-TI-DI-FGSM is ``nesterov: true,
    diversity: 0.5, kernel_size: 7, scales: 5``. Each gradient, also at neighbours, is taken through mixtures, their
    scaled copies and random views of those; the smoothing comes last.

    Args:
        nesterov: take the gradient ahead of the iterate.
        diversity: probability that a gradient sees a random view.
        resize: least side of the view, as a share of the image's.
        kernel_size: side of the Gaussian that smooths gradients, in pixels, odd.
        scales: copies of the image with ever less light.
        mixes: other images, a fifth of which is mixed in.
        neighbours: points within 1.5 eps that tune the gradient.
    """

    nesterov: bool = False
    diversity: float = 0.0
    resize: float = 0.9
    kernel_size: int = 1
    scales: int = 1
    mixes: int = 0
    neighbours: int = 0

    def _check_params(self) -> None:
        super()._check_params()
        fraction("diversity", self.diversity, inclusive=True)
        fraction("resize", self.resize)
        check_kernel(self.kernel_size)
        whole("scales", self.scales)
        whole("mixes", self.mixes, least=0)
        whole("neighbours", self.neighbours, least=0)

    def where(self, x: torch.Tensor, momentum: torch.Tensor) -> torch.Tensor:
        return ahead(x, momentum, self.step * self.decay) if self.nesterov else x

    def gradient(self, images: torch.Tensor) -> Gradient:
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
        return gradient
