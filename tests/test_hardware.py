"""Devices, precision, memory and determinism: as far as a CPU can tell, which knows bfloat16 and runs out of memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from advmerge import hardware, passes
from advmerge.attacks.bridge import art_classifier, craft
from advmerge.errors import StudyError
from advmerge.explanations import probe
from advmerge.jobs import gpu, session
from advmerge.merging import Adaptation
from advmerge.merging.engine import adapt
from advmerge.merging.selective import localise
from advmerge.merging.surgery import Kind, operate
from advmerge.models import Classifier, Head, Normalise, build_encoder, predict, to_unit
from advmerge.script import run
from advmerge.training import Anchor, finetune, pretrain
from advmerge.transfer import answers_and_gradients

BACKBONE: dict[str, Any] = {
    "timm": "vit_tiny_patch16_224",
    "options": {
        "img_size": 8,
        "patch_size": 4,
        "in_chans": 1,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "mlp_ratio": 2.0,
        "class_token": False,
        "global_pool": "avg",
    },
}
RECIPE = {"steps": 6, "batch": 12, "lr": 3e-3, "weight_decay": 0.01, "warmup": 2, "anchor": 1.0, "anchor_batch": 7}


@pytest.fixture(autouse=True)
def switches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch's switches and this process's notes are put back."""
    monkeypatch.setattr(passes, "_least", None)
    monkeypatch.delenv("ADVMERGE_DEVICE", raising=False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "unset")  # so that it is put back
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.set_deterministic_debug_mode("default")
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


@pytest.fixture
def normalise() -> Normalise:
    return Normalise([0.5], [0.5])


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return build_encoder(BACKBONE)


def head(classes: int = 3) -> Head:
    weight = torch.randn(classes, 16, generator=torch.Generator().manual_seed(1))
    return Head({"weight": 10 * weight, "bias": torch.zeros(classes), "mean": torch.zeros(16), "std": torch.ones(16)})


def images(count: int = 40, seed: int = 2) -> torch.Tensor:
    return torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


class Cramped(nn.Module):
    """Comes before an encoder: with more than ``room`` images, torch asks the system for memory that there is not.

    Room for no more than ``then`` may be left after a larger pass, so that work is broken off half done.
    """

    def __init__(self, inner: nn.Module, room: int, then: int | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.room = room
        self.then = then or room
        self.seen: list[int] = []

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(batch))
        if len(batch) > self.room:
            torch.empty(1 << 60)
        if len(batch) > self.then:
            self.room = self.then
        return self.inner(batch)


def test_a_batch_of_inference_is_halved_until_it_fits(normalise: Normalise) -> None:
    encoder = fresh().eval()
    cramped = Cramped(normalise, 5)
    model = nn.Sequential(cramped, encoder)
    whole = predict(nn.Sequential(normalise, encoder), images(), 16)
    assert torch.allclose(predict(model, images(), 16), whole, atol=1e-6)
    assert cramped.seen == [16, 8, *[4] * 10]
    assert passes.least() == 4
    predict(model, images(), 16)
    assert cramped.seen[12:] == [4] * 10  # it has been learned
    cramped.room = 0
    with pytest.raises(StudyError, match=r"^out of memory with one image a pass: .*can't allocate memory"):
        predict(model, images(), 16)


def other() -> nn.Module:
    """A second encoder, as an expert is one."""
    encoder = fresh()
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=draws)
    return encoder.eval().requires_grad_(False)


def probed(normalise: nn.Module) -> list[torch.Tensor]:
    found = probe(Classifier(other(), head(), normalise), to_unit(images()), torch.arange(40) % 3, 16)
    return [found.gradient, *found.activations.values()]


def blind(normalise: nn.Module) -> list[torch.Tensor]:
    model = Classifier(other(), head(), normalise)
    pixels = to_unit(images())
    predictions, margins, blind_share = answers_and_gradients(model, pixels, torch.arange(40) % 3, 16)
    return [predictions, margins, torch.tensor(blind_share)]


