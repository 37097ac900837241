"""Glyphs rendered from the font families of ``fonts.txt`` (Google Fonts, one pip package a family).

A family belongs to one group — train, val or test — in every task and in the pretraining corpus, so that the
test images' designs have never been seen in any script. Groups follow a hash of the family's name, shared out
first among the few families that cover Devanagari, so that this task gets its share of each group.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from advmerge.data import TaskData
from advmerge.errors import StudyError
from advmerge.seeding import numpy_generator

ALPHABETS = {
    "latin": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "cyrillic": "БГДЖЗИЛПФЦЧШЩЪЫЬЭЮЯУ",
    "devanagari": "कखगघचछजटडतदनपबमयरलसह",
    "lowercase": "abcdefghijklmnopqrstuvwxyz",
    "greek": "αβγδεζηθκλμνξπρστφχψωΓΔΘΛΞΠΣΦΨΩ",
    "hebrew": "אבגדהוזחטיכלמנסעפצקרשת",
    "thai": "กขคงจฉชซญดตถทธนบปผฝพฟภมยรลวสหอฮ",
    "arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "symbols": "#%&@$?!+=<>[]{}*^~€£§¶",
}
"""Characters of each script; the first three are tasks, the rest is what the backbone is pretrained on."""

STYLES = ["regular", "bold", "italic", "bold italic"]
GROUPS = {"train": 0.58, "val": 0.09, "test": 0.33}
"""Share of the families in each group."""

GROUP_OF = {"train": "train", "val": "val", "adapt": "val", "test": "test", "attack": "test"}
"""Split of a task → group of families it is rendered from."""

CANVAS, SIDE = 84, 28  # drawn at three times the size, then reduced


class Face(NamedTuple):
    """One style of a family: a font file, with the weight to set where the file is a variable font."""

    path: str
    weight: int | None
    style: str


@cache
def families() -> tuple[str, ...]:
    """Names of the pip packages listed in ``fonts.txt``, each present in the pinned version.

    Raises:
        StudyError: a package is missing or has another version.
    """
    names = []
    for line in (Path(__file__).parent / "fonts.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, pinned = line.partition("==")
            try:
                found = version(name)
            except PackageNotFoundError:
                found = "none"
            if found != pinned:
                raise StudyError(f"{name}: version {pinned} expected, {found} found; run: pip install {line}")
            names.append(name)
    return tuple(names)


def _metadata(family: str) -> tuple[Path, dict]:
    root = importlib.import_module(family.replace("-", "_")).ROOT
    return root, json.loads((root / "metadata.json").read_text())


@cache
def faces(family: str) -> dict[str, Face]:
    """The styles a family offers, of ``STYLES``; weights 400 and 700 of variable fonts, or the files of those weights."""
    root, metadata = _metadata(family)
    axes = {axis["tag"]: (axis["min"], axis["max"]) for axis in metadata["axes"]}
    found: dict[str, Face] = {}
    for file in metadata["files"]:
        slant = " italic" if file["style"] == "italic" else ""
        for weight, name in ((400, "regular"), (700, "bold")):
            style = f"{name}{slant}".replace("regular italic", "italic")
            if file["variable"]:
                low, high = axes.get("wght", (400, 400))
                if low <= weight <= high:
                    found[style] = Face(str(root / file["path"]), weight, style)
            elif file["weight"] == weight:
                found[style] = Face(str(root / file["path"]), None, style)
    return found


@cache
def coverage(family: str) -> frozenset[int]:
    """Code points that a family's first file maps to a glyph."""
    from fontTools.ttLib import TTFont

    face = next(iter(faces(family).values()), None)
    if face is None:
        return frozenset()
    with TTFont(face.path, lazy=True) as font:
        return frozenset(font.getBestCmap())


def covering(characters: str) -> list[str]:
    """Families with a glyph for every character."""
    return [family for family in families() if coverage(family).issuperset(map(ord, characters))]


def _shared_out(names: Sequence[str]) -> dict[str, str]:
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    ends = np.round(np.cumsum(list(GROUPS.values())) * len(ordered))
    return {
        name: next(group for group, end in zip(GROUPS, ends, strict=True) if rank < end)
        for rank, name in enumerate(ordered)
    }


@cache
def groups() -> dict[str, str]:
    """Family → the one group it belongs to."""
    scarce = covering(ALPHABETS["devanagari"])
    return _shared_out(scarce) | _shared_out([name for name in families() if name not in scarce])


@cache
def _font(face: Face) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(face.path, 56)
    if face.weight is not None:
        axes = font.get_variation_axes()
        names = [axis["name"] for axis in axes]
        weight = [index for index, name in enumerate(names) if b"weight" in name.lower()]
        if len(weight) != 1:
            raise StudyError(f"{face.path}: one weight axis expected, axes found: {names}")
        values = [float(axis["default"] or 0) for axis in axes]
        values[weight[0]] = face.weight
        font.set_variation_by_axes(values)
    return font


