"""`caloforge doctor`: whether this machine and this cluster can run the experiment, before anything is submitted."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.commands.source import DEFAULT_CONFIG, experiment_file
from pipeline.config import ConfigError, load_config
from pipeline.plan import Plan
from pipeline.site.findings import Finding, fail


def add(commands: Any) -> None:
    """Declare the command."""
    text = "check torch and driver, GPUs, Slurm's limits against a profile, space, memory, Geant4's data"
    parser = commands.add_parser("doctor", help=text, description=f"{text}; exit status 1 when something fails")
    parser.add_argument("experiment", nargs="?", help=f"configuration file or experiment (default: {DEFAULT_CONFIG})")
    parser.add_argument("--profile", help="Snakemake profile, as in snakemake --profile slurm (default: none)")
    parser.set_defaults(action=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    profile = read_profile(options.profile) if options.profile else {}
    findings = examine(options.experiment, profile)
    for finding in findings:
        print(finding)
    failed = sum(finding.level == "fail" for finding in findings)
    warned = sum(finding.level == "warn" for finding in findings)
    print(f"{failed} failed, {warned} to think of" if failed or warned else "all is well")
    return 1 if failed else 0


def examine(experiment: str | None, profile: dict[str, Any]) -> list[Finding]:
    """All findings, the experiment's configuration first."""
    from pipeline.site.checkup import check_geant4, check_gpu, check_memory, check_scratch, check_software
    from pipeline.site.slurm import check_slurm

    plan, findings = _plan(experiment)
    findings += [*check_software(profile), *check_gpu(profile)]
    if profile.get("executor") == "slurm":
        findings += check_slurm(profile)
    return [*findings, *check_scratch(plan), *check_memory(plan, profile), *check_geant4(plan)]


def _plan(experiment: str | None) -> tuple[Plan | None, list[Finding]]:
    """The plan, or what is wrong with the configuration."""
    try:
        file = experiment_file(experiment, "doctor") if experiment else Path(DEFAULT_CONFIG)
        return Plan.discover(load_config(file)), []
    except ConfigError as error:
        return None, [fail("configuration", str(error), "caloforge config check")]


def read_profile(name: str) -> dict[str, Any]:
    """The content of a profile: a folder here, or one of profiles/; ConfigError when there is none."""
    import yaml

    for folder in (Path(name), Path("profiles") / name):
        if (path := folder / "config.yaml").is_file():
            content = yaml.safe_load(path.read_text())
            return content if isinstance(content, dict) else {}
    raise ConfigError(f"--profile: expected a folder with config.yaml, found none at {name} or profiles/{name}")