def pretrained(normalise: nn.Module) -> list[torch.Tensor]:
    encoder, recipe = fresh(), {**RECIPE, "label_smoothing": 0.1}
    generator = torch.Generator().manual_seed(0)
    facts = pretrain(encoder, normalise, images(), torch.arange(40) % 3, torch.ones(40), recipe, generator)
    return [*encoder.parameters(), torch.tensor([*facts.values()])]


def merged(name: str, **options: Any) -> Callable[[nn.Module], list[torch.Tensor]]:
    def made(normalise: nn.Module) -> list[torch.Tensor]:
        encoder = fresh().eval().requires_grad_(False)
        seen = Adaptation(Classifier(encoder, head(), normalise), images(), torch.arange(40) % 3)
        experts = {"one": other().state_dict(), "two": fresh().state_dict()}
        state, _ = adapt(name, encoder.state_dict(), experts, dict.fromkeys(experts, seen), 0, **options)
        return [*state.values()]

    return made


def localised(normalise: nn.Module) -> list[torch.Tensor]:
    base, expert, options = fresh().state_dict(), other().state_dict(), {"steps": range(4), "lr": 0.01, "batch": 13}
    vector, zeros = {n: expert[n] - t for n, t in base.items()}, {n: torch.zeros_like(t) for n, t in base.items()}
    model, labels, generator = Classifier(other(), head(), normalise), torch.arange(40) % 3, torch.Generator()
    return [*localise(model, base, vector, zeros, images(), labels, generator, **options).values()]


def operated(kind: Kind) -> Callable[[nn.Module], list[torch.Tensor]]:
    def made(normalise: nn.Module) -> list[torch.Tensor]:
        encoder, expert = fresh().eval(), other()
        modules, facts = operate(encoder, expert, normalise, images(), 0, "one", kind=kind, rank=2, steps=4, batch=13)
        return [*(p for module in modules.values() for p in module.parameters()), torch.tensor([*facts.values()])]

    return made


IN_PARTS: dict[str, Callable[[nn.Module], list[torch.Tensor]]] = {
    "probe": probed,
    "answers and gradients": blind,
    "pretrain": pretrained,
    "surgery": operated("final"),
    "deep surgery": operated("deep"),
    "selective learning": localised,
    "fisher": merged("fisher", images=7),
    **{name: merged(name, images=37) for name in ("regmean", "regmean_plus")},
    **{name: merged(name, steps=4, batch=13) for name in ("adamerging", "sigmoid_weighted")},
}
"""Work → what it makes of images that come in through this module; see also training, inference and crafting."""


@pytest.mark.parametrize("work", IN_PARTS)
def test_what_is_made_in_less_memory_is_the_same(normalise: Normalise, work: str) -> None:
    free = IN_PARTS[work](normalise)
    assert passes.least() is None
    cramped = Cramped(normalise, 20, 5)
    found = IN_PARTS[work](cramped)
    if work == "fisher":  # it passes one image at a time
        assert set(cramped.seen) == {1}
    else:
        assert max(cramped.seen) > 5
        assert 1 < passes.least() <= 5
    for one, another in zip(found, free, strict=True):
        assert torch.allclose(one, another, atol=2e-5)


def trained(normalise: nn.Module, dtype: torch.dtype = torch.float32) -> tuple[dict[str, torch.Tensor], float]:
    encoder = fresh()
    tasks = {
        name: (images(seed=seed), torch.arange(40) % classes, head(classes))
        for seed, (name, classes) in enumerate({"one": 3, "two": 2}.items())
    }
    anchor = Anchor(encoder, Normalise([0.5], [0.5]), images(seed=9), RECIPE["anchor_batch"])
    anchor.normalise = normalise
    generator = torch.Generator().manual_seed(0)
    facts = finetune(encoder, normalise, tasks, anchor, RECIPE, generator, dtype=dtype)
    return encoder.state_dict(), facts["train_loss"]