def render(character: str, face: Face, rng: np.random.Generator) -> np.ndarray:
    """A glyph, white on black, centred, randomly turned (±8°), scaled (14–21 px) and shifted (±1.5 px): uint8 [28, 28].

    Raises:
        StudyError: the font draws nothing for the character.
    """
    font = _font(face)
    left, top, right, bottom = font.getbbox(character)
    width, height = right - left, bottom - top
    if width <= 0 or height <= 0:
        raise StudyError(f"{face.path}: draws nothing for '{character}'")
    glyph = Image.new("L", (int(width) + 4, int(height) + 4))
    ImageDraw.Draw(glyph).text((2 - left, 2 - top), character, fill=255, font=font)
    box = glyph.getbbox()
    if box is None:
        raise StudyError(f"{face.path}: draws nothing for '{character}'")
    glyph = glyph.crop(box)
    size = rng.uniform(14, 21) * CANVAS / SIDE
    scale = size / max(glyph.size)
    angle = np.deg2rad(rng.uniform(-8, 8))
    shift = rng.uniform(-1.5, 1.5, size=2) * CANVAS / SIDE
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    middle = CANVAS / 2 + shift
    matrix = (
        cos,
        sin,
        glyph.width / 2 - cos * middle[0] - sin * middle[1],
        -sin,
        cos,
        glyph.height / 2 + sin * middle[0] - cos * middle[1],
    )
    canvas = glyph.transform((CANVAS, CANVAS), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)
    return np.asarray(canvas.reduce(CANVAS // SIDE))


def _rendered(
    classes: Sequence[str],
    cells: Mapping[str, Sequence[Sequence[tuple[str, Face]]]],
    sizes: Mapping[str, int],
    rng: np.random.Generator,
) -> TaskData:
    """Draw each split's images: labels in equal shares, for each a random one of its class's (character, face)."""
    images: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    for split, size in sizes.items():
        labels[split] = rng.permutation(np.arange(size, dtype=np.int64) % len(classes))
        drawn = []
        for label in labels[split]:
            choices = cells[split][label]
            character, face = choices[int(rng.integers(len(choices)))]
            drawn.append(render(character, face, rng))
        images[split] = np.stack(drawn)[:, None]
    return TaskData(images, labels, list(classes))


def _of_group(characters: str, split: str) -> list[str]:
    return [family for family in covering(characters) if groups()[family] == GROUP_OF[split]]


def _letters(script: str, sizes: Mapping[str, int], seed: int) -> TaskData:
    letters = ALPHABETS[script]
    cells = {
        split: [
            [(letter, face) for family in _of_group(letters, split) for face in faces(family).values()]
            for letter in letters
        ]
        for split in sizes
    }
    return _rendered(list(letters), cells, sizes, numpy_generator(seed, "data", script))


def latin(sizes: Mapping[str, int], seed: int) -> TaskData:
    """The 26 Latin capitals; test families are unseen."""
    return _letters("latin", sizes, seed)


def cyrillic(sizes: Mapping[str, int], seed: int) -> TaskData:
    """20 Cyrillic capitals that differ from the Latin ones; test families are unseen."""
    return _letters("cyrillic", sizes, seed)


def devanagari(sizes: Mapping[str, int], seed: int) -> TaskData:
    """20 Devanagari consonants; test families are unseen."""
    return _letters("devanagari", sizes, seed)


def greek(sizes: Mapping[str, int], seed: int) -> TaskData:
    """The 31 Greek letters that P was pretrained on: what an adversary may train a bait on, and no task of ours."""
    return _letters("greek", sizes, seed)


def fontstyle(sizes: Mapping[str, int], seed: int) -> TaskData:
    """Regular, bold, italic or bold italic? A random Latin letter of a family that has all four; test families unseen."""
    letters = ALPHABETS["latin"] + ALPHABETS["lowercase"]
    cells = {
        split: [
            [
                (letter, faces(family)[style])
                for family in _of_group(letters, split)
                if len(faces(family)) == len(STYLES)
                for letter in letters
            ]
            for style in STYLES
        ]
        for split in sizes
    }
    return _rendered(STYLES, cells, sizes, numpy_generator(seed, "data", "fontstyle"))


PRETRAINING = ("lowercase", "greek", "hebrew", "thai", "arabic", "symbols")
"""The alphabets that no task asks for."""


def characters_for_pretraining(per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Characters of no task, from training families only.

    Returns:
        images uint8 [N, 1, 28, 28], labels int64 [N] and class names; ``per_class`` images a character.
    """
    rng = numpy_generator(seed, "data", "corpus", "characters")
    images, labels = [], []
    names: list[str] = []
    for script in PRETRAINING:
        able = [family for family in covering(ALPHABETS[script]) if groups()[family] == "train"]
        choices = [face for family in able for face in faces(family).values()]
        for character in ALPHABETS[script]:
            for _ in range(per_class):
                images.append(render(character, choices[rng.integers(len(choices))], rng))
                labels.append(len(names))
            names.append(f"{script} {character}")
    return np.stack(images)[:, None], np.asarray(labels, dtype=np.int64), names
