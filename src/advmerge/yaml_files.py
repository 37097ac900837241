"""Reading the YAML files that people write: safely, and with every refusal one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

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
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise StudyError(f"{path}: not readable as YAML: it is nested too deeply") from None
