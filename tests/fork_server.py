"""A process with everything imported that forks a child for each command: stages by the hundred, no start-ups.

In: lines of JSON on stdin, `{"folder", "arguments", "how", "at", "trace", "lost"}`. The child runs `caloforge` with
the arguments in the folder, watched by `file_operations.c` (preloaded). Out: a line of JSON each: exit status
(negative: the signal that ended it), operations counted, and what it wrote to stderr. The parent runs no thread and
reads no data, so a fork is as good as a new process.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import sys
import traceback
from pathlib import Path

LATER = (
    *("matplotlib.backends.backend_pdf", "matplotlib.backends.backend_agg", "matplotlib.style"),
    *("zarr.storage", "array_api_compat.numpy", "torch._dynamo", "torch.utils.serialization"),
)
WITHOUT = ("pipeline.__main__", "pipeline.simulation.geant4")  # the command itself, and optional software


def import_everything() -> None:
    """All modules of the package, and what they import when they first run."""
    import pipeline

    for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
        if not module.name.startswith(WITHOUT):
            importlib.import_module(module.name)
    for name in LATER:
        importlib.import_module(name)


def child(command: dict[str, object]) -> int:
    """Run the command, watched; never returns to the loop."""
    from pipeline.cli import main

    os.chdir(str(command["folder"]))
    watch = ctypes.CDLL(None)
    names = [str(command[key]).encode() for key in ("folder", "trace", "lost")]
    watch.arm(*names, ctypes.c_char(str(command["how"]).encode()), ctypes.c_long(int(str(command["at"]))))
    try:
        status = main(command["arguments"])  # type: ignore[arg-type]
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 70
    watch.disarm()
    return status


def serve() -> None:
    """Answer commands until stdin ends."""
    import_everything()
    gc.collect()
    gc.freeze()  # a child that looks through all objects for garbage would copy them
    errors = Path(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if (pid := os.fork()) == 0:
            output = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            status = 71
            try:
                status = child(command)
            finally:
                sys.stderr.flush()
                os._exit(status)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"status": ended, "words": errors.read_text(errors="replace")}), file=answers, flush=True)


if __name__ == "__main__":
    serve()
