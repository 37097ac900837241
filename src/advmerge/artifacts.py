"""Artifacts explain themselves and appear whole or not at all.

An artifact is a safetensors or parquet file whose metadata carry, under the one key ``advmerge``, canonical
JSON: the slice of the study it depends on, the SHA-256 of every input, and facts about its content. One
key, because safetensors orders several keys by a randomly seeded hash, and artifacts must be equal byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advmerge.errors import StudyError

if TYPE_CHECKING:
    import pandas
    import torch

KEY = "advmerge"


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(path: Path | str) -> str:
    """Hex digest of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def save_tensors(path: Path | str, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> None:
    """Write named tensors and their metadata as safetensors, whole or not at all."""
    from safetensors.torch import save

    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {KEY: canonical(metadata)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _opened(path: Path | str, open_file: Callable[[], Any]) -> Any:
    if not Path(path).exists():
        raise StudyError(f"{path}: no such file")
    try:
        return open_file()
    except Exception as error:  # safetensors and pyarrow raise types of their own for damaged files
        raise StudyError(f"{path}: not a readable {Path(path).suffix[1:]} file ({error})") from error


def load_tensors(path: Path | str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote: (tensors, metadata). Metadata are empty for a foreign file.

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
