"""PNA-PatchOut and TGR: what their hooks do to a gradient, and that they leave the model as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from victims import Victim

from advmerge.attacks import tgr
from advmerge.attacks.ascent import loss_gradient
from advmerge.attacks.pna_patch_out import hold_attention
from advmerge.attacks.transformer import hooked
from advmerge.errors import StudyError
from advmerge.models import Classifier, Normalise


def run(victim: Victim, method: str, **options: Any) -> torch.Tensor:
    return victim.attacked(method, **{"eps": 0.1, **options})


def gradient(victim: Victim) -> torch.Tensor:
    return loss_gradient(victim.model)(victim.images, victim.labels)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() < 1e-5 * other.abs().max())


@pytest.mark.parametrize("fused", [True, False])
def test_pna_takes_the_attention_maps_for_constants(transformer: Victim, fused: bool) -> None:
    """As does detaching the maps themselves, which only unfused attention has."""
    vit = transformer.model[1]
    plain = gradient(transformer)
    try:
        for block in vit.blocks:
            block.attn.fused_attn = fused
        with hooked(hold_attention(vit)):
            found = gradient(transformer)
        for block in vit.blocks:
            block.attn.fused_attn = False
        with hooked(b.attn.attn_drop.register_forward_hook(lambda *a: a[2].detach()) for b in vit.blocks):
            expected = gradient(transformer)
    finally:
        for block in vit.blocks:
            block.attn.fused_attn = True
    assert close(found, expected)
    assert not close(found, plain)
    assert torch.equal(gradient(transformer), plain)


@pytest.mark.parametrize(("share", "patches"), [(0.25, 4), (0.66, 11), (1.0, 16)])
def test_patch_out_steps_on_a_share_of_the_patches(transformer: Victim, share: float, patches: int) -> None:
    found = run(transformer, "PNAPatchOut", max_iter=1, share=share)
    moved = (found != transformer.images).float()
    touched = functional.max_pool2d(moved, 2).flatten(1).sum(1)
    assert (touched <= patches).all()
    # Black pixels cannot go further down, so a chosen patch may stay as it was.
    assert touched.max() == patches
    assert len({tuple(row) for row in functional.max_pool2d(moved, 2).flatten(1).tolist()}) > (1 if share == 1 else 100)


def test_later_steps_of_patch_out_take_other_patches(transformer: Victim) -> None:
    one, many = (run(transformer, "PNAPatchOut", max_iter=steps, share=0.25) for steps in (1, 10))
    moved = [(x != transformer.images).float().mean() for x in (one, many)]
    assert moved[1] > 2 * moved[0]


def test_a_spread_pushes_the_perturbation_outwards(transformer: Victim) -> None:
    """Weighed high, the norm's gradient keeps each value going the way of its first step."""
    found = run(transformer, "PNAPatchOut", share=1.0, spread=1e6)
    first = run(transformer, "PNAPatchOut", share=1.0, max_iter=1, eps_step=0.01)
    assert torch.equal((found - transformer.images).sign(), (first - transformer.images).sign())


def test_tgr_drops_extreme_tokens_of_each_channel() -> None:
    gradient = torch.tensor([[[1.0, -4.0], [2.0, 5.0], [-3.0, 1.0], [0.5, 2.0]]])
    expected = torch.tensor([[[0.5, 0.0], [0.0, 0.0], [0.0, 0.5], [0.25, 1.0]]])
    assert torch.equal(tgr.calm_tokens(gradient, 0.5), expected)
    both = torch.cat([gradient, gradient.flip(1)])
    assert torch.equal(tgr.calm_tokens(both, 0.5), torch.cat([expected, expected.flip(1)]))


def test_tgr_drops_extreme_rows_and_columns_of_each_map() -> None:
    gradient = torch.ones(1, 2, 4, 4)
    gradient[0, 0, 1, 2], gradient[0, 0, 3, 0] = 9, -9
    gradient[0, 1, 0, 0], gradient[0, 1, 0, 3] = 9, -9
    expected = torch.full((1, 2, 4, 4), 0.25)
    expected[0, 0, [1, 3]] = 0
    expected[0, 0, :, [2, 0]] = 0
    expected[0, 1, 0] = 0
    expected[0, 1, :, [0, 3]] = 0
    assert torch.equal(tgr.calm_maps(gradient), expected)


def test_tgr_acts_on_all_that_enters_attention_and_mlp(transformer: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every token dropped, what is left of the gradient has come round the blocks, over the residuals."""
    vit = transformer.model[1]
    plain = gradient(transformer)
    branches = [module for block in vit.blocks for module in (block.attn, block.mlp)]
    with hooked(branch.register_forward_hook(lambda *a: a[-1].detach()) for branch in branches):
        round_about = gradient(transformer)
    monkeypatch.setattr(tgr, "calm_tokens", lambda gradient, scale: torch.zeros_like(gradient))
    with hooked(tgr._calm(vit)):
        assert close(gradient(transformer), round_about)
    assert not close(round_about, plain)


def test_tgr_reaches_the_maps(transformer: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every map's gradient dropped and no token's, it is PNA."""
    vit = transformer.model[1]
    with hooked(hold_attention(vit)):
        expected = gradient(transformer)
    monkeypatch.setattr(tgr, "calm_tokens", lambda gradient, scale: gradient)
    monkeypatch.setattr(tgr, "calm_maps", torch.zeros_like)
    with tgr._unfused(vit), hooked(tgr._calm(vit)):
        assert close(gradient(transformer), expected)


@pytest.mark.parametrize("method", ["PNAPatchOut", "TGR"])
def test_the_model_is_left_as_it_was(transformer: Victim, method: str) -> None:
    before = gradient(transformer)
    fused = [block.attn.fused_attn for block in transformer.model[1].blocks]
    run(transformer, method, max_iter=1)
    with pytest.raises(AssertionError, match="Input height"):
        run(Victim(transformer.model, transformer.images[:, :, 1:], transformer.labels), method, max_iter=1)
    assert torch.equal(gradient(transformer), before)
    assert [block.attn.fused_attn for block in transformer.model[1].blocks] == fused
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in transformer.model.modules())


@pytest.mark.parametrize("method", ["PNAPatchOut", "TGR"])
def test_the_transformer_is_found_inside_a_studys_classifier(transformer: Victim, method: str) -> None:
    vit = transformer.model[1]
    model = Classifier(vit, nn.Identity(), Normalise([0.5], [0.5])).eval()
    inside = Victim(model, transformer.images, transformer.labels)
    assert torch.equal(run(inside, method, max_iter=2), run(transformer, method, max_iter=2))


@pytest.mark.parametrize("method", ["PNAPatchOut", "TGR"])
def test_other_models_are_refused_in_a_sentence(victim: Victim, method: str) -> None:
    with pytest.raises(StudyError, match=f"{method} attacks vision transformers of timm, and this model is none"):
        run(victim, method)


@pytest.mark.parametrize("method", ["PNAPatchOut", "TGR"])
def test_unusual_blocks_are_refused_in_a_sentence(method: str) -> None:
    from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer

    vit = VisionTransformer(
        img_size=8,
        patch_size=4,
        in_chans=1,
        embed_dim=8,
        depth=1,
        num_heads=1,
        num_classes=10,
        block_fn=ParallelScalingBlock,
    )
    model = Victim(vit, torch.full((2, 1, 8, 8), 0.5), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(
        StudyError, match=f"{method} does not know the blocks of this transformer, ParallelScalingBlock"
    ):
        run(model, method)
