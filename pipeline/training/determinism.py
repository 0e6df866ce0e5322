"""What makes a computation repeat: the device, seeds that are hashes, threads and deterministic algorithms."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import torch

from pipeline.config import TrainingSpec


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
    """Fixed thread count and deterministic algorithms (on a GPU: where they exist), undone afterwards."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
