"""Reading a study file: every refusal is one sentence."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from advmerge import yaml_files
from advmerge.artifacts import canonical
from advmerge.errors import StudyError
from advmerge.study.sections import Section
from advmerge.study.whole import Study


def _section(annotation: Any) -> type[Section]:
    """The section that an annotation stands for: itself, or what may be None."""
    kinds = [annotation, *get_args(annotation)]
    return next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section))


def _within(annotation: Any, part: Any) -> Any:
    """The annotation of a key of a section, or of a value of a mapping."""
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    return _section(annotation).model_fields[part].annotation


def _known(place: tuple[Any, ...]) -> Iterable[str]:
    """The keys that a study may have at a place."""
    annotation: Any = Study
    for part in place:
        annotation = _within(annotation, part)
    return _section(annotation).model_fields


def load(path: Path | str) -> Study:
    """Read and validate a study file.

    Raises:
        StudyError: one sentence naming the file, the key and what was expected.
    """
    path = Path(path)
    content = yaml_files.read(path)
    if not isinstance(content, dict):
        raise StudyError(f"{path}: expected a mapping of keys to values, found {type(content).__name__}")
    try:
        canonical(content)
    except (TypeError, ValueError, RecursionError) as error:
        kinds = "text, finite numbers, true, false, null, lists and mappings of these"
        raise StudyError(f"{path}: holds something else than {kinds} ({error})") from None
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise StudyError(f"{path}: {yaml_files.sentence(error, _known)}") from None
