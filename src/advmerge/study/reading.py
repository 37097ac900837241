"""Reading a study file: every refusal is one sentence."""

from __future__ import annotations

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


def _sentence(path: Path, error: ValidationError) -> str:
    """The first thing wrong, as one sentence that names its key and the choices."""
    # A misspelt key is both unknown and missing; that it is unknown says more.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        annotation: Any = Study
        for part in first["loc"][:-1]:
            annotation = _within(annotation, part)
        choices = ", ".join(sorted(_section(annotation).model_fields))
        return f"{path}: unknown key '{key}'; choose one of: {choices}{more}"
    if first["type"] == "missing":
        return f"{path}: the key '{key}' is missing{more}"
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] == "value_error" else f", got {first['input']!r:.80}"
    said = f"{key + ': ' if key else ''}{message[0].lower() + message[1:]}{got}{more}"
    return f"{path}: {' '.join(said.split())}"


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
        raise StudyError(" ".join(_sentence(path, error).splitlines())) from None  # a name may hold a line break
