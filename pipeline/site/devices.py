"""Hands out the GPUs of a workstation: each job its own, and the next waits until one is free.

In: how many GPUs a job asks for. Out: CUDA_VISIBLE_DEVICES and a lock per device, held by the process until it ends,
however it ends (flock(2)): no daemon, nothing to clean up. Locks are shared by all Snakemakes of a user on a machine.
Inside a Slurm job that was given as many devices as it asks for there is nothing to hand out. Snakemake counts
GPUs (`resources: gpu=2` in profiles/gpu) but does not say which one a job has; this does.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

VARIABLE = "CUDA_VISIBLE_DEVICES"
_POLL_SECONDS = 0.5
_SMI_SECONDS = 30


class DevicesError(RuntimeError):
    """More devices asked for than there are."""


def visible_devices(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs that this process may use: those of CUDA_VISIBLE_DEVICES, else all that nvidia-smi lists."""
    if VARIABLE in environment:
        return [name for name in environment[VARIABLE].split(",") if name and not name.startswith("-")]
    try:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SMI_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split()


def acquire(n: int, environment: Mapping[str, str] = os.environ, folder: Path | None = None) -> list[str]:
    """Lock n devices for this process and what it becomes, waiting until so many are free; returns their names.

    Raises `DevicesError` when there are fewer than n. All are taken or none, so two waiting jobs cannot block each
    other.
    """
    devices = visible_devices(environment)
    if len(devices) < n:
        names = ", ".join(devices) or "none"
        raise DevicesError(
            f"devices: expected {n} GPU(s), found {names}; lower `gpu` in the profile, or correct {VARIABLE}"
        )
    if n == len(devices) and "SLURM_JOB_ID" in environment:
        return devices
    folder = folder or Path(tempfile.gettempdir()) / f"caloforge-devices-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    while len(taken := _take(n, devices, folder)) < n:
        time.sleep(_POLL_SECONDS)
    return taken


def _take(n: int, devices: Sequence[str], folder: Path) -> list[str]:
    """The first n devices that are free, locked; none when there are fewer."""
    handles: dict[str, int] = {}
    for name in devices:
        handle = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        os.set_inheritable(handle, True)
        handles[name] = handle
        if len(handles) == n:
            return list(handles)
    for handle in handles.values():
        os.close(handle)
    return []
