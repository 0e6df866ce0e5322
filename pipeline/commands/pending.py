"""What Snakemake would run now, as data.

Snakemake is asked in a process of its own (`--dry-run`) and its events are collected there: one per job, with its rule,
outputs and reason. The text that it prints is not parsed, for messages of rules leave out what is asked for here.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class PendingError(RuntimeError):
    """Snakemake could not say what it would do; the message is its own."""


@dataclass(frozen=True)
class Pending:
    """One job that would run: its rule, its outputs, Snakemake's reason in its own words, and its log."""

    rule: str
    outputs: tuple[Path, ...]
    reason: str
    log: Path | None = None


def pending(arguments: Sequence[str]) -> list[Pending]:
    """The jobs that `snakemake ARGUMENTS` would run now, in no order; raises PendingError with Snakemake's words."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "jobs.json"
        command = [sys.executable, "-m", __spec__.name, str(output), *arguments, "--dry-run", "--cores", "1"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode or not output.exists():
            raise PendingError(f"snakemake --dry-run: {_last_words(done.stdout)}")
        found = json.loads(output.read_text())
    return [Pending(rule, tuple(map(Path, outs)), reason, Path(*logs[:1])) for rule, outs, reason, logs in found]


def _last_words(text: str) -> str:
    """What matters of Snakemake's output when it failed: from its first error on."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    start = next((i for i, line in enumerate(lines) if "Error" in line or "Exception" in line), max(0, len(lines) - 5))
    return " ".join(lines[start : start + 12])


class _Events(logging.Filter):
    """Sees every record of Snakemake's logger, keeps those of jobs, and lets nothing but errors through."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[tuple[str, list[str], str, list[str]]] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if "reason" in record.__dict__ and "rule_name" in record.__dict__:
            values = record.__dict__
            outputs, logs = ([str(path) for path in values[key]] for key in ("output", "log"))
            self.jobs.append((str(values["rule_name"]), outputs, str(values["reason"]), logs))
        return record.levelno >= logging.ERROR


def _ask(output: Path, arguments: Sequence[str]) -> int:
    """Run Snakemake in this process; it ends by SystemExit."""
    from snakemake.cli import main
    from snakemake.logging import logger

    events = _Events()
    logger.addFilter(events)
    try:
        main(list(arguments))
    except SystemExit as ended:
        if ended.code:
            return 1
    output.write_text(json.dumps(events.jobs))
    return 0


if __name__ == "__main__":
    sys.exit(_ask(Path(sys.argv[1]), sys.argv[2:]))
