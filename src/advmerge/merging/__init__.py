"""Merging methods by name, and the engine that runs them.

Two shapes of method:

- *tensor-wise*: a pure function ``(pretrained, finetuned, **options) -> merged`` of one tensor and its T
  fine-tuned versions. The engine feeds it tensor by tensor. A method that needs a fact about whole models (TIES'
  global threshold) has a ``prepare`` function, whose result, one value a task, is passed on.
- *adaptive*: a function of whole state dicts and the tasks' unlabelled images.

Everything here works on the encoder alone: heads are frozen and never merged.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from advmerge.errors import StudyError, unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

    Tensors = Mapping[str, Tensor]

MODULES = {
    "average": "linear",
    "task_arithmetic": "linear",
    "ties": "ties",
    "adamerging": "adamerging",
}
"""Method → the module of this package that registers it."""


class Method(NamedTuple):
    """A registered method.

    Attributes:
        function: see the package's docstring.
        data: what images it adapts on.
        prepare: for tensor-wise methods, ``(pretrained, finetuned, **options) -> dict`` of further arguments.
    """

    function: Callable[..., Any]
    data: Literal["none", "unlabelled"]
    prepare: Callable[..., dict[str, Any]] | None


METHODS: dict[str, Method] = {}


def register(
    name: str, *, data: Literal["none", "unlabelled"] = "none", prepare: Callable[..., dict[str, Any]] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function as a merging method."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        METHODS[name] = Method(function, data, prepare)
        return function

    return enter


def module_of(name: str) -> str:
    """The module that a method is registered in, importable by that name."""
    return f"{__name__}.{MODULES[name]}"


def method(name: str) -> Method:
    """A registered method.

    Raises:
        StudyError: there is none of that name; the message lists them.
    """
    if name not in MODULES:
        raise unknown("merging method", name, MODULES)
    importlib.import_module(module_of(name))
    return METHODS[name]


def option_names(name: str) -> dict[str, inspect.Parameter]:
    """The options of a method: the keyword-only parameters of its function."""
    parameters = inspect.signature(method(name).function).parameters
    return {key: value for key, value in parameters.items() if value.kind is value.KEYWORD_ONLY}


def check(entry: str, name: str, options: Mapping[str, Any]) -> None:
    """Refuse an unknown method or option, a missing option, and values out of range, before any compute.

    Args:
        entry: the entry's name in the study, for messages.
        name: the method.
        options: its options; a list is a grid to choose from on validation data.

    Raises:
        StudyError: naming the entry, the option and what was expected.
    """
    if name not in MODULES:
        raise unknown("merging method", name, MODULES, f"merging.{entry}.method")
    known = option_names(name)
    for option in options:
        if option not in known:
            raise unknown("option", option, [*known, "method"], f"merging.{entry}")
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise StudyError(f"merging.{entry}: method '{name}' needs the option '{option}'")
    for point in grid(options):
        for option, value in point.items():
            check_value(f"merging.{entry}.{option}", option, value)


def check_surgery(entry: str, options: Mapping[str, Any]) -> None:
    """Refuse unknown options and values of representation surgery.

    Raises:
        StudyError: naming the entry, the option and what was expected.
    """
    from advmerge.merging.surgery import operate

    parameters = inspect.signature(operate).parameters
    known = [key for key, value in parameters.items() if value.kind is value.KEYWORD_ONLY]
    if not isinstance(options, Mapping):
        raise StudyError(f"merging.{entry}.surgery: expected options out of: {', '.join(known)}")
    for option, value in options.items():
        if option not in known:
            raise unknown("option", option, known, f"merging.{entry}.surgery")
        check_value(f"merging.{entry}.surgery.{option}", option, value)


RANGES: dict[str, tuple[float, float]] = {
    "scale": (-10, 10),
    "keep": (0, 1),
    "initial": (0, 1),
    "lr": (0, 10),
    "steps": (0, 1_000_000),
    "batch": (1, 65_536),
    "rank": (1, 65_536),
}
"""Option → lowest and highest sensible value, where the option is a number."""

CHOICES: dict[str, tuple[str, ...]] = {"aggregate": ("sum", "mean"), "coefficients": ("layer", "task")}
"""Option → its choices, where the option is a word."""


def check_value(key: str, option: str, value: Any) -> None:
    """Refuse a value of the wrong type or range.

    Raises:
        StudyError: naming the key and what was expected.
    """
    if option in CHOICES:
        if value not in CHOICES[option]:
            raise unknown("value", str(value), CHOICES[option], key)
    elif option in RANGES:
        low, high = RANGES[option]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise StudyError(f"{key}: {value!r} is not a number between {low} and {high}")


def grid(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of list-valued options, in order; one point where there is no list.

    >>> grid({"scale": [0.3, 0.6], "keep": 0.2})
    [{'scale': 0.3, 'keep': 0.2}, {'scale': 0.6, 'keep': 0.2}]
    """
    axes = [value if isinstance(value, list) else [value] for value in options.values()]
    return [dict(zip(options, point, strict=True)) for point in itertools.product(*axes)]


