"""A study file in which anything may have happened is read, or refused in one sentence that names it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from advmerge.artifacts import canonical
from advmerge.errors import StudyError
from advmerge.study import load

TEXT = (Path(__file__).parents[2] / "studies/smoke.yaml").read_bytes()
LINES = TEXT.splitlines(keepends=True)

edits = st.lists(
    st.tuples(st.integers(0, len(TEXT)), st.integers(0, 12), st.binary(max_size=6) | st.text(max_size=6)),
    min_size=1,
    max_size=3,
)
# Numbers and names as people mistype them; bytes alone seldom leave YAML whole.
values = st.sampled_from(
    ["", "null", "-1", "0", "1e400", ".nan", "yes", "[]", "{}", "[1, [2]]", "4/0", "1/255/2", "../x", "&a [*a]", "!!python/object:os.system {}"]
)  # fmt: skip


def read(path: Path) -> None:
    """Load a study as the Snakefile does; what is refused is refused in one sentence."""
    try:
        study = load(path)
        assert canonical([study.artifacts(), study.claims_slice(), study.report_slice()])
    except StudyError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "study.yaml"


@settings(max_examples=200, deadline=None)
@given(edits=edits)
def test_any_bytes_anywhere(path: Path, edits: list[tuple[int, int, bytes | str]]) -> None:
    content = TEXT
    for start, length, new in edits:
        content = content[:start] + (new if isinstance(new, bytes) else new.encode()) + content[start + length :]
    path.write_bytes(content)
    read(path)


@settings(max_examples=100, deadline=None)
@given(line=st.integers(0, len(LINES) - 1), again=st.booleans())
def test_lines_lost_and_doubled(path: Path, line: int, again: bool) -> None:
    path.write_bytes(b"".join([*LINES[:line], *([LINES[line]] * 2 if again else []), *LINES[line + 1 :]]))
    read(path)


def places(value: object, at: tuple = ()) -> list[tuple]:
    """The path of every value in a nested study."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, inner in items for place in places(inner, (*at, key)))]


@settings(max_examples=150, deadline=None)
@given(place=st.sampled_from(places(yaml.safe_load(TEXT))[1:]), value=values)
def test_any_value_in_any_place(path: Path, place: tuple, value: str) -> None:
    content = yaml.safe_load(TEXT)
    inside = content
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = "PLACE"
    text = yaml.safe_dump(content, sort_keys=False)
    assert text.count("PLACE") == 1
    path.write_text(text.replace("PLACE", value))
    read(path)
