"""Merging methods by name: what each needs, and whether a study's options are right.

Four shapes of method:

- *linear*: a function ``(place, **options) -> c`` that gives the T weights in θ_0 + Σ_t c_t τ_t; the engine adds up.
- *tensor-wise*: a pure function ``(pretrained, finetuned, place, **options) -> merged`` of one tensor and its T
  fine-tuned versions. The engine feeds it tensor by tensor, from files as well as from memory. A method that needs
  a fact about whole models (TIES' global threshold) has a ``prepare`` function.
- *per task*: tensor-wise too, but it returns a shared task vector and a mask a task: the task picks the model.
- *adaptive*: a function of whole state dicts and the tasks' images.

Everything here works on the encoder alone: heads are frozen and never merged. The engine that runs the methods is
:mod:`advmerge.merging.engine`; this module stays free of torch, because the Snakefile imports it.

An option is a keyword-only parameter of the method's function, or of the one that does the rest; its annotation says
what it may be.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from advmerge.errors import StudyError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from advmerge.models import Classifier

MODULES = {
    "average": "linear",
    "weighted": "linear",
    "task_arithmetic": "linear",
    "slerp": "linear",
    "ties": "sparse",
    "dare": "sparse",
    "dare_ties": "sparse",
    "della": "sparse",
    "breadcrumbs": "sparse",
    "pcb": "pcb",
    "consensus": "masks",
    "tall": "masks",
    "emr": "masks",
    "tsv": "spectral",
    "iso_c": "spectral",
    "iso_cts": "spectral",
    "wudi": "wudi",
    "adamerging": "adamerging",
    "adamerging_plus": "adamerging",
    "sigmoid_weighted": "adamerging",
    "fisher": "fisher",
    "regmean": "regmean",
    "regmean_plus": "regmean",
    "selective_learning": "selective",
}
"""Method → the module of this package that registers it."""

Data = Literal["none", "unlabelled", "labelled"]


class Range(NamedTuple):
    """Lowest and highest value of a number, both allowed."""

    low: float
    high: float


class Weights:
    """Marks an option that takes one number a task: a mapping task → number, or numbers in the tasks' order."""


Share = Annotated[float, Range(0, 1)]
Drop = Annotated[float, Range(0, 0.999)]  # what is kept is divided by 1 − drop
Scale = Annotated[float, Range(-10, 10)]
Rate = Annotated[float, Range(0, 10)]
Steps = Annotated[int, Range(0, 1_000_000)]
Count = Annotated[int, Range(1, 65_536)]
PerTask = Annotated[Mapping[str, float] | Sequence[float], Weights()]


class Seen(NamedTuple):
    """How many images an adaptive method passes through the encoder: forward, and back to the encoder's weights."""

    forward: int
    backward: int


Shapes = Mapping[str, Sequence[int]]
"""The encoder's tensors: name → shape."""


class Method(NamedTuple):
    """A registered method.

    Attributes:
        function: see the package's docstring.
        data: the images it needs: none, unlabelled adaptation images, or labelled training images.
        prepare: for tensor-wise methods, ``(pretrained, finetuned, seed, **options) -> dict``: facts about whole
            models, which the function finds in ``place.prepared``.
        per_task: whether the task picks the model.
        elementwise: whether an entry of the result depends on that entry of the tensors alone, and on ``prepared``.
        linear: whether the function gives the weights of a sum.
        rest: the function that takes the options which ``function`` passes on as ``**options``.
        seen: of an adaptive method, ``(tasks, shapes, **options) -> Seen`` for so many tasks and such an encoder.
        adaptive: whether the function takes whole models and images.
    """

    function: Callable[..., Any]
    data: Data
    prepare: Callable[..., dict[str, Any]] | None
    per_task: bool
    elementwise: bool
    linear: bool
    rest: Callable[..., Any] | None
    seen: Callable[..., Seen] | None

    @property
    def adaptive(self) -> bool:
        return self.data != "none"

    @property
    def options(self) -> dict[str, Option]:
        """Name → option; the function's own stand before those that it passes on."""
        passed = options_of(self.rest) if self.rest else {}
        return options_of(self.function) | {k: v for k, v in passed.items() if k not in options_of(self.function)}


METHODS: dict[str, Method] = {}


