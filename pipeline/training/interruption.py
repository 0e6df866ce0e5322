"""A request to stop, from a scheduler or a keyboard: the training ends after its present step, with a checkpoint.

SIGTERM (pre-emption, time limit, `scancel`), SIGUSR1 (`sbatch --signal`) and SIGINT are noted while the context is
open; a second SIGINT acts as usual. Slurm leaves a job KillWait seconds (30 by default) between SIGTERM and SIGKILL.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.training.distributed import Ranks

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class TrainingInterrupted(RuntimeError):
    """The training was asked to stop and left a checkpoint; the same command goes on from there."""


@contextmanager
def interruptible() -> Iterator[Callable[[], str]]:
    """Yields a function that names the signal that arrived, '' before; outside the main thread nothing is noted."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: ""
        return
    arrived: list[str] = []

    def note(number: int, _: FrameType | None) -> None:
        arrived.append(signal.Signals(number).name)
        if number == signal.SIGINT:  # schedulers and launchers repeat the others, and may not cut the checkpoint short
            signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: arrived[0] if arrived else ""
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def agreed(name: str, ranks: Ranks) -> str:
    """The signal that arrived at any process, so that all stop behind the same step."""
    number = int(ranks.largest(signal.Signals[name] if name else 0))
    return signal.Signals(number).name if number else ""
