"""Which class a study's attack names, and whether its options hold: all of it before anything is computed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advmerge.errors import StudyError, unknown

if TYPE_CHECKING:
    from art.attacks.attack import EvasionAttack
    from torch import nn

# Keywords of ART's constructors that are not the study's: the bridge gives two and silences the others.
_RESERVED = {"estimator", "classifier", "verbose", "summary_writer"}

# What ART 1.20.1 gets wrong, and what a study names instead. Each fault is a test in tests/attacks/test_stock_faults.py.
BROKEN = {
    "AutoAttack": (
        "StandardAutoAttack",
        "is not the published ensemble and gives images that it does not fool back clean",
    ),
    "AutoConjugateGradient": ("BatchedAutoPGD", "gives random noise for images that it does not fool"),
    "AutoProjectedGradientDescent": ("BatchedAutoPGD", "gives random noise for images that it does not fool"),
    "CarliniL2Method": ("BatchedCarliniL2", "loses the lower bound of its search for c"),
    "CarliniLInfMethod": ("BatchedCarliniLInf", "gives images back as they were"),
    "DeepFool": ("BatchedDeepFool", "measures its steps by another class's logit when nb_grads is below the classes"),
}


@cache
def _ours() -> dict[str, str]:
    """Class name -> dotted module; read from the sources, because importing them imports torch and ART.

    An attack is a class that descends from TorchAttack, through whatever bases, and does not name ABC as one.
    """
    bases: dict[str, list[str]] = {}
    modules = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        for name, listed in re.findall(r"^class (\w+)\(([^)]*)\):", file.read_text(encoding="utf-8"), re.MULTILINE):
            bases[name] = re.findall(r"\w+", listed)
            modules[name] = f"{__package__}.{file.stem}"

    def descends(name: str) -> bool:
        return name == "TorchAttack" or any(map(descends, bases.get(name, [])))

    return {name: module for name, module in modules.items() if descends(name) and "ABC" not in bases[name]}


def module_of(method: str) -> str | None:
    """Dotted name of the module of ours that implements ``method``; None where it is ART's (or no attack)."""
    return _ours().get(method)


@cache
def resolve(method: str) -> type[EvasionAttack]:
    """The class that a study's ``method`` names: one of ours, else one of ``art.attacks.evasion``.

    Raises:
        StudyError: there is no such attack; the sentence lists those there are.
    """
    if module := module_of(method):
        return getattr(import_module(module), method)

    import art.attacks.evasion as stock
    from art.attacks.attack import EvasionAttack

    found = {
        name: value
        for name, value in vars(stock).items()
        if isinstance(value, type) and issubclass(value, EvasionAttack)
    }
    if method not in found:
        raise unknown("attack method", method, [*_ours(), *(name for name in found if name not in BROKEN)])
    return found[method]


def refuse(method: str, model: nn.Module) -> None:
    """Let an attack refuse a model that it could not be run on.

    Raises:
        StudyError: saying what it attacks, and what this model is.
    """
    if module_of(method):
        resolve(method).check_model(model)


def _wrong_kind(annotation: str, value: object) -> bool:
    """Whether a value cannot be meant; ART lets ``max_iter: 1.5`` through and fails amid a run."""
    if isinstance(value, bool):
        return "bool" not in annotation
    return annotation == "bool" or (annotation == "int" and not isinstance(value, int))


def check(name: str, method: str, options: Mapping[str, Any]) -> None:
    """Refuse an attack that could not run, by constructing it on a tiny classifier.

    Args:
        name: the attack's key in the study, for the message.
        method: see :func:`resolve`.
        options: keywords of the attack's constructor, as the study gives them.

    Raises:
        StudyError: no such method or option, one that ART gets wrong, a targeted attack, no ``eps`` for an attack that has one (ART's
            default is .3), an ``eps`` above 1 in L-infinity, a step of more than twice ``eps`` (ART's
            default is .1), or a value the attack itself refuses. One sentence, starting ``attacks.<name>``.
    """
    where = f"attacks.{name}"
    if method in BROKEN:
        instead, fault = BROKEN[method]
        raise StudyError(f"{where}: ART's {method} {fault}; use {instead}")
    try:
        attack = resolve(method)
    except StudyError as error:
        raise StudyError(f"{where}: {error}") from None
    parameters = signature(attack).parameters
    choices = parameters.keys() - _RESERVED
    for option, value in options.items():
        if option not in choices:
            raise unknown(f"option of {method}", option, choices, where)
        if _wrong_kind(annotation := str(parameters[option].annotation), value):
            raise StudyError(f"{where}: {option} must be {annotation}, not {value!r}")
    if options.get("targeted"):
        raise StudyError(f"{where}: targeted must be false, because the study counts untargeted errors")
    if "eps" in choices:
        eps = options.get("eps")
        if not isinstance(eps, (int, float)) or eps != eps:
            raise StudyError(f"{where}: eps must be a number in [0, 1] pixels, not {eps!r}")
        if eps > 1 and str(options.get("norm", "inf")) == "inf":
            raise StudyError(f"{where}: eps is {eps:g}, but pixels are in [0, 1], so 8/255 is 0.0314")
        if {"eps_step", "max_iter"} <= choices:
            step = options.get("eps_step", parameters["eps_step"].default)
            if isinstance(step, (int, float)) and step > 2 * eps:  # twice is where APGD starts
                raise StudyError(f"{where}: eps_step is {step:g}, more than the whole ball of eps {eps:g}")

    from torch import nn

    from advmerge.attacks.bridge import art_classifier, build

    tiny = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    try:
        build(method, art_classifier(tiny, (1, 8, 8), 10), options)
    except Exception as error:  # ART checks some values with ValueError and trips over others
        reason = " ".join(str(error).split())
        raise StudyError(f"{where}: {method} refuses its options: {reason}") from error
