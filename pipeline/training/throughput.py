"""How fast a training was: showers per second, share of the device's matrix products, of time spent waiting for data.

In: the duration of each step and what the prefetcher waited. Out: a record for `training.measured.json`, which no
digest covers. The model's share (MFU) is the work of `probe` over the time of the steps, against the speed of a large
matrix product of the same precision, measured on the same device behind the last step. The first steps, in which
blocks are compiled and memory is taken, are left out. Validations and checkpoints are no steps.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from typing import Any

import torch

from pipeline.config import TrainingSpec

WARM_UP = 2
_SIZE = {"cpu": 512, "cuda": 8192}
_REPETITIONS = {"cpu": 3, "cuda": 20}


class Throughput:
    """Durations of the steps of one process."""

    def __init__(self, spec: TrainingSpec, device: torch.device, world: int, flop_per_shower: float) -> None:
        """Starts no clock."""
        self._spec, self._device, self._world, self._flop = spec, device, world, flop_per_shower
        self._seconds: list[float] = []

    def add(self, seconds: float) -> None:
        """One more step."""
        self._seconds.append(seconds)

    def record(self, waited_seconds: float) -> dict[str, Any]:
        """What was measured; rates are None before the third step."""
        device = self._device
        found: dict[str, Any] = {
            "device": str(device),
            "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "gpu_uuids": gpu_uuids(device, self._world),
            "processes": self._world,
            "peak_memory_mb": _peak_memory_mb(device),
            "share_waiting_for_data": waited_seconds / sum(self._seconds) if self._seconds else None,
            "samples_per_second": None,
        }
        steady = self._seconds[WARM_UP:]
        if steady:
            rate = self._spec.batch_size * len(steady) / sum(steady)
            peak = matrix_product_flops(device, self._spec.precision)
            found |= {
                "samples_per_second": rate,
                "step_ms": 1000 * statistics.median(steady),
                "flop_per_sample": self._flop,
                "flops_per_process": rate * self._flop / self._world,
                "matrix_product_flops": peak,
                "mfu": rate * self._flop / self._world / peak,
            }
        return found


def matrix_product_flops(device: torch.device, precision: str) -> float:
    """Floating-point operations per second of the fastest of some products of large square matrices."""
    n, dtype = _SIZE[device.type], torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator(device).manual_seed(0)
    a, b = torch.randn(2, n, n, generator=generator, device=device).to(dtype).unbind()
    out, fastest = torch.empty_like(a), float("inf")
    for _ in range(_REPETITIONS[device.type]):
        _wait(device)
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        _wait(device)
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * n**3 / fastest


def gpu_uuids(device: torch.device, world: int = 1) -> list[str]:
    """The GPUs in use, as the driver calls them: each process of this host has one."""
    if device.type != "cuda":
        return []
    here = range(int(os.environ.get("LOCAL_WORLD_SIZE", world))) if world > 1 else [torch.cuda.current_device()]
    return [f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in here]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
