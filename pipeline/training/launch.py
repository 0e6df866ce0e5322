"""Starts the processes of one training through torchrun, and stops them as one.

In: how many, and the arguments of the same command again. A signal to stop is handed to the processes, which agree on
a step, leave a checkpoint and end well; the message that they leave is raised here. When one process dies, torchrun
ends the others, and the training fails; when the parent dies, torchrun is told to stop.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil
import torch

from pipeline.config import TrainingSpec
from pipeline.jobs import MESSAGE
from pipeline.training.interruption import SIGNALS, TrainingInterrupted
from pipeline.training.request import TrainingError

SHUTDOWN_SECONDS = 25  # what torchrun leaves the processes behind a signal: less than Slurm's KillWait


def processes_of(spec: TrainingSpec) -> int:
    """How many processes a training is to run in; `TrainingError` where there are fewer GPUs."""
    wanted, found = spec.parallel.processes, torch.cuda.device_count() if spec.device != "cpu" else 0
    if wanted == "gpus":
        return max(1, found)
    if found and wanted > found:
        raise TrainingError(
            f"training.parallel.processes: expected at most the {found} GPUs that this job sees, got {wanted}; ask the "
            "scheduler for more (--set-resources train:gpu=N), or set `processes: gpus`"
        )
    return wanted


def launch(run: str, processes: int, arguments: Sequence[str]) -> None:
    """Run `caloforge <arguments>` in so many processes on this host, until all have ended.

    Raises what they said: `TrainingInterrupted` with a checkpoint on disk, or `TrainingError`.
    """
    with tempfile.TemporaryDirectory(prefix="caloforge-") as folder:
        message = Path(folder) / "message"
        environment = {
            **os.environ,
            MESSAGE: str(message),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SHUTDOWN_SECONDS),
            "TORCHELASTIC_SIGNALS_TO_HANDLE": ",".join(number.name for number in SIGNALS),
        }
        child = subprocess.Popen(command(processes, arguments), env=environment, preexec_fn=_die_with_parent)
        with forwarded(child):
            status = child.wait()
        said = message.read_text() if message.exists() else ""
    kind, _, text = said.partition("\n")
    if kind == TrainingInterrupted.__name__:
        raise TrainingInterrupted(text)
    if status:
        raise TrainingError(
            text
            or f"runs.{run}: expected {processes} processes that end well, got exit status {status} of torchrun; one "
            "of them died, see the lines above; the same command goes on from the last checkpoint"
        )


def command(processes: int, arguments: Sequence[str]) -> list[str]:
    """The words for torchrun; without the `--` it takes `--run` of `caloforge` for an option of its own."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*torchrun, "-m", "--", "pipeline", *arguments]


@contextmanager
def telling_parent() -> Iterator[None]:
    """In a process that `launch` started: say why the block did not end well; being interrupted is a good end."""
    try:
        yield
    except Exception as error:
        if MESSAGE not in os.environ:
            raise
        if type(error).__module__.startswith("pipeline."):
            Path(os.environ[MESSAGE]).write_text(f"{type(error).__name__}\n{error}")
        if not isinstance(error, TrainingInterrupted):
            raise


@contextmanager
def forwarded(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Hand signals to stop on to the training's processes, not to torchrun, which would give them a time limit."""

    def hand_on(number: int, _: FrameType | None) -> None:
        try:
            workers = psutil.Process(child.pid).children()
        except psutil.NoSuchProcess:
            return
        for worker in workers:
            worker.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _die_with_parent() -> None:
    """Linux: SIGTERM for torchrun when the parent is gone, so that no process trains on for nobody."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
