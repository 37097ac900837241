"""NI-FGSM, Lin et al. 2020 (arXiv:1908.06281), section 3.2."""

from __future__ import annotations

import torch

from advmerge.attacks.ascent import MomentumAttack


def ahead(x: torch.Tensor, momentum: torch.Tensor, reach: float) -> torch.Tensor:
    """Where the momentum alone would lead, equation 6 (Nesterov's)."""
    return x + reach * momentum


class NIFGSM(MomentumAttack):
    """MI-FGSM that takes its gradient ahead, at x + eps_step * decay * g.

    g is divided by means, not L1 norms, as in the authors' code: with the paper's norm the look-ahead would be a
    step divided by the number of pixels, that is none.
    """

    def where(self, x: torch.Tensor, momentum: torch.Tensor) -> torch.Tensor:
        return ahead(x, momentum, self.step * self.decay)
