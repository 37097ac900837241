"""Artifacts explain themselves and appear whole or not at all.

An artifact is a safetensors or parquet file whose metadata carry, under the one key ``advmerge``, canonical
JSON: the slice of the study it depends on, the SHA-256 of every input, and facts about its content. One
key, because safetensors orders several keys by a randomly seeded hash, and artifacts must be equal byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from advmerge.errors import StudyError

if TYPE_CHECKING:
    import pandas
    import torch

KEY = "advmerge"

NOTES = Path(".snakemake/advmerge/digests")
WORTH = 8_000_000  # bytes from which a file's digest is worth a note
SETTLED = 3_000_000_000  # nanoseconds; the coarsest clock of a file system ticks every two seconds


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(path: Path | str) -> str:
    """Hex digest of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(status: os.stat_result) -> list[int]:
    """What changes with any write to a file, rename of it, or change of its times: nobody sets ctime."""
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _noted(note: Path) -> tuple[list[int], str] | None:
    """The identity and digest that a note holds; None for none, or a damaged one."""
    try:
        *identity, digest = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return None
    return (identity, digest) if isinstance(digest, str) and len(digest) == 64 else None


def remembered_sha256(path: Path | str) -> str:
    """As :func:`sha256`, but within a run the content of a large file is read once, not by every job that reads of it.

    The digest is noted under ``.snakemake/advmerge`` with the file's device, inode, size, mtime and ctime, and taken
    from there while they are the same. A write that follows a look within a tick of the file system's clock leaves
    all of them as they were, so a file is not noted until it has been left alone for :data:`SETTLED` by that clock; one on
    another device than the notes, whose clock may be another, never is. Only for provenance: the audit reads contents.
    """
    path = Path(path)
    with path.open("rb") as file:
        before = _identity(os.fstat(file.fileno()))
        worth = before[2] >= WORTH and NOTES.parents[1].is_dir()
        note = NOTES / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
        if worth and (noted := _noted(note)) and noted[0] == before:
            return noted[1]
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        after = os.fstat(file.fileno())
    if worth and _identity(after) == before:
        with suppress(OSError, StudyError, _Unsettled), replacing(note) as temporary:
            temporary.write_text(json.dumps([*before, digest]), encoding="utf-8")
            now = temporary.stat()
            if now.st_dev != after.st_dev or now.st_ctime_ns - max(after.st_mtime_ns, after.st_ctime_ns) < SETTLED:
                raise _Unsettled
    return digest


class _Unsettled(Exception):
    """A file that may still change unnoticed."""


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a path beside ``path``; rename it onto ``path`` when the block ends well, remove it otherwise.

    A full disk, an exception or a kill leaves ``path`` as it was. The temporary name is hidden and carries
    the process id, so that two writers never share one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StudyError(f"{path}: could not be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


class Stream(NamedTuple):
    """uint8 pixels yet to be made: their shape, and the pieces that they come in, in order."""

    shape: tuple[int, ...]
    pieces: Iterable[torch.Tensor]


def save_tensors(path: Path | str, tensors: Mapping[str, torch.Tensor | Stream], metadata: Mapping[str, Any]) -> None:
    """Write named tensors and their metadata as safetensors, whole or not at all.

    With a :class:`Stream` among them one piece is in memory at a time; the bytes are those that its whole would give.

    Raises:
        StudyError: the file cannot be written.
        ValueError: a stream ends before its shape is filled, or after.
    """
    plain = {name: tensor.contiguous() for name, tensor in tensors.items() if not isinstance(tensor, Stream)}
    if len(plain) < len(tensors):
        return _save_streamed(path, tensors, metadata)

    from safetensors.torch import save

    content = save(plain, {KEY: canonical(metadata)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _save_streamed(path: Path | str, tensors: Mapping[str, torch.Tensor | Stream], metadata: Mapping[str, Any]) -> None:
    """What safetensors' own writer does (int64 before uint8, then by name), a piece at a time."""
    import torch

    codes = {torch.int64: "I64", torch.uint8: "U8"}
    kinds = {name: torch.uint8 if isinstance(t, Stream) else t.dtype for name, t in tensors.items()}
    names = sorted(tensors, key=lambda name: (list(codes).index(kinds[name]), name))
    header: dict[str, Any] = {"__metadata__": {KEY: canonical(metadata)}}
    end = 0
    for name in names:
        start, end = end, end + torch.Size(tensors[name].shape).numel() * kinds[name].itemsize
        shape = list(tensors[name].shape)
        header[name] = {"dtype": codes[kinds[name]], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors' bytes are aligned
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = tensors[name]
            pieces: Iterable[torch.Tensor] = tensor.pieces if isinstance(tensor, Stream) else [tensor]
            for piece in pieces:
                file.write(piece.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            if file.tell() != 8 + len(text) + header[name]["data_offsets"][1]:
                raise ValueError(f"the pieces of '{name}' do not fill the shape {header[name]['shape']}")


def _opened(path: Path | str, open_file: Callable[[], Any]) -> Any:
    if not Path(path).exists():
        raise StudyError(f"{path}: no such file")
    try:
        return open_file()
    except Exception as error:  # safetensors and pyarrow raise types of their own for damaged files
        raise StudyError(f"{path}: not a readable {Path(path).suffix[1:]} file ({error})") from error


def load_tensors(path: Path | str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote: (tensors, metadata). Metadata are empty for a foreign file.

    The tensors are a private map of the file: what is not touched is not read, and what is can be dropped again.

    Raises:
        StudyError: the file is missing or is not safetensors (nothing is ever unpickled).
    """
    from safetensors import safe_open

    def read() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        with safe_open(str(path), framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(KEY, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118

    return _opened(path, read)


def save_table(path: Path | str, table: pandas.DataFrame, metadata: Mapping[str, Any]) -> None:
    """Write a table and its metadata as parquet, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = pa.Table.from_pandas(table, preserve_index=False)
    content = content.replace_schema_metadata(
        {**(content.schema.metadata or {}), KEY.encode(): canonical(metadata).encode()}
    )
    with replacing(path) as temporary:
        pq.write_table(content, temporary, compression="zstd")


def save_text(path: Path | str, text: str) -> None:
    """Write a text, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_csv(path: Path | str, table: pandas.DataFrame) -> None:
    """Write a table for readers, with six digits of each number, whole or not at all."""
    save_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def load_table(path: Path | str) -> pandas.DataFrame:
    """Read what :func:`save_table` wrote.

    Raises:
        StudyError: the file is missing or is not parquet.
    """
    import pyarrow.parquet as pq

    return _opened(path, lambda: pq.ParquetFile(path).read().to_pandas())


def metadata(path: Path | str) -> dict[str, Any]:
    """The metadata of an artifact of either format, read without its content.

    Raises:
        StudyError: the file is missing or damaged.
    """
    if Path(path).suffix == ".parquet":
        import pyarrow.parquet as pq

        return _opened(path, lambda: json.loads((pq.read_schema(path).metadata or {}).get(KEY.encode(), b"{}")))

    from safetensors import safe_open

    def read() -> dict[str, Any]:
        with safe_open(str(path), framework="np") as file:
            return json.loads((file.metadata() or {}).get(KEY, "{}"))

    return _opened(path, read)
