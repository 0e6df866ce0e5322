"""The record of a study: `make study STUDY=masking_ratio` runs the experiment and then this.

Reads results/<study>/: copies its summary, with command, date, machine and cost, to docs/studies/<study>.md, its figure
beside it, and its claims with their numbers to benchmarks/results/studies/<study>.json, with the digests of the code
that each stage's jobs ran. A claim that does not hold is a result, not a failure: the exit status tells only whether
there was a study to record.
"""

from __future__ import annotations

import json
import shutil
import sys
from datetime import date
from pathlib import Path
from typing import Any

from measure import machine

from pipeline.config import load_config
from pipeline.jobs import jobs
from pipeline.plan import Plan

ROOT = Path(__file__).resolve().parent.parent


def cost_line(cost: dict[str, Any]) -> str:
    """CPU minutes of all jobs of the experiment, and of its trainings."""
    minutes = {row["of"]: row["core_hours"] * 60 for row in cost["rows"]}
    training = sum(value for name, value in minutes.items() if name.split()[0] == "train")
    return f"{minutes['all']:.1f} CPU minutes, {training:.1f} of them training"


def codes(study: str) -> dict[str, list[str]]:
    """Digests of the code that made the study's outputs, by stage; `unknown` of jobs that left none."""
    found: dict[str, set[str]] = {}
    for job in jobs(Plan.discover(load_config(ROOT / "config" / "experiments" / f"{study}.yaml"))):
        if job.output.exists():
            found.setdefault(job.stage, set()).add(job.measured().get("code", "unknown"))
    return {stage: sorted(digests) for stage, digests in found.items()}


def page(study: str, summary: str, made: str) -> str:
    """The summary with its origin below the title and the figure behind the claims."""
    title, _, rest = summary.partition("\n")
    before, found, after = rest.partition("## Found")
    figure = f"![{study.replace('_', ' ')}]({study}.png)\n\n" if found else ""
    return f"{title}\n\n<!-- written by `make study STUDY={study}` -->\n{made}\n{before}{figure}{found}{after}"


def main() -> int:
    """Record the studies named on the command line."""
    for study in sys.argv[1:]:
        results, docs = ROOT / "results" / study, ROOT / "docs" / "studies"
        if not (results / "study" / "metrics.json").is_file():
            print(f"{results}: expected a finished study, found none; run make study STUDY={study}", file=sys.stderr)
            return 1
        found, code = json.loads((results / "study" / "metrics.json").read_text()), codes(study)
        cost = json.loads((results / "cost.measured.json").read_text())
        made = f"`make study STUDY={study}`, {date.today().isoformat()}, {machine()}, {cost_line(cost)}."
        docs.mkdir(parents=True, exist_ok=True)
        summary = (results / "study" / "summary.md").read_text()
        (docs / f"{study}.md").write_text(page(study, summary, made), encoding="utf-8")
        shutil.copy(results / "figures" / "study.png", docs / f"{study}.png")
        record = ROOT / "benchmarks" / "results" / "studies" / f"{study}.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        content = {"date": date.today().isoformat(), "machine": machine(), "code": code, **found}
        record.write_text(json.dumps(content, indent=1) + "\n")
        holding = sum(claim["holds"] for claim in found["claims"])
        print(f"{study}: {holding} of {len(found['claims'])} claims hold")
    return 0


if __name__ == "__main__":
    sys.exit(main())
