"""The cost model: passes counted by hand, FLOPs as published, jobs as the rules have them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from advmerge import merging, plan
from advmerge.attacks.bridge import craft
from advmerge.attacks.counting import Counted, count
from advmerge.cli import main
from advmerge.errors import StudyError
from advmerge.jobs import session
from advmerge.merging import surgery
from advmerge.merging.engine import adapt
from advmerge.models import Classifier, Head, Normalise, build_encoder
from advmerge.plan import speeds
from advmerge.plan.networks import Work, network
from advmerge.plan.requests import LEAST, requests
from advmerge.plan.speeds import stated
from advmerge.plan.totals import PHASES, cells, downloads, seconds
from advmerge.study import Study, load

ROOT = Path(__file__).parents[1]
EPS = {"eps": 0.03, "eps_step": 0.01}
# Method, options; forward and backward passes an image, counted by hand from the papers' algorithms.
BY_HAND: list[tuple[str, dict[str, Any], float, float]] = [
    ("UniformNoise", {"eps": 0.03}, 0, 0),
    ("FastGradientMethod", {"eps": 0.03}, 1, 1),
    ("ProjectedGradientDescent", {**EPS, "max_iter": 10, "num_random_init": 1}, 10, 10),
    # ART looks at the best so far and at the new one before it takes either, for two of three restarts.
    ("ProjectedGradientDescent", {**EPS, "max_iter": 4, "num_random_init": 3}, 12 + 2 * 2, 12),
    ("MomentumIterativeMethod", {**EPS, "max_iter": 10}, 10, 10),
    ("DIFGSM", {"eps": 0.03, "max_iter": 7}, 7, 7),
    ("SIFGSM", {"eps": 0.03, "max_iter": 3, "scales": 5}, 15, 15),
    ("VMIFGSM", {"eps": 0.03, "max_iter": 3, "neighbours": 4}, 3 * 5, 3 * 5),
    ("Admix", {"eps": 0.03, "max_iter": 2, "mixes": 3, "scales": 4}, 24, 24),
    ("PGN", {"eps": 0.03, "max_iter": 2, "neighbours": 4}, 16, 16),
    ("TGR", {"eps": 0.03, "max_iter": 3}, 3, 3),
    ("BatchedAutoPGD", {"eps": 0.03, "max_iter": 20}, 21, 20),  # the last point's gradient leads nowhere
    ("BatchedAutoPGD", {"eps": 0.03, "max_iter": 5, "nb_random_init": 2}, 12, 10),
    ("BatchedSquare", {"eps": 0.03, "max_iter": 30}, 31, 0),
    ("BatchedCarliniL2", {"binary_search_steps": 3, "max_iter": 25}, 76, 75),
    (
        "BatchedDeepFool",
        {"max_iter": 2, "nb_grads": 10},
        3 + 2 * 8,
        2 * 9,
    ),  # each step nine classes, one with the logits
]


@pytest.fixture(scope="module")
def smoke() -> Study:
    return load(ROOT / "studies/smoke.yaml")


@pytest.mark.parametrize(("method", "options", "forward", "backward"), BY_HAND)
def test_passes_are_those_counted_by_hand(
    method: str, options: dict[str, Any], forward: float, backward: float
) -> None:
    found = count(method, options)
    assert (found.forward, found.backward) == (forward, backward)
    assert 0 < found.usual <= 1


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("BatchedDeepFool", {"max_iter": 6}),
        ("BatchedCarliniL2", {"binary_search_steps": 2, "max_iter": 12}),
        ("BatchedCarliniLInf", {"search_steps": 2, "max_iter": 12}),
        ("FastAdaptiveBoundary", {"max_iter": 4, "nb_targets": 3}),
        ("AutoPGDTargeted", {"eps": 0.05, "max_iter": 4, "nb_targets": 3}),
        ("BatchedSquare", {"eps": 0.05, "max_iter": 20}),
        ("StandardAutoAttack", {"eps": 0.05, "max_iter": 4, "nb_targets": 3, "queries": 10}),
    ],
)
def test_no_model_makes_an_attack_pass_more(method: str, options: dict[str, Any]) -> None:
    """Those that stop early, on images that a classifier has right, some of which it is fooled by and some not."""
    torch.manual_seed(0)
    inner = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10))
    images = torch.rand(24, 1, 8, 8)
    labels = inner(images).argmax(1)
    model = Counted(inner)
    craft(model, images, labels, method, options, seed=(0,), classes=10, batch_size=24)
    most = count(method, options)
    assert 0 < model.forwards / 24 <= most.forward
    assert model.backwards / 24 <= most.backward


def test_counting_draws_nothing_from_the_global_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    count("ProjectedGradientDescent", {**EPS, "max_iter": 1, "num_random_init": 1})
    assert torch.equal(torch.rand(1), expected)


def test_an_attack_that_cannot_run_is_named() -> None:
    with pytest.raises(StudyError, match="BatchedAutoPGD: its passes could not be counted"):
        count("BatchedAutoPGD", {"eps": 0.03, "loss_type": "none"})


def test_flops_of_vit_b32_are_the_published_macs_twice() -> None:
    """4.41 GMAC in open_clip's table of profiles for the image tower; backward to pixels is one more, to weights two."""
    backbone = load(ROOT / "studies/paper.yaml").backbone.model_dump()
    found = network(backbone, (3, 224, 224))
    assert found.flops.forward == pytest.approx(2 * 4.4e9, rel=0.01)
    assert found.flops.pixels / found.flops.forward == pytest.approx(1, abs=0.02)
    assert found.flops.weights / found.flops.forward == pytest.approx(2, abs=0.05)
    assert found.entries == pytest.approx(87.85e6, rel=1e-3)  # of CLIP's image tower
    assert found.features == 512


