"""What counters of the machine say of the energy of one job: NVML for GPUs, RAPL for processors.

Out: joules, or None where there is no counter that may be read. A GPU's counter is its own; a processor's counts
all that runs on it, of which a job is given its share of the busy CPU time. NVML is asked through its C interface
(nvmlDeviceGetTotalEnergyConsumption, millijoules since the driver was loaded; Volta and later), RAPL through
/sys/class/powercap, whose counters start anew every few minutes at full power and are read in between.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from pathlib import Path

import psutil

POWERCAP = Path("/sys/class/powercap")
_EVERY_SECONDS = 60.0


class EnergyMeter:
    """Counts from its beginning on; `stop` gives the joules of one job."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._gpus = gpu_joules()
        self._zones = _zones(powercap)
        self._read = [_microjoules(zone) for zone in self._zones]
        self._joules, self._busy = 0.0, _busy_seconds()
        self._ended = threading.Event()
        if self._zones:
            threading.Thread(target=self._follow, name="energy", daemon=True).start()

    def stop(self, gpus: Sequence[str], cpu_seconds: float) -> dict[str, float]:
        """`gpu_joules` of these GPUs and `cpu_joules` of so much CPU time, each only where it was measured."""
        self._ended.set()
        found: dict[str, float] = {}
        after = gpu_joules() if gpus else {}
        if gpus and all(gpu in after and gpu in self._gpus for gpu in gpus):
            found["gpu_joules"] = sum(after[gpu] - self._gpus[gpu] for gpu in gpus)
        if self._zones:
            self._add()
            busy = max(_busy_seconds() - self._busy, 1e-9)
            found["cpu_joules"] = self._joules * min(1.0, cpu_seconds / busy)
        return found

    def _follow(self) -> None:
        while not self._ended.wait(_EVERY_SECONDS):
            self._add()

    def _add(self) -> None:
        for i, zone in enumerate(self._zones):
            now = _microjoules(zone)
            rounds = int((zone / "max_energy_range_uj").read_text()) if now < self._read[i] else 0
            self._joules += (now + rounds - self._read[i]) / 1e6
            self._read[i] = now


def gpu_joules() -> dict[str, float]:
    """Joules since the driver was loaded of each GPU that this process may see, by UUID; empty without a driver."""
    try:
        nvml = _nvml()
    except OSError:
        return {}
    if nvml.nvmlInit_v2() != 0:
        return {}
    try:
        return dict(_each_gpu(nvml))
    finally:
        nvml.nvmlShutdown()


def _nvml() -> ctypes.CDLL:
    return ctypes.CDLL("libnvidia-ml.so.1")


def _each_gpu(nvml: ctypes.CDLL) -> list[tuple[str, float]]:
    count, found = ctypes.c_uint(), []
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    for index in range(count.value):
        device, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
        name = ctypes.create_string_buffer(96)
        asked = (
            nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)),
            nvml.nvmlDeviceGetUUID(device, name, len(name)),
            nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(millijoules)),
        )
        if not any(asked):
            found.append((name.value.decode(), millijoules.value / 1000))
    return found


def _zones(powercap: Path) -> list[Path]:
    """The packages' counters, where they may be read (on most systems by root alone); not those inside a package."""
    zones = [path for path in sorted(powercap.glob("intel-rapl:*")) if path.name.count(":") == 1]
    try:
        for zone in zones:
            _microjoules(zone)
    except OSError:
        return []
    return zones


def _microjoules(zone: Path) -> int:
    return int((zone / "energy_uj").read_text())


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))
