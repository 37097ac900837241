"""Reading the YAML files that people write: safely, and with every refusal one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from advmerge.errors import StudyError


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is an error, not a silent choice of the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise StudyError(f"{self.name}: the key '{key}' is given twice (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read(path: Path | str) -> Any:
    """The content of a file.

    Raises:
        StudyError: naming the file, and where it is not YAML.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            return yaml.load(file, Loader=UniqueKeys)
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file") from None
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise StudyError(f"{path}: not readable as YAML: it is nested too deeply") from None


def sentence(error: ValidationError, known: Callable[[tuple[Any, ...]], Iterable[str]]) -> str:
    """The first thing wrong, in words that name its key, on one line.

    Args:
        error: of a file's content.
        known: where an unknown key stands → the keys that may stand there.
    """
    # A misspelt key is both unknown and missing; that it is unknown says more.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    if first["type"] == "extra_forbidden":
        said = f"unknown key '{key}'; choose one of: {', '.join(sorted(known(first['loc'][:-1])))}"
    elif first["type"] == "missing":
        said = f"the key '{key}' is missing"
    else:
        message = first["msg"].removeprefix("Value error, ")
        got = "" if first["type"] == "value_error" else f", got {first['input']!r:.80}"
        said = f"{key + ': ' if key else ''}{message[0].lower() + message[1:]}{got}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return " ".join(f"{said}{more}".split())
