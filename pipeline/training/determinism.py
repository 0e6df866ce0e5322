"""What makes a computation repeat: the device, seeds that are hashes, threads and deterministic algorithms.

And what lets it do so without waiting for the system's memory: see `keep_freed_memory`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import torch
from torch.utils import deterministic

from pipeline.config import TrainingSpec

# mallopt(3): a block above the one is mapped by itself, free memory above the other goes back to the system
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_KEPT_BYTES = 2**30


def device_of(spec: TrainingSpec) -> torch.device:
    """The device of the spec; `auto` takes a GPU where there is one."""
    if spec.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(spec.device)


def seeded(device: torch.device, key: str) -> torch.Generator:
    """A generator on the device whose seed is a hash of the key."""
    return torch.Generator(device).manual_seed(seed_of(key))


def seed_of(key: str) -> int:
    """A seed of 63 bits: a hash of the key."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little") >> 1


@contextmanager
def reproducible(threads: int, device: torch.device) -> Iterator[None]:
    """Fixed thread count and deterministic algorithms (on a GPU: where they exist), undone afterwards.

    New memory is not filled: that costs a pass over every result, and finds only operators that read what they never
    wrote. Freed memory is kept, also afterwards.
    """
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filled = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def keep_freed_memory() -> None:
    """From now on, keep blocks below 1 GiB that are freed on the CPU for the next ones of this process.

    Every step frees its activations and takes as many anew. glibc gives those of more than a few hundred kB back to the
    system, so that each step waits while the system zeroes each page again. Does nothing with another C library.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for threshold in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        mallopt(threshold, _KEPT_BYTES)
