"""What a study may ask for: everything else is refused before anything is computed, in a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import art.attacks.evasion
import numpy as np
import pytest
import torch
from torch import nn

from advmerge.attacks import check, module_of, registry, resolve
from advmerge.attacks.bridge import art_classifier, check_budget, seeded
from advmerge.errors import StudyError

OURS = [
    "Admix",
    "AutoPGDTargeted",
    "BatchedAutoPGD",
    "BatchedCarliniL2",
    "BatchedCarliniLInf",
    "BatchedDeepFool",
    "BatchedSquare",
    "BatchedUniversal",
    "DIFGSM",
    "FastAdaptiveBoundary",
    "IterativeFGSM",
    "NIFGSM",
    "PGN",
    "PNAPatchOut",
    "SIFGSM",
    "StandardAutoAttack",
    "TGR",
    "TIFGSM",
    "UniformNoise",
    "VMIFGSM",
]


def test_ours_are_all_listed_here() -> None:
    with pytest.raises(StudyError) as caught:
        resolve("Nonsense")
    listed = str(caught.value).partition("choose one of: ")[2].split(", ")
    assert sorted(set(listed) - set(dir(art.attacks.evasion))) == OURS
    assert not set(listed) & registry.BROKEN.keys()


def test_an_attack_is_found_through_whatever_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here.py").write_text("class Grand(Base, Extra):\n    pass\nclass Other(dict):\n    pass\n")
    (tmp_path / "there.py").write_text("class Base(\n    TorchAttack,\n    ABC,\n):\n    pass\nclass Bare:\n    pass\n")
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "registry.py"))
    assert registry._ours.__wrapped__() == {"Grand": "advmerge.attacks.here"}


@pytest.mark.parametrize("method", OURS)
def test_ours_are_found_and_hide_nothing_of_art(method: str) -> None:
    assert resolve(method).__name__ == method
    assert resolve(method).__module__ == module_of(method)
    assert not hasattr(art.attacks.evasion, method)


def test_the_rest_is_art() -> None:
    assert resolve("SquareAttack") is art.attacks.evasion.SquareAttack
    assert module_of("SquareAttack") is None
    assert module_of("bridge") is None


def test_what_replaces_stock_attacks_is_ours() -> None:
    for method, (instead, _) in registry.BROKEN.items():
        assert hasattr(art.attacks.evasion, method)
        assert instead in OURS


@pytest.mark.parametrize("method", ["Nonsense", "EvasionAttack", "np", "TorchAttack", "MomentumAttack", "importlib"])
def test_unknown_methods_list_the_choices(method: str) -> None:
    with pytest.raises(StudyError, match=rf"unknown attack method '{method}'.*BatchedDeepFool.*SquareAttack"):
        resolve(method)


def test_importing_the_package_imports_neither_torch_nor_art() -> None:
    program = (
        "import sys, advmerge.attacks as a; a.module_of('UniformNoise'); a.module_of('X');"
        "assert not {'torch', 'art', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    path = {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=path)


GOOD: list[tuple[str, dict[str, Any]]] = [
    ("FastGradientMethod", {"eps": 0.03}),
    ("FastGradientMethod", {"eps": 3.0, "norm": 2}),
    ("ProjectedGradientDescent", {"eps": 0.03, "eps_step": 0.01, "max_iter": 5, "targeted": False}),
    ("MomentumIterativeMethod", {"eps": 0.03, "eps_step": 0.01, "decay": 1.0}),
    ("SquareAttack", {"eps": 0.03, "max_iter": 10, "norm": "inf"}),
    ("UniformNoise", {"eps": 0.03}),
    ("BatchedDeepFool", {"nb_grads": 3}),
    ("BatchedCarliniL2", {"confidence": 1}),
    ("BatchedAutoPGD", {"eps": 0.03, "norm": "inf", "loss_type": "difference_logits_ratio"}),
    ("NIFGSM", {"eps": 0.03}),
    ("IterativeFGSM", {"eps": 0.03, "eps_step": 0.01, "nesterov": True, "diversity": 0.5, "scales": 5}),
    ("PNAPatchOut", {"eps": 0.03}),
    ("TGR", {"eps": 0.03}),
    ("AutoPGDTargeted", {"eps": 3.0, "norm": 2}),
    ("StandardAutoAttack", {"eps": 0.03}),
    ("StandardAutoAttack", {"eps": 3.0, "norm": 2}),
    ("BatchedSquare", {"eps": 3.0, "norm": 2}),
    ("BatchedCarliniLInf", {}),
    ("FastAdaptiveBoundary", {"norm": 2}),
]


@pytest.mark.parametrize(("method", "options"), GOOD)
def test_good_options_pass(method: str, options: dict[str, Any]) -> None:
    check("good", method, options)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("Nonsense", {}, "unknown attack method 'Nonsense'"),
    *((method, {}, f"ART's {method} .*; use {instead}$") for method, (instead, _) in registry.BROKEN.items()),
    (
        "FastGradientMethod",
        {"epsilon": 0.1},
        "unknown option of FastGradientMethod 'epsilon'; choose .* eps,",
    ),
    (
        "MomentumIterativeMethod",
        {"num_random_init": 1},
        "'num_random_init'; choose one of: batch_size, decay",
    ),
    ("ProjectedGradientDescent", {"verbose": True}, "unknown option of ProjectedGradientDescent 'verbose'"),
    ("ProjectedGradientDescent", {"targeted": True}, "targeted must be false"),
    ("ProjectedGradientDescent", {"eps": 8, "eps_step": 2}, r"eps is 8, but pixels are in \[0, 1\]"),
    ("BatchedAutoPGD", {"eps": 8, "norm": "inf"}, r"eps is 8, but pixels are in \[0, 1\]"),
    ("ProjectedGradientDescent", {"eps": -0.1, "eps_step": -0.2}, "eps. has to be nonnegative"),
    ("ProjectedGradientDescent", {"eps": "big"}, "eps must be a number .* not 'big'"),
    (
        "ProjectedGradientDescent",
        {"eps": 0.1, "eps_step": 0.1, "max_iter": 1.5},
        "max_iter must be int, not 1.5",
    ),
    ("SquareAttack", {"eps": 0.1, "max_iter": 0}, "SquareAttack refuses its options: .*max_iter"),
    ("UniformNoise", {}, "eps must be a number .* not None"),
    ("FastGradientMethod", {}, "eps must be a number .* not None"),
    ("ProjectedGradientDescent", {"eps": 0.03}, "eps_step is 0.1, more than the whole ball of eps 0.03"),
    ("ProjectedGradientDescent", {"eps": True}, "eps must be int .* not True"),
    ("FastGradientMethod", {"eps": 0.1, "minimal": 1}, "minimal must be bool, not 1"),
    ("HighConfidenceLowUncertainty", {}, "refuses its options"),
    ("UniformNoise", {"eps": 0}, "eps must be a number above 0, not 0"),
    ("UniformNoise", {"eps": float("nan")}, "eps must be a number .* not nan"),
    ("UniformNoise", {"eps": 0.1, "batch_size": 0}, "batch_size must be a whole number of at least 1"),
    ("BatchedDeepFool", {"nb_grads": 1}, "nb_grads must be a whole number of at least 2, not 1"),
    ("BatchedDeepFool", {"overshoot": -0.1}, "overshoot must be a number of at least 0"),
    ("BatchedDeepFool", {"max_iter": True}, "max_iter must be int, not True"),
    ("BatchedCarliniL2", {"max_iter": 1}, "max_iter must be a whole number of at least 2"),
    ("BatchedCarliniL2", {"confidence": -1}, "confidence"),
    ("BatchedCarliniL2", {"learning_rate": "fast"}, "learning_rate must be a number above 0, not 'fast'"),
    ("BatchedCarliniL2", {"initial_const": 0}, "initial_const"),
    ("BatchedCarliniL2", {"binary_search_steps": 0}, "binary_search_steps"),
    ("BatchedAutoPGD", {"max_iter": 3}, "eps must be a number .* not None"),
    ("BatchedAutoPGD", {"eps": 0.1, "norm": 1}, "norm must be inf or 2, not 1"),
    ("BatchedAutoPGD", {"eps": 0.1, "loss_type": "hinge"}, "loss_type must be one of cross_entropy"),
    ("BatchedAutoPGD", {"eps": 0.1, "nb_random_init": 0}, "nb_random_init"),
    ("BatchedAutoPGD", {"eps": 0.1, "rho": 0}, "rho"),
    ("BatchedAutoPGD", {"eps": 0.1, "max_iter": 0}, "max_iter"),
    ("NIFGSM", {}, "eps must be a number .* not None"),
    ("NIFGSM", {"eps": 0.1, "eps_step": 0.3}, "eps_step is 0.3, more than the whole ball of eps 0.1"),
    ("NIFGSM", {"eps": 0.1, "eps_step": 0}, "eps_step must be a number above 0"),
    ("NIFGSM", {"eps": 0.1, "decay": -1}, "decay must be a number of at least 0"),
    ("NIFGSM", {"eps": 0.1, "nesterov": True}, "unknown option of NIFGSM 'nesterov'"),
    ("DIFGSM", {"eps": 0.1, "diversity": 1.5}, "diversity must be at most 1"),
    ("DIFGSM", {"eps": 0.1, "resize": 0}, "resize must be a number above 0"),
    ("TIFGSM", {"eps": 0.1, "kernel_size": 4}, "kernel_size must be odd, not 4"),
    ("SIFGSM", {"eps": 0.1, "scales": 0}, "scales must be a whole number of at least 1"),
    ("VMIFGSM", {"eps": 0.1, "neighbours": 0}, "neighbours must be a whole number of at least 1"),
    ("VMIFGSM", {"eps": 0.1, "beta": -1}, "beta must be"),
    ("Admix", {"eps": 0.1, "mixes": 0}, "mixes must be a whole number of at least 1"),
    ("Admix", {"eps": 0.1, "portion": -0.2}, "portion must be"),
    ("PGN", {"eps": 0.1, "balance": 1.5}, "balance must be at most 1"),
    ("PGN", {"eps": 0.1, "zeta": -1}, "zeta must be"),
    ("IterativeFGSM", {"eps": 0.1, "mixes": -1}, "mixes must be a whole number of at least 0"),
    ("IterativeFGSM", {"eps": 0.1, "nesterov": 1}, "nesterov must be bool, not 1"),
    ("PNAPatchOut", {"eps": 0.1, "share": 1.5}, "share must be at most 1"),
    ("PNAPatchOut", {"eps": 0.1, "spread": -1}, "spread must be"),
    ("TGR", {"eps": 0.1, "max_iter": 0}, "max_iter"),
    ("AutoPGDTargeted", {"eps": 0.1, "norm": 1}, "norm must be inf or 2, not 1"),
    ("AutoPGDTargeted", {"eps": 0.1, "nb_targets": 0}, "nb_targets"),
    ("BatchedSquare", {"eps": 0.1, "norm": 1}, "norm must be inf or 2, not 1"),
    ("StandardAutoAttack", {"eps": 0.1, "norm": 1}, "norm must be inf or 2, not 1"),
    ("BatchedSquare", {"eps": 0.1, "p_init": 1.1}, "p_init must be at most 1"),
    ("StandardAutoAttack", {"eps": 0.1, "queries": 0}, "queries must be a whole number"),
    ("StandardAutoAttack", {"eps": 8}, r"eps is 8, but pixels are in \[0, 1\]"),
    ("BatchedUniversal", {"eps": 0.1, "cutoff": 0}, "cutoff must be"),
    ("FastAdaptiveBoundary", {"norm": 1}, "norm must be inf or 2, not 1"),
    ("FastAdaptiveBoundary", {"beta": 0}, "beta must be"),
    ("BatchedCarliniLInf", {"search_steps": 0}, "search_steps"),
    ("BatchedCarliniLInf", {"learning_rate": 0}, "learning_rate"),
]


@pytest.mark.parametrize(("method", "options", "message"), BAD)
def test_bad_options_are_refused_in_one_sentence(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        check("mine", method, options)
    assert str(caught.value).startswith("attacks.mine: ")
    assert "\n" not in str(caught.value)


def test_loss_with_three_logits_refuses_two_classes() -> None:
    classifier = art_classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2), 2)
    with pytest.raises(ValueError, match="at least three classes"):
        resolve("BatchedAutoPGD")(classifier, eps=0.1, loss_type="difference_logits_ratio")


@pytest.mark.parametrize("method", ["AutoPGDTargeted", "StandardAutoAttack"])
def test_loss_with_four_logits_refuses_three_classes(method: str) -> None:
    classifier = art_classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), (1, 2, 2), 3)
    with pytest.raises(ValueError, match="at least four classes"):
        resolve(method)(classifier, eps=0.1)


def test_ours_refuse_a_classifier_whose_preprocessing_they_would_skip() -> None:
    from art.estimators.classification import PyTorchClassifier

    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    common = {"model": model, "loss": nn.CrossEntropyLoss(), "input_shape": (1, 2, 2), "nb_classes": 2}
    for other in (
        {"preprocessing": None},
        {"preprocessing": None, "clip_values": (0, 255)},
        {"clip_values": (0, 1), "preprocessing": (0.5, 0.5)},
    ):
        with pytest.raises(ValueError, match=r"clip_values \(0, 1\) and no preprocessing"):
            resolve("BatchedDeepFool")(PyTorchClassifier(**common, **other, device_type="cpu"))


def test_the_model_is_frozen_and_evaluating() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(4, 2)).train()
    classifier = art_classifier(model, (1, 2, 2), 2)
    assert classifier.model.whole is model
    assert not list(classifier.model.parameters())  # which ART would go through at every gradient
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_seeded_restores_after_an_error() -> None:
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    with pytest.raises(KeyError), seeded(2**62 + 1):
        raise KeyError
    assert np.random.rand() == expected  # noqa: NPY002


def test_budget() -> None:
    clean = torch.full((3, 1, 2, 2), 0.5)
    inside = clean + 0.1
    check_budget(clean, inside, 0.1)
    check_budget(clean, inside, 0.2, 2)
    check_budget(clean, clean + 0.4)
    check_budget(clean[:0], clean[:0], 0.1)
    inside[1, 0, 0, 0] += 2e-6
    with pytest.raises(StudyError, match=r"1 of 3 adversarial examples leave the Linf ball of 0.1"):
        check_budget(clean, inside, 0.1)
    with pytest.raises(StudyError, match=r"3 of 3 .* L2 ball of 0.19; the farthest is at 0.2"):
        check_budget(clean, inside, 0.19, 2)
    with pytest.raises(StudyError, match=r"3 of 3 .* leave \[0, 1\]"):
        check_budget(clean, clean + 0.6, 1)
    inside[0, 0, 1, 1] = float("nan")
    with pytest.raises(StudyError, match=r"1 of 3 .* not finite"):
        check_budget(clean, inside, 0.1)
    with pytest.raises(StudyError, match="shape"):
        check_budget(clean, clean[:2])
