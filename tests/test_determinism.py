"""What trainings and predictions run in: threads, deterministic algorithms and memory that stays with the process."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch
from torch.utils import deterministic

from pipeline.training.determinism import reproducible


def settings() -> tuple[object, ...]:
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        deterministic.fill_uninitialized_memory,
    )


def test_settings_are_undone_after_an_error():
    before = settings()
    with pytest.raises(ZeroDivisionError), reproducible(1, torch.device("cpu")):
        assert settings() == (1, True, False)
        raise ZeroDivisionError
    assert settings() == before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_freed_memory_is_not_taken_from_the_system_again():
    """Page faults of filling 40 MB again and again, in a fresh process: one for each page once, not every time."""
    script = """
import resource, sys
import torch
from pipeline.training.determinism import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(20)
print(faults(20))
"""
    given, kept = (
        int(subprocess.run([sys.executable, "-c", script, way], capture_output=True, text=True, check=True).stdout)
        for way in ("given back", "kept")
    )
    assert kept < 0.01 * given
