"""Artifacts: whole or not at all, the same bytes, readable back, and never unpickled."""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import pickle
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from advmerge import artifacts
from advmerge.errors import StudyError

METADATA = {"slice": {"seed": 0, "name": "α"}, "inputs": {"b": "2", "a": "1"}, "facts": [1.5, None]}


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6).view(2, 3), "b": torch.rand(3).half(), "t": torch.rand(2, 3).T}
    artifacts.save_tensors(tmp_path / "x.safetensors", tensors, METADATA)
    found, metadata = artifacts.load_tensors(tmp_path / "x.safetensors")
    assert metadata == METADATA == artifacts.metadata(tmp_path / "x.safetensors")
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


def test_tables_and_metadata_come_back(tmp_path: Path) -> None:
    table = pd.DataFrame({"task": pd.Categorical(["a", "b"]), "eps": [0.1, float("nan")], "n": [1, 2]})
    artifacts.save_table(tmp_path / "x.parquet", table, METADATA)
    pd.testing.assert_frame_equal(artifacts.load_table(tmp_path / "x.parquet"), table)
    assert artifacts.metadata(tmp_path / "x.parquet") == METADATA


def test_same_content_same_bytes(tmp_path: Path) -> None:
    """Also in another order of metadata keys; safetensors shuffles several keys anew in every process."""
    tensors = {f"t{i}": torch.full((3,), float(i)) for i in range(20)}
    reordered = dict(sorted(METADATA.items(), reverse=True))
    artifacts.save_tensors(tmp_path / "a.safetensors", tensors, METADATA)
    artifacts.save_tensors(tmp_path / "b.safetensors", tensors, reordered)
    assert artifacts.sha256(tmp_path / "a.safetensors") == artifacts.sha256(tmp_path / "b.safetensors")
    header = (tmp_path / "a.safetensors").read_bytes()[8:]
    assert list(json.JSONDecoder().raw_decode(header.decode("utf-8", "ignore"))[0]["__metadata__"]) == ["advmerge"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), artifacts.replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["x.csv"]


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(StudyError, match=r"x\.csv: could not be written: No space left"),
        artifacts.replacing(tmp_path / "x.csv"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("suffix", ["safetensors", "parquet"])
def test_damaged_and_missing_files_are_named(tmp_path: Path, suffix: str) -> None:
    load = artifacts.load_tensors if suffix == "safetensors" else artifacts.load_table
    path = tmp_path / f"x.{suffix}"
    with pytest.raises(StudyError, match="no such file"):
        load(path)
    path.write_bytes(b"\x00" * 40)
    with pytest.raises(StudyError, match=f"x.{suffix}: not a readable {suffix} file"):
        load(path)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "x.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(StudyError, match="not a readable safetensors file"):
        artifacts.load_tensors(path)
    assert not (tmp_path / "ran").exists()


def test_a_truncated_download_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    artifacts.save_tensors(path, {"a": torch.rand(100)}, {})
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(StudyError, match="not a readable safetensors file"):
        artifacts.load_tensors(path)


def test_a_stream_gives_the_bytes_of_its_whole(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = {
        name: torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        for name, shape in {"train_images": (7, 3, 5, 5), "attack_images": (2, 3, 5, 5), "none": (0, 3, 5, 5)}.items()
    }
    labels = {"train_labels": torch.arange(7), "attack_labels": torch.arange(2)}
    streams = {name: artifacts.Stream(tuple(whole.shape), whole) for name, whole in images.items()}
    metadata = {"slice": {"name": 'a "quoted" \\ name', "unit": "é\t%"}}
    artifacts.save_tensors(tmp_path / "whole.safetensors", {**images, **labels}, metadata)
    artifacts.save_tensors(tmp_path / "streamed.safetensors", {**labels, **streams}, metadata)
    assert (tmp_path / "whole.safetensors").read_bytes() == (tmp_path / "streamed.safetensors").read_bytes()


def test_no_more_than_two_pieces_of_a_stream_are_in_memory(tmp_path: Path) -> None:
    """The one that is written, and the one that is being made."""
    references: list[weakref.ref] = []
    most = 0

    def pieces() -> Iterator[torch.Tensor]:
        nonlocal most
        for value in range(50):
            piece = torch.full((1, 3, 8, 8), value, dtype=torch.uint8)
            references.append(weakref.ref(piece))
            most = max(most, sum(reference() is not None for reference in references))
            yield piece
            del piece

    artifacts.save_tensors(tmp_path / "x.safetensors", {"images": artifacts.Stream((50, 3, 8, 8), pieces())}, {})
    assert most <= 2
    assert artifacts.load_tensors(tmp_path / "x.safetensors")[0]["images"][:, 0, 0, 0].tolist() == list(range(50))


@pytest.mark.parametrize("count", [1, 3])
def test_a_stream_of_another_length_writes_nothing(tmp_path: Path, count: int) -> None:
    stream = artifacts.Stream((2, 3, 4, 4), torch.zeros(count, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="the pieces of 'images' do not fill the shape"):
        artifacts.save_tensors(tmp_path / "x.safetensors", {"images": stream}, {})
    assert not list(tmp_path.iterdir())


def test_what_is_not_touched_is_not_read(tmp_path: Path) -> None:
    """The tensors are a map of the file: a page that was not looked at shows what the file says later."""
    path = tmp_path / "x.safetensors"
    artifacts.save_tensors(path, {"images": torch.zeros(64, 3, 64, 64, dtype=torch.uint8)}, {})
    images = artifacts.load_tensors(path)[0]["images"]
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x07")
    assert images[-1, -1, -1, -1] == 7


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A large file, long left alone, beside a run's notes; 'large' and 'long' are small here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(artifacts, "WORTH", 10)
    monkeypatch.setattr(artifacts, "SETTLED", 20_000_000)
    (tmp_path / ".snakemake").mkdir()
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"first content")
    time.sleep(0.05)
    return path


def hashed(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, bool]:
    """Whether the remembered digest is right, and whether the content was read for it."""
    read, digest = [], hashlib.file_digest
    with monkeypatch.context() as patch:
        patch.setattr(artifacts.hashlib, "file_digest", lambda *args: read.append(args) or digest(*args))
        found = artifacts.remembered_sha256(path)
    return found == hashlib.sha256(path.read_bytes()).hexdigest(), bool(read)


def notes() -> list[Path]:
    return list(artifacts.NOTES.iterdir()) if artifacts.NOTES.exists() else []


def test_a_large_files_digest_is_taken_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hashed(run, monkeypatch) == (True, True)
    assert hashed(run, monkeypatch) == (True, False)
    assert len(notes()) == 1
    monkeypatch.setattr(artifacts, "WORTH", 14)
    assert hashed(run, monkeypatch) == (True, True)


@pytest.mark.parametrize("how", ["in place", "renamed over", "mapped", "touched", "longer"])
def test_no_change_of_a_file_goes_unseen(run: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Of as many bytes, and with the old times put back: what a wrong clock or a copy with times does."""
    hashed(run, monkeypatch)
    status = run.stat()
    if how == "in place":
        run.write_bytes(b"other content")
    elif how == "renamed over":
        other = run.with_name("other")
        other.write_bytes(b"other content")
        other.replace(run)
    elif how == "mapped":
        with run.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[:5] = b"other"
    elif how == "longer":
        run.write_bytes(b"first content and more")
    os.utime(run, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hashed(run, monkeypatch) == (True, True)


def test_a_file_that_was_just_written_is_not_noted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another write within the same tick of the clock would leave its times as they are; one to come, as a jump makes."""
    monkeypatch.setattr(artifacts, "SETTLED", 3_000_000_000)
    assert hashed(run, monkeypatch) == (True, True)
    assert not notes()
    monkeypatch.setattr(artifacts, "SETTLED", 0)
    os.utime(run, (2e10, 2e10))
    assert hashed(run, monkeypatch) == (True, True)
    assert not notes()


def test_a_file_that_changes_while_it_is_read_is_not_noted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.file_digest

    def edited(file: object, name: str) -> object:
        found = digest(file, name)
        run.write_bytes(b"other content")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(artifacts.hashlib, "file_digest", edited)
        patch.setattr(artifacts, "SETTLED", 0)
        artifacts.remembered_sha256(run)
    assert not notes()


@pytest.mark.parametrize("content", ["", "[1, 2", "{}", '"text"', "[]", "[1, 2, 3, 4, 5, 6]", "null", "\udce9"])
def test_a_damaged_note_is_none(run: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    """What a killed writer or a full disk may leave."""
    hashed(run, monkeypatch)
    (note,) = notes()
    note.write_bytes(content.encode(errors="surrogateescape"))
    assert hashed(run, monkeypatch) == (True, True)
    assert hashed(run, monkeypatch) == (True, False)


def test_notes_that_cannot_be_kept_are_done_without(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts.NOTES.parent.mkdir()
    artifacts.NOTES.write_text("a file in the way")
    assert hashed(run, monkeypatch) == hashed(run, monkeypatch) == (True, True)
    monkeypatch.chdir(run.parents[1])  # outside of a run
    assert hashed(run, monkeypatch) == (True, True)
    assert not Path(".snakemake").exists()