def test_a_linear_networks_flops_are_its_products() -> None:
    """timm's smallest transformer without blocks: 4 patches of 4 × 4 pixels into 8 numbers, no other product."""
    options = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 8, "depth": 0, "num_heads": 1}
    backbone = {"timm": "vit_tiny_patch16_224", "options": options, "mean": [0.5], "std": [0.5]}
    found = network(backbone, (1, 8, 8))
    assert found.flops == Work(2 * 4 * 16 * 8, 2 * 4 * 16 * 8, 2 * 4 * 16 * 8)
    # The convolution keeps the image; normalisation its five tokens, and a mean and a deviation of each.
    assert found.kept == Work(0, 4 * (64 + 5 * 8 + 2 * 5), 4 * (64 + 5 * 8 + 2 * 5))


def test_depthwise_convolutions_train_at_the_usual_price() -> None:
    """Which torch's counter takes for full ones on the way back: 41 times the forward pass of EfficientNet-Lite0."""
    backbone = {"timm": "mobilenetv3_small_050", "options": {}, "mean": [0.5] * 3, "std": [0.5] * 3}
    flops = network(backbone, (3, 64, 64)).flops
    assert 1.9 * flops.forward < flops.weights <= 2.05 * flops.forward


@pytest.mark.parametrize("name", [name for name in merging.MODULES if merging.method(name).adaptive])
def test_what_an_adaptive_method_passes_is_what_it_says(name: str) -> None:
    """Counted on the encoder itself while the method runs."""
    options = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 8, "depth": 2, "num_heads": 1}
    encoder = build_encoder({"timm": "vit_tiny_patch16_224", "options": options})
    head = Head({"weight": torch.eye(3, 8), "bias": torch.zeros(3), "mean": torch.zeros(8), "std": torch.ones(8)})
    classifier = Classifier(encoder.eval(), head, Normalise([0.5], [0.5]))
    state = encoder.state_dict()
    experts = {task: {n: t + 0.01 * torch.rand(t.shape) for n, t in state.items()} for task in ("a", "b")}
    images = torch.randint(256, (9, 1, 8, 8), dtype=torch.uint8)
    tasks = {task: merging.Adaptation(classifier, images, torch.arange(9) % 3) for task in experts}
    passed = [0, 0]

    def seen(module: torch.nn.Module, given: Any, made: torch.Tensor) -> None:
        passed[0] += len(made)
        if made.requires_grad:
            made.register_hook(lambda gradient: passed.__setitem__(1, passed[1] + len(gradient)))

    encoder.register_forward_hook(seen)
    known = merging.method(name).options
    chosen = {key: value for key, value in {"steps": 3, "batch": 4, "images": 5}.items() if key in known}
    adapt(name, state, experts, tasks, 0, **chosen)
    said = merging.passes(name, chosen, 2, {n: tuple(t.shape) for n, t in state.items()})
    assert tuple(said) == tuple(passed)


def test_surgery_passes_what_it_says() -> None:
    assert surgery.passed(60, 3, {"rank": 8, "steps": 100, "batch": 16}) == (2 * 60 * 3, 0)
    assert surgery.passed(60, 3, {"kind": "deep", "steps": 10, "batch": 4}) == ((3 * 60 + 40) * 3, 40 * 3)


