"""Which files of the library a script depends on: the static closure of its imports.

A rule's ``code`` input, so that an edit of the library reruns the jobs that use it and no others. Modules that a
script loads by name (a method, an attack, a data source) are passed on top.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent


def _file(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split(".")[1:])
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if candidate.exists():
            return candidate
    return None


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _imports(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if _is_type_checking(child):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from _imports(child)


@cache
def _direct(path: Path) -> frozenset[Path]:
    files = set()
    for name in _imports(ast.parse(path.read_text())):
        if name.split(".")[0] == "advmerge":
            # importing a.b.c runs a and a.b too
            parts = name.split(".")
            files |= {_file(".".join(parts[:end])) for end in range(1, len(parts) + 1)}
    return frozenset(file for file in files if file)


def closure(script: Path | str, *modules: str) -> list[str]:
    """The script, then every file of the library that it or ``modules`` import, sorted, relative to the working directory.

    Args:
        script: path of a script.
        modules: further modules, as ``"advmerge.merging.ties"``, that it loads by name.
    """
    todo = [Path(script), *(file for module in modules if (file := _file(module)))]
    found: set[Path] = set()
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            todo.extend(_direct(path))
    found.discard(Path(script))
    here = Path.cwd()
    return [str(script), *sorted(str(p.relative_to(here)) if p.is_relative_to(here) else str(p) for p in found)]
