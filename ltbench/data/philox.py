"""Random numbers that are a function of where they are used: Philox4x32-10 over numpy arrays.

A number depends on (seed, stream, epoch, index, word) alone, so worker count, batch size and the
order of calls cannot change it, and there is no generator state to save.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011; checked
against the published known answers of Random123.
"""

from __future__ import annotations

import numpy as np

__all__ = ["block", "permutation", "uniform", "words"]

_ROUNDS = 10
_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
# Row 0 acts on counter word 0, row 1 on counter word 2; the keys step by the second pair.
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def block(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Encrypt counters: the bare Philox4x32-10.

    Args:
        counter: four words a row, uint32 (n, 4).
        key: two words, each in [0, 2**32).

    Returns:
        Random words, uint32 (n, 4).
    """
    wide = counter.astype(np.uint64).T
    even, odd = wide[[0, 2]], wide[[1, 3]]
    for turn in range(_ROUNDS):
        keys = [[(k + turn * step) & 0xFFFFFFFF] for k, step in zip(key, _KEY_STEPS, strict=True)]
        product = even * _MULTIPLIERS  # of two 32-bit numbers: never overflows 64 bits
        even = (product[::-1] >> _SHIFT) ^ odd ^ np.array(keys, dtype=np.uint64)
        odd = product[::-1] & _MASK
    return np.stack((even[0], odd[0], even[1], odd[1]), axis=1).astype(np.uint32)


def words(seed: int, *, stream: int, epoch: int, index: np.ndarray, num_words: int) -> np.ndarray:
    """Draw random words for each index.

    The counter is (word // 4, index, epoch, stream), the key the two halves of the seed.

    Args:
        seed: in [0, 2**64); all 64 bits count.
        stream: what the numbers are for, in [0, 2**32). Different uses need different streams.
        epoch: in [0, 2**32).
        index: integers (n,), each in [0, 2**32).
        num_words: words an index, 0 or more.

    Returns:
        uint32 (n, num_words). Asking for more words leaves the first ones as they are.

    Raises:
        ValueError: a number outside its range.
    """
    index = np.asarray(index)
    _check("seed", seed, 64)
    _check("stream", stream, 32)
    _check("epoch", epoch, 32)
    if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(f"index must be integers (n,), got {index.dtype} {index.shape}.")
    if len(index) > 0:
        _check("index", int(index.min()), 32)
        _check("index", int(index.max()), 32)
    num_blocks = -(-num_words // 4)
    counter = np.empty((len(index), num_blocks, 4), dtype=np.uint32)
    counter[..., 0] = np.arange(num_blocks)
    counter[..., 1] = index[:, None]
    counter[..., 2] = epoch
    counter[..., 3] = stream
    drawn = block(counter.reshape(-1, 4), (seed & 0xFFFFFFFF, seed >> 32))
    return drawn.reshape(len(index), num_blocks * 4)[:, :num_words]


def uniform(seed: int, *, stream: int, epoch: int, index: np.ndarray, num_words: int) -> np.ndarray:
    """Draw uniform numbers, word / 2**32: float64 (n, num_words) in [0, 1); see `words`."""
    drawn = words(seed, stream=stream, epoch=epoch, index=index, num_words=num_words)
    return drawn / 2.0**32


def permutation(seed: int, n: int, *, stream: int, epoch: int) -> np.ndarray:
    """Shuffle 0 .. n-1: the order that sorts one random 64-bit key a position.

    The sort is stable, so that even equal keys give one order on every machine and version.

    Returns:
        int64 (n,).
    """
    pair = words(seed, stream=stream, epoch=epoch, index=np.arange(n), num_words=2)
    keys = (pair[:, 0].astype(np.uint64) << _SHIFT) | pair[:, 1]
    return np.argsort(keys, kind="stable").astype(np.int64)


def _check(name: str, value: int, bits: int) -> None:
    if not 0 <= value < 1 << bits:
        raise ValueError(f"{name} must lie in [0, 2**{bits}), got {value}.")
