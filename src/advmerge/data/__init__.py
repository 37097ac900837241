"""Where the images come from: one small module a source, a registry by name.

A source is a function ``(sizes, seed, **options) -> TaskData``. ``sizes`` gives the number of images wanted per
split; the splits are disjoint (and, for rendered and cropped images, so are the font families or photo regions
of training and test). Each split is class-balanced as far as its source allows and shuffled, so that its first
n images are a fair sample.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from advmerge.errors import StudyError, unknown

if TYPE_CHECKING:
    import numpy as np

    from advmerge.data.archives import Archive

SPLITS = ("train", "val", "adapt", "test", "attack")
"""What a task's images are for: fine-tuning and heads; choosing scalars; unlabelled adaptation of merges;
clean accuracy; the attacked images."""

CORRUPT = ("refuse", "skip")
"""What a task may say is done about an image that cannot be read; the first if it says nothing."""

SOURCES = {
    "mnist": "digits",
    "uci_digits": "digits",
    "latin": "fonts",
    "cyrillic": "fonts",
    "devanagari": "fonts",
    "greek": "fonts",
    "fontstyle": "fonts",
    "texture": "photos",
    "image_folder": "folders",
    "stanford_cars": "stanford_cars",
    "resisc45": "resisc45",
    "eurosat": "eurosat",
    "svhn": "svhn",
    "gtsrb": "gtsrb",
    "full_mnist": "full_mnist",
    "dtd": "dtd",
    "cifar10": "cifar",
    "cifar100": "cifar",
    "tiny_imagenet": "tiny_imagenet",
    "cub200": "cub200",
    "food101": "food101",
}
"""Source name → the module of this package that holds the function of that name."""

PROMPTS = Path(__file__).parent / "prompts"
PLAIN: dict[str, Any] = {"templates": ["a photo of a {}."], "words": {}}
"""For a source that nobody wrote prompts for."""


class Pictures:
    """Images that are decoded when they are asked for, so that a large set is never in memory as a whole.

    Args:
        read: an item → uint8 [C, H, W].
        items: what to read each image from.
        shape: (C, H, W).
    """

    def __init__(self, read: Callable[[Any], np.ndarray], items: Sequence[Any], shape: Sequence[int]) -> None:
        self.read, self.items = read, items
        self.shape = (len(items), *shape)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.read, self.items)


class TaskData(NamedTuple):
    """Images and labels of one task.

    ``images[split]`` is uint8 [N, C, H, W], decoded already or yet to be decoded; ``labels[split]`` is int64 [N] in
    0 … len(classes) - 1.
    """

    images: Mapping[str, np.ndarray | Pictures]
    labels: Mapping[str, np.ndarray]
    classes: list[str]


def source(kind: str) -> Callable[..., TaskData]:
    """The function of a registered source.

    Raises:
        StudyError: there is no such source; the message lists them.
    """
    if kind not in SOURCES:
        raise unknown("kind of task", kind, SOURCES)
    return getattr(importlib.import_module(f"advmerge.data.{SOURCES[kind]}"), kind)


def make(kind: str, sizes: Mapping[str, int], seed: int, shape: Sequence[int], options: Mapping[str, Any]) -> TaskData:
    """The data of a task.

    Args:
        kind: its source.
        sizes: images a split.
        seed: the study's.
        shape: (channels, height, width) that the backbone takes.
        options: of the source.

    Raises:
        StudyError: the source refuses, or its images have another shape than the backbone takes.
    """
    function = source(kind)
    wants_shape = "shape" in inspect.signature(function).parameters
    data = function(sizes, seed, **({"shape": shape} if wants_shape else {}), **options)
    for images in data.images.values():
        if images.shape[1:] != tuple(shape):
            found = " × ".join(map(str, images.shape[1:]))
            raise StudyError(f"images are {found}, backbone.options want {' × '.join(map(str, shape))}")
    return data


def check(task: str, kind: str, options: Mapping[str, Any], where: str | None = None) -> None:
    """Refuse an unknown source, an unknown option or a missing one before anything is loaded.

    Args:
        task: its name.
        kind: its source.
        options: of the source.
        where: the key of the study, ``tasks.<task>`` if not given.

    Raises:
        StudyError: naming the key, the option and the choices.
    """
    where = where or f"tasks.{task}"
    if kind not in SOURCES:
        raise unknown("kind of task", kind, SOURCES, where)
    parameters = inspect.signature(source(kind)).parameters
    known = {name: parameter for name, parameter in parameters.items() if name not in ("sizes", "seed", "shape")}
    for option in options:
        if option not in known:
            choices = [*known, "kind", "splits", "corrupt"]
            raise unknown("option", option, choices, where)
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise StudyError(f"{where}: kind '{kind}' needs the option '{option}'")


def files(kind: str, options: Mapping[str, Any]) -> list[str]:
    """Files, beside the code, that a source reads and whose content its images depend on."""
    if kind == "image_folder":
        from advmerge.data.folders import image_files

        return [str(path) for paths in image_files(options["path"]).values() for path in paths]
    module = Path(__file__).parent / f"{SOURCES[kind]}.txt"
    return [str(module)] if module.exists() else []


def archives_of(kind: str) -> list[Archive]:
    """What a source downloads; nothing where pip or the user brings its images."""
    found = getattr(importlib.import_module(f"advmerge.data.{SOURCES[kind]}"), "ARCHIVES", ())
    return [found[kind]] if isinstance(found, Mapping) else list(found)


def prompts(kind: str) -> dict[str, Any]:
    """What a source's classes are called in English, and the texts that CLIP gets of them.

    Returns:
        ``templates``, with ``{}`` for a class, and ``words``: those that go by other words than their names.
    """
    path = PROMPTS / f"{kind}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else PLAIN


def words(kind: str, classes: Sequence[str]) -> list[str]:
    """What classes are called: by the words of :func:`prompts`, or by their names with spaces for underscores."""
    known = prompts(kind)["words"]
    return [known.get(name, name.replace("_", " ")) for name in classes]


def balanced_split(labels: np.ndarray, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Indices per split: disjoint, each with as equal class shares as the labels allow, each shuffled.

    Args:
        labels: int [N].
        sizes: images wanted per split.
        rng: the generator of the draw.

    Raises:
        StudyError: the splits want more images than there are.
    """
    import numpy as np

    wanted = sum(sizes.values())
    if wanted > len(labels):
        raise StudyError(f"the splits want {wanted} images in all, and there are {len(labels)}")
    # Deal the images like cards, class after class: any run of the deck is then nearly class-balanced.
    ranks = np.empty(len(labels), dtype=np.float64)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        ranks[members] = (np.arange(len(members)) + rng.random()) / len(members)
    deck = np.argsort(ranks, kind="stable")
    splits, start = {}, 0
    for split, size in sizes.items():
        splits[split] = rng.permutation(deck[start : start + size])
        start += size
    return splits
