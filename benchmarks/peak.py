"""Runs a module as `python -m` does and says at its end what memory it took: `python peak.py MODULE ARGUMENTS...`.

The kernel's own record of a finished child (`ru_maxrss`) also holds what the process that started it had in memory.
"""

from __future__ import annotations

import atexit
import runpy
import sys
from pathlib import Path

MARK = "peak memory of this process:"


def _say() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    print(MARK, next(line.split()[1] for line in lines if line.startswith("VmHWM:")), flush=True)


if __name__ == "__main__":
    atexit.register(_say)
    sys.argv = sys.argv[1:]
    sys.path.pop(0)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
