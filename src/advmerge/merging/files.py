"""Safetensors read lazily and written tensor by tensor, so that a merge never holds more than it merges."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from advmerge.artifacts import KEY, canonical, replacing
from advmerge.errors import StudyError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The format's name of a type → torch's."""

PICKLES = (b"PK\x03\x04", b"\x80")
"""How a checkpoint of ``torch.save`` begins: a zip archive, or a bare pickle."""


INDEX = ".safetensors.index.json"
"""How the name of a file ends that says which tensor of a checkpoint lies in which of its files."""


def parts(path: Path) -> dict[Path, set[str] | None]:
    """The files of a checkpoint, each with the tensors that it is to hold, None where nothing says so.

    Args:
        path: a safetensors file, or a folder as on the Hugging Face hub: with one such file, or with several and an index.

    Raises:
        StudyError: nothing is there, the folder holds neither, or its index cannot be right.
    """
    if not path.exists():
        raise StudyError(f"{path}: no such file or folder")
    if not path.is_dir():
        return {path: None}
    indices, files = sorted(path.glob(f"*{INDEX}")), sorted(path.glob("*.safetensors"))
    if not indices and len(files) == 1:
        return {files[0]: None}
    if len(indices) != 1:
        raise StudyError(
            f"{path}: holds {len(files)} safetensors files and {len(indices)} files *{INDEX}; expected one file, or one index"
        )
    try:
        places = json.loads(indices[0].read_bytes())["weight_map"].items()
        found: dict[Path, set[str]] = {path / name: set() for _, name in places}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise StudyError(f"{indices[0]}: expected JSON with a 'weight_map' of tensor names to file names") from None
    for tensor, name in places:
        if not name or Path(name).name != name:
            raise StudyError(f"{indices[0]}: places '{tensor}' outside its folder, in '{name}'")
        found[path / name].add(tensor)
    return {**found}


class Lazy(Mapping[str, Tensor]):
    """The tensors of a safetensors checkpoint, each read when it is asked for and forgotten by us at once.

    Read, not mapped: a map keeps every page that was ever touched in memory, and faults cost more than copies.

    Attributes:
        path: of the file or folder.
        files: those that the tensors lie in.
        specification: name → (type, shape), in the order in which the tensors lie in the files.
        metadata: the first file's own, text → text.

    Raises:
        StudyError: the file is missing, a pickle, or not safetensors; or one of several does not hold what the
            index says (:func:`parts`).
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.metadata: dict[str, str] = {}
        self.specification: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        self._places: dict[str, tuple[BinaryIO, int]] = {}
        found = parts(self.path)
        self.files = list(found)
        for file, wanted in found.items():
            self._open(file, wanted)

    def _open(self, path: Path, wanted: set[str] | None) -> None:
        """Add the tensors of a file, which are to be those that are wanted of it."""
        if not path.is_file():
            raise StudyError(f"{path}: no such file")
        try:
            with safe_open(str(path), framework="pt") as file:
                self.metadata = self.metadata or dict(file.metadata() or {})
                slices = {name: file.get_slice(name) for name in file.offset_keys()}
                added = {name: (DTYPES[part.get_dtype()], tuple(part.get_shape())) for name, part in slices.items()}
        except KeyError as error:
            raise StudyError(f"{path}: holds tensors of the type {error}, which torch lacks") from None
        except Exception as error:  # safetensors raises types of its own for damaged files
            with path.open("rb") as file:
                if file.read(4).startswith(PICKLES):
                    raise StudyError(
                        f"{path}: is a pickle, which runs code when it is read; convert it to safetensors first"
                    ) from None
            raise StudyError(f"{path}: not a readable safetensors file ({error})") from error
        wanted = set(added) if wanted is None else wanted
        for name in sorted(wanted ^ added.keys()):
            raise StudyError(f"{path}: {'lacks' if name in wanted else 'holds'} the tensor '{name}', against its index")
        self.specification |= added
        opened = path.open("rb", buffering=0)
        weakref.finalize(self, opened.close)
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
        self._places |= {name: (opened, 8 + length + header[name]["data_offsets"][0]) for name in added}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.specification:
            raise KeyError(name)
        shape = torch.Size(self.specification[name][1])
        return self.piece(name, 0, shape.numel()).view(shape)

    def piece(self, name: str, start: int, stop: int) -> Tensor:
        """Entries ``start`` to ``stop`` of a tensor's flat form.

        Raises:
            StudyError: the file has become shorter than it was.
        """
        found = torch.empty(stop - start, dtype=self.specification[name][0])
        self.read(name, start, found)
        return found

    def read(self, name: str, start: int, room: Tensor) -> None:
        """:meth:`piece` into a flat tensor of the same type, as many entries as it has."""
        left = room.view(torch.uint8).numpy().data
        file, offset = self._places[name]
        offset += start * room.element_size()
        while left:  # one call reads two gigabytes at most
            count = os.preadv(file.fileno(), [left], offset)
            if not count:
                raise StudyError(f"{self.path}: ends within the tensor '{name}'")
            left, offset = left[count:], offset + count

    def __iter__(self) -> Iterator[str]:
        return iter(self.specification)

    def __len__(self) -> int:
        return len(self.specification)


def specification(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Name → (type, shape) of each tensor; nothing is read where they lie in a file."""
    if isinstance(tensors, Lazy):
        return tensors.specification
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def piece(tensors: Mapping[str, Tensor], name: str, start: int, stop: int) -> Tensor:
    """Entries ``start`` to ``stop`` of a tensor's flat form; no more than these are read where it lies in a file."""
    if isinstance(tensors, Lazy):
        return tensors.piece(name, start, stop)
    return tensors[name].reshape(-1)[start:stop]


