"""`python kill_at.py N STAGE ...` runs a stage and kills it (SIGKILL) at its N-th file operation.

File operations are those that change a disk: opening for writing, rename, mkdir, remove, fsync's neighbours.
With N = 0 nothing is killed and the number of operations is written to stderr as `operations: N`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.move", "shutil.rmtree"}
OUTPUTS = ("data/", "results/")


def watch(kill_at: int) -> list[int]:
    """Count the file operations of this process from now on, and kill it at the `kill_at`-th."""
    count = [0]
    lock = threading.Lock()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if not isinstance(path, str | os.PathLike) or not any(top in os.fspath(path) for top in OUTPUTS):
            return
        with lock:
            count[0] += 1
            if count[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return count


if __name__ == "__main__":
    operations = watch(int(sys.argv[1]))
    from pipeline.cli import main

    status = main(sys.argv[2:])
    print(f"operations: {operations[0]}", file=sys.stderr)
    sys.exit(status)
