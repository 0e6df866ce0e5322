"""What docs/reliability.md says: crashes, faults, malformed input and long runs, measured by `make study-reliability`.

Runs (or with `--keep` takes what was recorded of) tests/crash_matrix.py, the fault tests, tests/fuzzing.py and
benchmarks/long_runs.py, writes benchmarks/results/reliability.json and the tables between the marks of
docs/reliability.md, with date and machine. Exit status 1 when something was lost, damaged or wrongly accepted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
RESULTS = ROOT / "benchmarks" / "results"
WAYS = {"k": "killed", "l": "killed, unsynced lost", "f": "disk full", "t": "killed in a write"}
# fault -> the tests that make it, as FILE::WORDS of their names
FAULTS = {
    "full disk": "test_faults.py::full_disk",
    "read-only disk": "test_faults.py::read_only_disk",
    "permission denied": "test_faults.py::permission",
    "raw file vanishes while it is read": "test_faults.py::vanishes",
    "raw file replaced under a running job": "test_faults.py::replaced_under",
    "raw file replaced since the run began": "test_faults.py::replaced_since",
    "raw file replaced with its size and date": "test_faults.py::keeps_size_and_date",
    "any file of a store missing, empty, cut or flipped": "test_faults.py::any_damaged_file",
    "manifest without store, store without manifest": "test_store.py::damage_is_found or without_manifest",
    "truncated checkpoint": "test_training.py::damaged_checkpoint",
    "interrupted download": "test_download.py::cut_connections or killed_download",
    "two Snakemake runs at once; clocks that jump": "test_faults.py::two_snakemake",
    "two jobs on one part at once": "test_faults.py::two_jobs",
    "clock running backwards": "test_faults.py::runs_backwards",
    "job killed by the kernel": "test_faults.py::job_killed",
    "Dask worker killed by the kernel": "test_faults.py::dask_worker",
    "Snakemake killed": "test_kill.py::killed_snakemake",
    "a bad raw file in quarantine, and taken back": "test_quarantine.py::",
    "wrong units, impossible numbers": "test_bad_numbers.py::",
    "hostile files": "test_hostile.py::hostile or pickle",
}


def faults() -> list[dict[str, Any]]:
    """Cases, skipped ones and damaged ones, by fault; the tests run in one go."""
    chosen = {name: tests.partition("::")[::2] for name, tests in FAULTS.items()}
    wanted = " or ".join(f"({file.removesuffix('.py')} and ({words or 'test'}))" for file, words in chosen.values())
    files = sorted({str(ROOT / "tests" / file) for file, _ in chosen.values()})
    with tempfile.NamedTemporaryFile(suffix=".xml") as output:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", f"--junitxml={output.name}"]
        subprocess.run([*command, *files, "-k", wanted], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        cases = list(ElementTree.parse(output.name).iter("testcase"))
    rows = []
    for name, (file, words) in chosen.items():
        of = [case for case in cases if file.removesuffix(".py") == case.get("classname", "").rpartition(".")[2]]
        of = [case for case in of if any(word in case.get("name", "") for word in words.split(" or "))]
        kinds = [[child.tag for child in case] for case in of]
        damaged = sum("failure" in kind or "error" in kind for kind in kinds) + (not of)
        rows.append(
            {"fault": name, "cases": len(of), "skipped": sum("skipped" in k for k in kinds), "damaged": damaged}
        )
        print(f"{name:52} {len(of):3} cases, {damaged} damaged", flush=True)
    return rows


def recorded(name: str, command: Sequence[str], keep: bool) -> Any:
    """The record that a command writes; the one that lies there when it is to be kept."""
    path = RESULTS / f"{name}.json"
    if not (keep and path.exists()):
        done = subprocess.run([sys.executable, *command], cwd=ROOT, check=False)
        if done.returncode and not path.exists():
            raise SystemExit(f"{' '.join(command)}: ended with {done.returncode}")
    return json.loads(path.read_text())


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (head, ["---"] * len(head), *rows))


def crash_table(rows: Sequence[dict[str, Any]]) -> str:
    """A line per stage: operations, ends of each kind, and what was lost; in brackets those over its own output."""
    lines, totals = [], dict.fromkeys([*WAYS, "lost"], 0)
    for stage in dict.fromkeys(row["stage"] for row in rows):
        of = [row for row in rows if row["stage"] == stage]
        operations = [row["operations"] for row in of if row["how"] == of[0]["how"]]
        cells = []
        for how in WAYS:
            ends = [row["ended"] for row in of if row["how"] == how]
            totals[how] += sum(ends)
            cells.append(" + ".join(map(str, ends)) or "–")
        lost = sum(row["lost"] for row in of)
        totals["lost"] += lost
        lines.append([stage, " + ".join(map(str, operations)), *cells, lost])
    lines.append(["**all**", "", *(f"**{totals[key]}**" for key in totals)])
    return markdown(["stage", "operations", *WAYS.values(), "lost"], lines)


def _cases(row: dict[str, Any]) -> str:
    return f"{row['cases']} ({row['skipped']} skipped)" if row["skipped"] else str(row["cases"])


def page(parts: dict[str, str]) -> str:
    """The page with everything between its marks replaced."""
    text = PAGE.read_text(encoding="utf-8")
    for name, content in parts.items():
        marks = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
        text = re.sub(marks, lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text, flags=re.S)
    return text


def main() -> int:
    """Run, write, and say what was wrong."""
    parser = argparse.ArgumentParser(description="Crashes, faults, malformed input, long runs: the page's tables.")
    parser.add_argument("--keep", action="store_true", help="take recorded crashes, inputs and long runs as they are")
    parser.add_argument("--keep-faults", action="store_true", help="take the recorded faults too")
    options = parser.parse_args()
    path = RESULTS / "reliability.json"
    crashes = recorded("crashes", ["tests/crash_matrix.py"], options.keep)
    fuzzing = recorded("fuzzing", ["tests/fuzzing.py"], options.keep)
    long_runs = recorded("long_runs", ["benchmarks/long_runs.py"], options.keep)
    kept = options.keep_faults and path.exists()
    found = json.loads(path.read_text())["faults"] if kept else faults()
    made = f"Measured {date.today().isoformat()} on {platform.machine()}, {multiprocessing.cpu_count()} cores."
    whole = {"made": made, "crashes": crashes, "faults": found, "fuzzing": fuzzing, "long_runs": long_runs}
    path.write_text(json.dumps(whole, indent=1) + "\n")
    inputs = [[r["target"], r["inputs"], r["refused"], r["read"], r["died"]] for r in fuzzing]
    sums = [sum(column) for column in zip(*(line[1:] for line in inputs), strict=True)]
    parts = {
        "made": made,
        "crashes": crash_table(crashes),
        "faults": markdown(
            ["fault", "cases", "damaged"],
            [[r["fault"], _cases(r), r["damaged"]] for r in found],
        ),
        "inputs": markdown(
            ["input", "tried", "refused", "read right", "ended the process"],
            [*inputs, ["**all**", *(f"**{n}**" for n in sums)]],
        ),
        "long runs": markdown(
            ["over", "what", "growth per 1000", "at the end"],
            [[r["over"], r["what"], f"{r['per_1000']:.3g}", f"{r['last']:.4g}"] for r in long_runs],
        ),
    }
    PAGE.write_text(page(parts), encoding="utf-8")
    return 1 if any(row["lost"] for row in crashes) or any(row["damaged"] for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