def test_steps_of_training_are_the_same_in_less_memory(normalise: Normalise) -> None:
    """Two tasks and an anchor of another size: every image counts once, and as much as in the whole batch."""
    free, loss = trained(normalise)
    cramped = Cramped(normalise, 5)
    found, small_loss = trained(cramped)
    assert cramped.seen[:4] == [12, 6, 3, 3]  # what did not fit, then both tasks' first part
    assert set(cramped.seen[2:]) == {1, 3}  # of the anchor's seven, one is left
    assert small_loss == pytest.approx(loss, rel=1e-5)
    start = fresh().state_dict()
    for name, tensor in free.items():
        assert torch.allclose(found[name], tensor, atol=2e-5), name
    assert any(not torch.allclose(free[name], start[name], atol=1e-3) for name in free)


def test_a_batch_that_batch_normalisation_sees_is_not_halved(normalise: Normalise) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16))
    net.num_features = 16  # type: ignore[assignment]
    recipe, generator = {**RECIPE, "label_smoothing": 0.1}, torch.Generator().manual_seed(0)
    with pytest.raises(StudyError, match="with 12 images, a batch that batch normalisation needs whole; lower 'batch'"):
        pretrain(net, Cramped(normalise, 5), images(), torch.arange(40) % 3, torch.ones(40), recipe, generator)


def test_in_bfloat16_encoders_are_rounded_and_heads_are_not(normalise: Normalise) -> None:
    encoder, pixels = fresh().eval(), to_unit(images())
    exact = Classifier(encoder, head(), normalise).eval()
    rough = Classifier(encoder, head(), normalise, dtype=torch.bfloat16).eval()
    logits, rounded = predict(exact, pixels, 16), predict(rough, pixels, 16)
    assert rounded.dtype == torch.float32
    error = (rounded - logits).abs().max()
    assert 1e-4 < error < 0.05 * logits.abs().max()
    assert not torch.equal(rounded, rounded.bfloat16().float())  # more than 8 bits of the head are left
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    x = pixels.clone().requires_grad_()
    (slope,) = torch.autograd.grad(rough(x).sum(), x)
    assert slope.dtype == torch.float32 and slope.abs().max() > 0


@pytest.mark.parametrize("method", ["ProjectedGradientDescent", "TIFGSM", "BatchedDeepFool"])
def test_crafting_in_bfloat16_stays_in_its_budget(normalise: Normalise, method: str) -> None:
    """The model is rounded, the pixels are not."""
    model = Classifier(fresh().eval(), head(), normalise, dtype=torch.bfloat16)
    options = {"max_iter": 3} | ({"eps": 0.05, "eps_step": 0.02} if method != "BatchedDeepFool" else {})
    pixels = to_unit(images())
    labels = predict(model, pixels, 16).argmax(1)
    found = craft(model, pixels, labels, method, options, seed=(0,), classes=3, batch_size=16)
    assert found.dtype == torch.float32
    assert (found - pixels).abs().max() > 0.01
    assert method == "BatchedDeepFool" or (found - pixels).abs().max() <= 0.05 + 1e-6
    assert (predict(model, found, 16).argmax(1) != labels).any()


def test_training_in_bfloat16_keeps_float32_weights_and_learns_alike(normalise: Normalise) -> None:
    exact, loss = trained(normalise)
    rough, rough_loss = trained(normalise, torch.bfloat16)
    assert {tensor.dtype for tensor in rough.values()} == {torch.float32}
    assert any(not torch.equal(rough[name], exact[name]) for name in exact)
    assert rough_loss == pytest.approx(loss, rel=0.02)