def test_a_job_does_what_its_slice_says(smoke: Study) -> None:
    jobs = {job.made: job for job in plan.jobs(smoke, plan.networks(smoke))}
    pgd = jobs["results/smoke/adversarial/latin/pretrained/pgd_eps8.safetensors"]
    assert pgd.work["pretrained"] == Work((5 + 2) * 32, (5 + 1) * 32, 0)
    assert jobs["results/smoke/models/pretrained.safetensors"].work["pretrained"] == Work(800 * 64, 0, 800 * 64)
    expert = jobs["results/smoke/models/finetuned/latin.safetensors"].work["pretrained"]
    assert expert.weights == 150 * (32 + 32)
    assert jobs["results/smoke/clean/multitask.parquet"].work["pretrained"] == Work(3 * (60 + 32))
    plane = jobs["results/smoke/explanations/plane.parquet"].work["pretrained"]
    assert plane == Work(3 * 16 * (1 + 9 * 3))
    deepfool = jobs["results/smoke/adversarial/latin/pretrained/deepfool.safetensors"]
    assert deepfool.most["pretrained"].forward > 5 * deepfool.work["pretrained"].forward
    kept = plan.networks(smoke)["pretrained"].kept
    assert pgd.kept == 32 * kept.pixels
    assert jobs["results/smoke/models/finetuned/latin.safetensors"].kept == (32 + 32) * kept.weights


def test_there_is_a_phase_for_every_rule_that_runs_a_job() -> None:
    """The file that a rule is in is its phase; `explanations` draws for the report what explain.smk measured."""
    rules = {}
    for file in (ROOT / "workflow/rules").glob("*.smk"):
        for block in re.split(r"^ *rule (?=\w+:)", file.read_text(), flags=re.MULTILINE)[1:]:
            if "shell:" in block:
                rules[block.partition(":")[0]] = file.stem
    rules["explanations"] = "report"
    assert {rule: phase for phase, names in PHASES.items() for rule in names} == rules
    phases = [stage for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"] if stage != "record"]
    assert [*PHASES] == phases


def test_seconds_are_work_bytes_and_the_start(smoke: Study) -> None:
    networks = plan.networks(smoke)
    job = plan.Job("attack", "", {"pretrained": Work(100, 50, 0)}, read=3e6, written=1e6, host=2)
    flops = networks["pretrained"].flops
    slow = plan.Speeds(stated(2e-6, 0.5), 1, 1e6, start=0.25)
    expected = (100 * flops.forward + 50 * flops.pixels) / 1e6 + 2 + 4 + 0.25
    assert seconds(job, networks, slow) == pytest.approx(expected)


def test_a_cluster_is_asked_for_the_largest_job_of_a_rule(smoke: Study) -> None:
    networks = plan.networks(smoke)
    small, large = (plan.Job("attack", "", {"pretrained": Work(n)}, memory=n * 1e3) for n in (1, 10_000_000))
    slow = plan.Speeds(stated(1e-3, 0.5), 1, 1e6, start=0)
    asked = requests([small, large, small], networks, slow)["attack"]
    minutes = 4 * 10_000_000 * networks["pretrained"].flops.forward / (1e9 / 2) / 60
    assert asked["runtime"] == pytest.approx(minutes, abs=1)
    assert asked["mem_mb"] == 4000 + 1.5 * 10_000
    assert requests([small], networks, slow)["attack"]["runtime"] == LEAST
    # What passes keep is the GPU's, or the host's.
    passing = small._replace(kept=2e9)
    assert requests([passing], networks, slow)["attack"]["mem_mb"] == 4500
    assert requests([passing], networks, slow, on_cpu=True)["attack"]["mem_mb"] == 7500


def test_downloads_are_the_studys_own(smoke: Study) -> None:
    assert not downloads(smoke)
    paper = downloads(load(ROOT / "studies/paper.yaml"))
    assert sum("house" in url for url in paper) == 2
    assert paper["https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz"] == 625
    assert any(name.startswith("timm/vit_base_patch32_clip_224.openai@") for name in paper)


def test_the_command_prints_each_phase_and_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "set_up_jobs", lambda: None)  # of this process, in which other tests run
    study = str(ROOT / "studies/smoke.yaml")
    assert main(["plan", study, "--gpu-tflops", "10", "--utilisation", "0.5", "--gpus", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cells"] == cells(load(study)) == 60
    assert found["machine"]["flops"]["forward"] == 5e12
    phases = found["phases"]
    assert [*phases] == [*PHASES, "study"]
    assert sum(phases[phase]["flops"] for phase in PHASES) == pytest.approx(phases["study"]["flops"])
    assert phases["attack"]["hours"] == pytest.approx(phases["attack"]["seconds"] / 4 / 3600)
    assert phases["attack"]["most_flops"] > phases["attack"]["flops"]

    monkeypatch.setattr(speeds, "SECONDS", 0.01)
    threads = torch.get_num_threads()
    assert main(["plan", study]) == 0
    said = capsys.readouterr().out
    assert "measured here" in said
    assert all(re.search(rf"^{phase} +\d", said, re.MULTILINE) for phase in phases)
    assert "downloads: none" in said
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("wrong", [["--gpu-tflops", "0"], ["--gpus", "-1"], ["--disk-mb-s", "nan"]])
def test_amounts_that_are_none_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(ROOT / "studies/smoke.yaml"), *wrong]) == 1
    assert wrong[0] in capsys.readouterr().err