def fill(room: Tensor, tensors: Mapping[str, Tensor], name: str, start: int) -> None:
    """:func:`piece` into a flat tensor, as many entries as it has, in its type."""
    if isinstance(tensors, Lazy) and tensors.specification[name][0] == room.dtype:
        tensors.read(name, start, room)
    else:
        room.copy_(piece(tensors, name, start, start + room.numel()))


def floating(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are merged: those of floating type."""
    return [name for name, (dtype, _) in specification(tensors).items() if dtype.is_floating_point]


def write_like(
    path: Path | str, template: Lazy, tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file one tensor after the other, whole or not at all.

    Args:
        path: of the new file.
        template: a checkpoint whose tensors' names, types, shapes and order the new one takes.
        tensors: name and tensor, in that order.
        metadata: of the file; equal metadata and tensors give equal bytes.

    Raises:
        StudyError: the file cannot be written.
        ValueError: the tensors are not those of the template.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name, (dtype, shape) in template.specification.items():
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors' bytes are aligned
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        wanted = iter(template.specification.items())
        for name, tensor in tensors:
            if (name, (tensor.dtype, tuple(tensor.shape))) != next(wanted, None):
                raise ValueError(f"'{name}' is not the tensor that the file's header announces")
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        if next(wanted, None) is not None:
            raise ValueError("the tensors end before those of the file's header")


def by_name(paths: Iterable[Path | str]) -> dict[str, Path]:
    """Checkpoints by their names without the suffix, or by their whole paths where two have the same name.

    Raises:
        StudyError: one is given twice.
    """
    files = [Path(path) for path in paths]
    short = {file: file.name.removesuffix(".safetensors") for file in files}
    twice = len(set(short.values())) < len(files)
    named = {str(file) if twice else short[file]: file for file in files}
    if len(named) < len(files):
        raise StudyError("an expert is given twice")
    return named


def merge_files(
    method: str,
    pretrained: Path | str,
    experts: Mapping[str, Path | str] | Iterable[Path | str],
    output: Path | str,
    *,
    seed: int = 0,
    task: str | None = None,
    **options: Any,
) -> None:
    """Merge safetensors checkpoints by a method that needs no data, tensor by tensor.

    >>> merge_files("ties", "p.safetensors", ["a.safetensors", "b.safetensors"], "m.safetensors",
    ...             keep=0.2, scale=1.0)  # doctest: +SKIP

    Args:
        method: a name of :data:`advmerge.merging.MODULES`.
        pretrained: the checkpoint that the experts were fine-tuned from: a safetensors file, or a folder (:func:`parts`).
        experts: name → checkpoint; or checkpoints, which go by their files' names without the suffix.
        output: the merged checkpoint, one file: the pretrained one's names, types, shapes and metadata, and how it was made.
        seed: of a random method's draws.
        task: of a method that answers per task, the expert whose task the checkpoint answers.
        options: of the method, one value each.

    Raises:
        StudyError: one sentence on what is wrong with the method, an option or a file.
    """
    from advmerge.merging import method as find
    from advmerge.merging.engine import stream

    named = (
        {str(name): Path(path) for name, path in experts.items()} if isinstance(experts, Mapping) else by_name(experts)
    )
    if find(method).per_task and task is None:
        raise StudyError(f"merging method '{method}' makes a model a task: give the task, one of: {', '.join(named)}")
    base = Lazy(pretrained)
    opened = {name: Lazy(path) for name, path in named.items()}
    if Path(output).resolve() in {file.resolve() for model in (base, *opened.values()) for file in model.files}:
        raise StudyError(f"{output}: is one of the models that are merged; write to another file")
    if Path(output).is_dir():
        raise StudyError(f"{output}: is a folder; expected the name of a safetensors file")
    ours = json.loads(base.metadata.get(KEY, "{}"))
    made = {"method": method, "options": options, "seed": seed, "task": task, "experts": list(named)}
    kept = {"backbone": ours["backbone"]} if "backbone" in ours else {}
    metadata = base.metadata | {KEY: canonical({"rule": "merge", "slice": made, **kept})}
    write_like(output, base, stream(method, base, opened, seed=seed, task=task, **options), metadata)  # type: ignore[arg-type]
