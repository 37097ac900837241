"""Exact order statistics of whole models, without sorting or holding them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from torch import Tensor

CHUNK = 1 << 16  # entries at a time: a quarter of a megabyte, of which a dozen stay in the cache


def _keys(values: Tensor) -> Iterable[np.ndarray]:
    """The entries as uint32 that are ordered as the floats are, in chunks."""
    flat = values.detach().reshape(-1).numpy()
    for start in range(0, len(flat), CHUNK):
        bits = flat[start : start + CHUNK].view(np.int32)
        # IEEE floats of one sign are ordered as integers: flip the sign bit, and every bit of negative numbers.
        yield (bits ^ ((bits >> 31) | np.int32(-(2**31)))).view(np.uint32)


def largest(stream: Callable[[], Iterable[Sequence[Tensor]]], ranks: Sequence[Sequence[int]]) -> list[list[float]]:
    """The k-th largest entries of T vectors that come in pieces.

    Two passes: a histogram over the upper 16 bits of the floats finds the bin in which an entry lies, a second one
    over the lower 16 bits of that bin finds the entry itself. Exact, in memory that does not grow with the vectors.

    Args:
        stream: begins a pass; each of its items is the T vectors' next piece, float32 of any shape, without NaN.
        ranks: for each vector, the k wanted of it, from 1 (the largest) to its length.

    Returns:
        For each vector, the value at each of its ranks.
    """
    upper = [np.zeros(1 << 16, np.int64) for _ in ranks]
    for pieces in stream():
        for counts, piece in zip(upper, pieces, strict=True):
            for keys in _keys(piece):
                counts += np.bincount(keys >> 16, minlength=1 << 16)
    places = [[_locate(counts, rank) for rank in wanted] for counts, wanted in zip(upper, ranks, strict=True)]
    lower = [{bin_: np.zeros(1 << 16, np.int64) for bin_, _ in found} for found in places]
    for pieces in stream():
        for tables, piece in zip(lower, pieces, strict=True):
            for keys in _keys(piece):
                high = keys >> 16
                for bin_, counts in tables.items():
                    counts += np.bincount(keys[high == bin_] & 0xFFFF, minlength=1 << 16)
    return [
        [_value(bin_, _locate(tables[bin_], rank)[0]) for bin_, rank in found]
        for tables, found in zip(lower, places, strict=True)
    ]


def largest_near(
    stream: Callable[[], Iterable[Sequence[Tensor]]], ranks: Sequence[int], guesses: Sequence[float]
) -> list[float]:
    """:func:`largest` with one rank a vector, in one pass where each guess is within a hundredth of what is sought.

    What is greater than the floats around a guess is counted together, those themselves one by one. A guess that
    is worse, or not positive, costs a pass.

    Args:
        stream: as of :func:`largest`.
        ranks: of each vector, from 1.
        guesses: of each vector's value.
    """
    around = 1 << 17  # floats to either side: at least a 128th of the guess
    lowest = [int(np.float32(guess).view(np.int32)) - around for guess in guesses]
    if min(lowest) > 0:
        above = np.zeros(len(ranks), np.int64)
        counts = [np.zeros(2 * around, np.int64) for _ in ranks]
        limits = np.array([lowest, [low + 2 * around for low in lowest]], np.int32).view(np.float32)
        for pieces in stream():
            for index, (piece, low, high) in enumerate(zip(pieces, *limits, strict=True)):
                flat = piece.detach().reshape(-1).numpy()
                above[index] += np.count_nonzero(flat >= high)
                within = flat[np.flatnonzero((flat >= low) & (flat < high))]
                np.add.at(counts[index], within.view(np.int32) - lowest[index], 1)
        left = (np.array(ranks) - above).tolist()
        if all(0 < rank <= found.sum() for rank, found in zip(left, counts, strict=True)):
            places = [
                low + _locate(*found)[0] for low, found in zip(lowest, zip(counts, left, strict=True), strict=True)
            ]
            return np.array(places, np.int32).view(np.float32).tolist()
    return [values[0] for values in largest(stream, [[rank] for rank in ranks])]


def _locate(counts: np.ndarray, rank: int) -> tuple[int, int]:
    """The bin that holds the rank-th largest entry, and the entry's rank within the bin."""
    above = np.cumsum(counts[::-1])
    index = int(np.searchsorted(above, rank))
    return len(counts) - 1 - index, rank - int(above[index - 1] if index else 0)


def _value(upper: int, lower: int) -> float:
    """The float of a key."""
    key = np.uint32(upper << 16 | lower)
    bits = key ^ np.uint32(0x80000000 if key >> 31 else 0xFFFFFFFF)
    return float(np.array(bits, np.uint32).view(np.float32))