def check_models(pretrained: Tensors, finetuned: Mapping[str, Tensors]) -> None:
    """Refuse experts that are not fine-tuned versions of the pretrained model.

    Raises:
        StudyError: naming the expert and the first tensor whose name or shape differs, or that is not finite.
    """
    import torch

    if not finetuned:
        raise StudyError("merging needs at least one fine-tuned model")
    for task, tensors in finetuned.items():
        for name in pretrained:
            if name not in tensors:
                raise StudyError(f"expert '{task}': lacks the tensor '{name}' of the pretrained model")
        for name in tensors:
            if name not in pretrained:
                raise StudyError(f"expert '{task}': has a tensor '{name}' that the pretrained model lacks")
            if tensors[name].shape != pretrained[name].shape:
                shapes = f"{list(tensors[name].shape)}, pretrained {list(pretrained[name].shape)}"
                raise StudyError(f"expert '{task}': the tensor '{name}' has shape {shapes}")
            if tensors[name].is_floating_point() and not torch.isfinite(tensors[name]).all():
                raise StudyError(f"expert '{task}': the tensor '{name}' has values that are not finite")


class Adaptation(NamedTuple):
    """What an adaptive method may see of a task: the classifier around the encoder, and unlabelled images.

    Attributes:
        classifier: a model of the task whose ``encoder`` can be replaced.
        images: uint8 [N, C, H, W], disjoint from the attacked images.
    """

    classifier: nn.Module
    images: Tensor


def adapt(
    name: str,
    pretrained: Tensors,
    finetuned: Mapping[str, Tensors],
    tasks: Mapping[str, Adaptation],
    seed: int,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    **options: Any,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Merge by an adaptive method; see :func:`merge` for the arguments they share.

    Args:
        tasks: what the method may see of each task.
        seed: of its draws.
        progress: wraps its steps.

    Returns:
        The merged tensors, and facts to record (learned coefficients).
    """
    check_models(pretrained, finetuned)
    return method(name).function(pretrained, finetuned, tasks, seed, progress, **options)


def merge(name: str, pretrained: Tensors, finetuned: Mapping[str, Tensors], **options: Any) -> dict[str, Tensor]:
    """Merge by a tensor-wise method.

    Floating tensors are merged in float32 and returned in the pretrained model's type; the rest (counters,
    index buffers) are copied from the pretrained model.

    Args:
        name: the method.
        pretrained: tensor name → tensor.
        finetuned: task → the same tensors, fine-tuned.
        options: of the method, one value each.

    Raises:
        StudyError: the method is unknown or adaptive, or an expert does not match.
    """
    chosen = method(name)
    if chosen.data != "none":
        raise StudyError(f"merging method '{name}' adapts on images; it cannot merge weights alone")
    check_models(pretrained, finetuned)
    extra = chosen.prepare(pretrained, list(finetuned.values()), **options) if chosen.prepare else {}
    merged = {}
    for key, base in pretrained.items():
        if not base.is_floating_point():
            merged[key] = base.clone()
            continue
        experts: Sequence[Tensor] = [tensors[key].float() for tensors in finetuned.values()]
        merged[key] = chosen.function(base.float(), experts, **options, **extra).to(base.dtype)
    return merged