def register(
    name: str,
    *,
    data: Data = "none",
    prepare: Callable[..., dict[str, Any]] | None = None,
    per_task: bool = False,
    elementwise: bool = False,
    linear: bool = False,
    rest: Callable[..., Any] | None = None,
    seen: Callable[..., Seen] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function as a merging method; see :class:`Method`."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        METHODS[name] = Method(function, data, prepare, per_task, elementwise, linear, rest, seen)
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


class Option(NamedTuple):
    """An option of a method.

    Attributes:
        hint: its annotation, which says what it may be.
        default: its default; ``inspect.Parameter.empty`` where it must be given.
    """

    hint: Any
    default: Any


def options_of(function: Callable[..., Any]) -> dict[str, Option]:
    """The options of a function: its keyword-only parameters."""
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.items()
    return {name: Option(hints[name], p.default) for name, p in parameters if p.kind is p.KEYWORD_ONLY}


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
    for option, value in options.items():
        if value == []:
            raise StudyError(f"merging.{entry}.{option}: an empty list leaves nothing to choose from")
    for point in grid(options):
        check_options(f"merging.{entry}", name, point)


def check_options(where: str, name: str, options: Mapping[str, Any]) -> None:
    """:func:`check` of one value an option; ``where`` stands before the option in messages."""
    known = method(name).options
    for option in options:
        if option not in known:
            raise unknown("option", option, [*known, "method"], where)
    for option, (_, default) in known.items():
        if default is inspect.Parameter.empty and option not in options:
            raise StudyError(f"{where}: method '{name}' needs the option '{option}'")
    for option, value in options.items():
        check_value(f"{where}.{option}", known[option].hint, value)


def check_surgery(entry: str, options: Mapping[str, Any]) -> None:
    """Refuse unknown options and values of representation surgery.

    Raises:
        StudyError: naming the entry, the option and what was expected.
    """
    from advmerge.merging.surgery import operate

    known = options_of(operate)
    if not isinstance(options, Mapping):
        raise StudyError(f"merging.{entry}.surgery: expected options out of: {', '.join(known)}")
    for option, value in options.items():
        if option not in known:
            raise unknown("option", option, known, f"merging.{entry}.surgery")
        check_value(f"merging.{entry}.surgery.{option}", known[option].hint, value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_value(key: str, hint: Any, value: Any) -> None:
    """Refuse a value that an option's annotation does not allow.

    Args:
        key: where the value stands, for messages.
        hint: ``Literal[…]``, ``bool``, or ``Annotated`` with a :class:`Range` or :class:`Weights`.
        value: one value, not a grid.

    Raises:
        StudyError: naming the key and what was expected.
    """
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if not isinstance(value, str) or value not in choices:
            raise unknown("value", str(value), choices, key)
    elif hint is bool:
        if not isinstance(value, bool):
            raise StudyError(f"{key}: {value!r} is neither true nor false")
    else:
        kind, meaning = typing.get_args(hint)
        if isinstance(meaning, Weights):
            numbers = list(value.values()) if isinstance(value, Mapping) else value
            if not isinstance(numbers, list | tuple) or not numbers or not all(map(_is_number, numbers)):
                raise StudyError(f"{key}: {value!r} is not one number a task (task: number)")
        else:
            whole = kind is not int or isinstance(value, int)
            if not _is_number(value) or not whole or not meaning.low <= value <= meaning.high:
                what = "a whole number" if kind is int else "a number"
                raise StudyError(f"{key}: {value!r} is not {what} between {meaning.low} and {meaning.high}")


def passes(name: str, options: Mapping[str, Any], tasks: int, shapes: Shapes) -> Seen:
    """How many images a method passes through the encoder for one point of its grid; none, if it needs none."""
    chosen = method(name)
    if chosen.seen is None:
        return Seen(0, 0)
    defaults = {key: option.default for key, option in chosen.options.items()}
    return chosen.seen(tasks, shapes, **{**defaults, **options})


def grid(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of list-valued options, in order; one point where there is no list.

    >>> grid({"scale": [0.3, 0.6], "keep": 0.2})
    [{'scale': 0.3, 'keep': 0.2}, {'scale': 0.6, 'keep': 0.2}]
    """
    axes = [value if isinstance(value, list) else [value] for value in options.values()]
    return [dict(zip(options, point, strict=True)) for point in itertools.product(*axes)]


class Place(NamedTuple):
    """Where a tensor-wise or linear method stands.

    Attributes:
        name: of the tensor.
        tasks: the experts' names, in their order.
        seed: of random draws; a generator is derived from it, the task and the tensor's name.
        prepared: what the method's ``prepare`` found.
    """

    name: str
    tasks: Sequence[str]
    seed: int
    prepared: Mapping[str, Any]


class Adaptation(NamedTuple):
    """What an adaptive method may see of a task.

    Attributes:
        classifier: a model of the task whose ``encoder`` can be replaced; all tasks may share that encoder.
        images: uint8 [N, C, H, W], disjoint from the attacked images.
        labels: int64 [N]; only a method that needs labelled data may use them.
    """

    classifier: Classifier
    images: Tensor
    labels: Tensor | None = None
