"""`caloforge unlock`: remove the lock that a killed Snakemake left behind; a live run keeps it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Declare the command."""
    unlock = commands.add_parser(
        "unlock", help="remove Snakemake's lock when no live process holds it; takes its options"
    )
    unlock.set_defaults(action=_unlock, takes_more=True)


def live_snakemake() -> int | None:
    """Process id of a Snakemake that runs in the working directory, None when there is none."""
    import psutil

    here = os.getcwd()
    for process in psutil.process_iter(["pid", "cmdline"]):
        try:
            words = process.info["cmdline"] or []
            if any(Path(word).name == "snakemake" for word in words[:3]) and process.cwd() == here:
                return int(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return None


def _unlock(options: argparse.Namespace) -> int:
    if not any(Path(".snakemake/locks").glob("*")):
        return 0
    if (process := live_snakemake()) is not None:
        print(f"caloforge unlock: Snakemake runs here as process {process}; its lock stays", file=sys.stderr)
        return 1
    command = [sys.executable, "-m", "snakemake", *options.rest, "--unlock"]
    return subprocess.run(command, check=False).returncode
