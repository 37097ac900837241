"""Nothing here unpickles, runs code that came with data, or unpacks an archive outside its folder."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ("src", "workflow", "benchmarks")

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "xml.etree"}
CALLS = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "os.system": "runs a shell",
    "os.popen": "runs a shell",
    "yaml.unsafe_load": "makes any object",
    "yaml.full_load": "makes any object",
    "pandas.read_pickle": "unpickles",
    "pd.read_pickle": "unpickles",
    "pd.read_hdf": "unpickles",
    "torch.hub.load": "runs a repository's code",
    "shutil.unpack_archive": "follows paths out of the folder",
}


def name_of(node: ast.expr) -> str:
    """``a.b.c`` of a call's function, as far as it is plain."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def unsafe(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) of everything in a module that could run what came with data."""
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from ((node.lineno, f"imports {name}") for name in modules if name.split(".")[0] in MODULES)
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        options = {keyword.arg: keyword.value for keyword in node.keywords}
        given = {key: value.value for key, value in options.items() if isinstance(value, ast.Constant)}
        last = name.rsplit(".", 1)[-1]
        if name in CALLS:
            yield node.lineno, f"{name} {CALLS[name]}"
        if name == "torch.load" and given.get("weights_only") is not True:
            yield node.lineno, "torch.load without weights_only=True"
        if name.endswith(("np.load", "numpy.load")) and given.get("allow_pickle", False) is not False:
            yield node.lineno, "numpy.load with pickles"
        if name == "yaml.load" and "Loader" not in options:
            yield node.lineno, "yaml.load without a Loader"
        if "trust_remote_code" in options and given.get("trust_remote_code") is not False:
            yield node.lineno, "trust_remote_code"
        if last in ("extractall", "extract") and "filter" not in options and "zip" not in name.lower():
            yield node.lineno, f"{name} without filter='data'"
        if "filter" in options and last in ("extractall", "extract") and given.get("filter") != "data":
            yield node.lineno, f"{name} without filter='data'"
        if given.get("shell") is True:
            yield node.lineno, f"{name} with shell=True"


FILES = sorted(path for top in SHIPPED for path in (ROOT / top).rglob("*.py"))


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) > 60


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_can_run_what_came_with_data(path: Path) -> None:
    assert list(unsafe(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(file)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=flag)",
        "archive.extractall(folder)",
        "archive.extractall(folder, filter='fully_trusted')",
        "subprocess.run(line, shell=True)",
        "eval(text)",
    ],
)
def test_what_would_be_found(code: str) -> None:
    assert list(unsafe(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(path, weights_only=True)",
        "yaml.load(file, Loader=Safe)",
        "model.eval()",
        "archive.extractall(folder, filter='data')",
    ],
)
def test_what_would_not(code: str) -> None:
    assert not list(unsafe(ast.parse(code)))


def test_the_studys_yaml_makes_no_objects() -> None:
    """The one loader with a Loader of its own is a safe one."""
    import yaml

    from advmerge.yaml_files import UniqueKeys

    assert issubclass(UniqueKeys, yaml.SafeLoader)


def test_no_pickle_is_kept_in_git() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not [
        name for name in listed.split("\0") if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".npy"))
    ]
