"""Runs the workflow in a folder of its own, as a user would from the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.provenance import file_digest

REPOSITORY = Path(__file__).resolve().parent.parent


def environment() -> dict[str, str]:
    """The caller's, with the tested package first and without a plan of somebody else."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CALOFORGE", "PYTEST", "SNAKEMAKE"))}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


@dataclass(frozen=True)
class Workspace:
    """A folder in which `snakemake` and `caloforge` are run on one configuration."""

    folder: Path

    @property
    def config_file(self) -> Path:
        """The configuration of this workspace."""
        return self.folder / "experiment.yaml"

    def configure(self, content: dict[str, Any]) -> None:
        """Replace the configuration."""
        self.config_file.write_text(yaml.safe_dump(content, sort_keys=False))

    def config(self) -> dict[str, Any]:
        """The configuration's content."""
        content: dict[str, Any] = yaml.safe_load(self.config_file.read_text())
        return content

    def command(self, *arguments: str, cores: int = 2) -> list[str]:
        """The command line of `snakemake` with these arguments."""
        return [
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            str(REPOSITORY / "Snakefile"),
            "--workflow-profile",
            str(REPOSITORY / "profiles" / "default"),
            "--configfile",
            str(self.config_file),
            "--cores",
            str(cores),
            *arguments,
        ]

    def snakemake(self, *arguments: str, cores: int = 2) -> str:
        """Run the workflow; returns what it printed, raises with it when it fails."""
        done = subprocess.run(
            self.command(*arguments, cores=cores),
            cwd=self.folder,
            env=environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"snakemake ended with {done.returncode}:\n{done.stdout[-8000:]}")
        return done.stdout

    def caloforge(self, *arguments: str, prefix: tuple[str, ...] = ("-m", "pipeline")) -> subprocess.CompletedProcess:
        """Run one `caloforge` command."""
        return subprocess.run(
            [sys.executable, *prefix, *arguments],
            cwd=self.folder,
            env=environment(),
            text=True,
            capture_output=True,
            check=False,
        )

    def jobs(self, *targets: str) -> dict[str, int]:
        """The jobs that a run would start now, by rule, without `all`."""
        output = self.snakemake("--dry-run", "--quiet", "rules", "--", *targets)
        if "Nothing to be done" in output:
            return {}
        table = output.partition("Job stats:")[2].partition("\n\n")[0]
        counts = {name: int(n) for name, n in re.findall(r"^(\w+)\s+(\d+)\s*$", table, re.M)}
        assert "total" in counts, output
        return {name: n for name, n in counts.items() if name not in ("all", "total")}

    def digests(self, below: str = "") -> dict[str, str]:
        """Digests of all that must be reproduced: no logs, no plans, no measured times, no resume state."""
        kept = {}
        for top in ("data", "results"):
            for path in sorted((self.folder / top).rglob("*")):
                name = path.relative_to(self.folder).as_posix()
                if (
                    path.is_file()
                    and name.startswith(below)
                    and ".measured." not in name
                    and not re.search(r"/plans/|/checkpoints/|fingerprints.json|report.html|\.tmp$", name)
                ):
                    kept[name] = file_digest(path)
        return kept