def test_resizing_is_interpolation_with_a_gradient_of_multiplications() -> None:
    """Asked first where no gradients are kept, it gives them all the same."""
    resize = Normalise([0.0], [1.0], resize=13)
    x = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        resize(x)

    def interpolated(given: torch.Tensor) -> torch.Tensor:
        return F.interpolate(given, (13, 13), mode="bicubic", align_corners=False, antialias=True)

    seed = torch.rand(2, 1, 13, 13, generator=torch.Generator().manual_seed(1))
    outcomes = []
    for make in (resize, interpolated):
        given = x.clone().requires_grad_()
        made = make(given)
        outcomes.append((made, torch.autograd.grad((made * seed).sum(), given)[0]))
    for ours, theirs in zip(*outcomes, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("cuda", "mps", "kind"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_the_best_device_there_is(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, kind: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert hardware.choose("auto").type == kind
    assert hardware.choose("cpu").type == "cpu"
    for asked, there in (("cuda", cuda), ("mps", mps)):
        if there:
            assert hardware.choose(asked).type == asked
        else:
            with pytest.raises(StudyError, match=f"^hardware.device: {asked}, but this machine has no such device"):
                hardware.choose(asked)


def test_bfloat16_by_itself_only_where_cuda_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda, mps = (torch.device(kind) for kind in ("cpu", "cuda", "mps"))
    for native in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert hardware.precision("auto", cuda) == (torch.bfloat16 if native else torch.float32)
        assert hardware.precision("bfloat16", cpu) == torch.bfloat16
        assert hardware.precision("float32", cuda) == torch.float32
        assert {hardware.precision("auto", place) for place in (cpu, mps)} == {torch.float32}


def test_an_artifact_says_what_it_was_made_on(normalise: Normalise) -> None:
    made_on = hardware.set_up({"deterministic": True, "precision": "bfloat16"}).record()["made_on"]
    assert made_on == {
        "device": torch.device("cuda" if torch.cuda.is_available() else "cpu").type,
        "name": made_on["name"],
        "torch": torch.__version__,
        "precision": "bfloat16",
        "deterministic": True,
        "threads": torch.get_num_threads(),
    }
    assert torch.backends.cpu.get_cpu_capability() in made_on["name"]
    predict(nn.Sequential(Cramped(normalise, 6), fresh().eval()), images(), 16)
    said = hardware.set_up({"deterministic": False}).record()["made_on"]
    assert (said["images_a_pass"], said["precision"], said["deterministic"]) == (4, "float32", False)


def test_the_switch_of_determinism() -> None:
    hardware.set_up({"deterministic": True})
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    hardware.set_up({"deterministic": False})
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark


def test_what_torch_cannot_repeat_or_hold_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def put() -> None:
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))

    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 MiB.")

    def broken() -> None:
        raise RuntimeError("no such kernel")

    hardware.set_up({"deterministic": True})
    said = {
        put: "error: put_ has no deterministic version on this device; set hardware.deterministic: false\n",
        full: "error: out of memory in a step that has no images to halve: CUDA out of memory. "
        "Tried to allocate 20 MiB.\n",
    }
    for main, sentence in said.items():
        with pytest.raises(SystemExit):
            run(main)
        assert capsys.readouterr().err == sentence
    hardware.set_up({"deterministic": False})
    put()
    with pytest.raises(RuntimeError, match="no such kernel"):
        run(broken)


def test_art_takes_a_device_that_it_has_no_word_for(normalise: Normalise) -> None:
    """As Apple's; here the one without memory."""
    model = Classifier(fresh(), head(), normalise)
    assert art_classifier(model, (1, 8, 8), 3, "meta").device.type == "meta"
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


def test_the_gpus_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 3")
    assert gpu.devices("auto") == gpu.devices("cuda") == ["0", "3"]
    assert gpu.devices("cpu") == gpu.devices("mps") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.devices("auto") == []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert gpu.devices("auto") == gpu.devices("mps") == ["mps"]
    assert gpu.devices("cpu") == gpu.devices("cuda") == []
    session.require_device("mps")
    with pytest.raises(StudyError, match=r"^hardware\.device: cuda, but this machine has no such device"):
        session.require_device("cuda")
