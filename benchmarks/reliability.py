"""What docs/reliability.md says: faults, long runs, malformed input and crashes, measured by `make study-reliability`.

Each part runs in a process of its own, the short ones first, and leaves benchmarks/results/PART.json, whose rows carry
the digest of the code; what stands there of this code is not measured again, so that a study that was interrupted goes
on. `--only PART` measures some, `--keep` none; then the tables between the marks of the page are written, with dates,
digests and machine. Exit status 1 when something was lost, damaged, wrongly accepted or grows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from measure import machine
from reliability_faults import FAULTS, Tests

from pipeline.provenance import code_digest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
RESULTS = ROOT / "benchmarks" / "results"
ENDS = {
    ("fresh", "k"): "killed",
    ("again", "k"): "killed, over its own output",
    ("fresh", "l"): "killed, unsynced lost",
    ("fresh", "f"): "disk full",
    ("fresh", "t"): "killed in a write",
}
PARTS = {
    "faults": ["benchmarks/reliability.py", "--faults"],
    "long_runs": ["benchmarks/long_runs.py"],
    "fuzzing": ["tests/fuzzing.py"],
    "crashes": ["tests/crash_matrix.py", "--workers", str(min(2, multiprocessing.cpu_count())), "--most", "10"],
}
Row = dict[str, Any]


def rows_of(part: str) -> list[Row]:
    """What is recorded of a part."""
    path = RESULTS / f"{part}.json"
    rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
    return rows


# ------------------------------------------------------------------------------------------ faults


def faults() -> int:
    """Run the tests of all faults in one go, and record cases, skipped ones and damaged ones by fault."""
    code = code_digest()[:12]
    known = rows_of("faults")
    if [row["fault"] for row in known if row["code"] == code and not row["damaged"]] == [
        fault for of in FAULTS.values() for fault in of
    ]:
        return 0
    cases = _run({file for of in FAULTS.values() for tests in of.values() for file in tests})
    rows = []
    for kind, of in FAULTS.items():
        for fault, tests in of.items():
            counts = counted(tests, cases)
            rows.append({"kind": kind, "fault": fault, **counts, "code": code, "date": date.today().isoformat()})
            print(f"{fault:60} {counts['cases']:3} cases, {counts['damaged']} damaged", flush=True)
    (RESULTS / "faults.json").write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if any(row["damaged"] for row in rows) else 0


def _run(files: set[str]) -> list[ElementTree.Element]:
    """The cases of all tests that a fault names."""
    wanted = {word for of in FAULTS.values() for tests in of.values() for words in tests.values() for word in words}
    with tempfile.NamedTemporaryFile(suffix=".xml") as output:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", f"--junitxml={output.name}"]
        paths = [str(ROOT / "tests" / f"{file}.py") for file in sorted(files)]
        subprocess.run([*command, *paths, "-k", " or ".join(sorted(wanted))], cwd=ROOT, check=False)
        return list(ElementTree.parse(output.name).iter("testcase"))


def counted(tests: Tests, cases: Sequence[ElementTree.Element]) -> Row:
    """The tests of a fault, how many cases they have, and what became of them; a test that is missing is damage."""
    names, found, missing = set(), [], 0
    for file, words in tests.items():
        for word in words:
            of = [c for c in cases if c.get("classname", "").endswith(file) and word in c.get("name", "")]
            missing += not of
            found += [[child.tag for child in case] for case in of]
            names |= {f"{file}::{case.get('name', '').partition('[')[0]}" for case in of}
    damaged = sum("failure" in kind or "error" in kind for kind in found) + missing
    skipped = sum("skipped" in kind for kind in found)
    return {"tests": sorted(names), "cases": len(found), "skipped": skipped, "damaged": damaged}


# -------------------------------------------------------------------------------------------- page


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (head, ["---"] * len(head), *rows))


def crash_table(rows: Sequence[Row]) -> str:
    """A line per stage: operations on an empty place, ends of each kind, and what was lost.

    `a of b` where not all of b operations were tried. A dagger stands where one of the stage's rows was measured on
    another code than most.
    """
    code = Counter(row["code"] for row in rows).most_common(1)[0][0]
    lines, totals = [], dict.fromkeys([*ENDS, "lost"], 0)
    for stage in dict.fromkeys(row["stage"] for row in rows):
        of = {(row["place"], row["how"]): row for row in rows if row["stage"] == stage}
        cells = []
        for end in ENDS:
            totals[end] += of[end]["ended"] if end in of else 0
            cells.append(_ends(of[end]) if end in of else "–")
        lost = sum(row["lost"] for row in of.values())
        totals["lost"] += lost
        old = " †" if any(row["code"] != code for row in of.values()) else ""
        operations = next((row["operations"] for (place, _), row in of.items() if place == "fresh"), "–")
        lines.append([stage + old, operations, *cells, lost])
    legend = "\n\n†: a way was measured on another version than most." if any("†" in line[0] for line in lines) else ""
    lines.append(["**all**", "", *(f"**{totals[key]}**" for key in totals)])
    return markdown(["stage", "operations", *ENDS.values(), "lost"], lines) + legend


def _ends(row: Row) -> str:
    """How often a stage was ended, and of how many operations, where those are more."""
    some = row["most"] is not None and row["boundaries"] > row["most"]
    return f"{row['ended']} of {row['boundaries']}" if some else str(row["ended"])


def fault_table(rows: Sequence[Row]) -> str:
    """A line per fault, under the kind of fault, with the tests that make it."""
    lines: list[Sequence[Any]] = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of = [row for row in rows if row["kind"] == kind]
        lines.append([f"**{kind}**", "", f"**{sum(r['cases'] for r in of)}**", f"**{sum(r['damaged'] for r in of)}**"])
        for row in of:
            cases = f"{row['cases']} ({row['skipped']} skipped)" if row["skipped"] else row["cases"]
            lines.append([row["fault"], "<br>".join(f"`{test}`" for test in row["tests"]), cases, row["damaged"]])
    return markdown(["fault", "tests", "cases", "damaged"], lines)


def input_table(rows: Sequence[Row]) -> str:
    """A line per kind of input, and the sums."""
    inputs = [[r["target"], r["inputs"], r["refused"], r["read"], r["died"]] for r in rows]
    sums = [f"**{sum(column)}**" for column in zip(*(line[1:] for line in inputs), strict=True)]
    return markdown(["input", "tried", "refused", "read right", "ended the process"], [*inputs, ["**all**", *sums]])


def long_table(rows: Sequence[Row]) -> str:
    """A line per quantity: its slope with the error, and where it ended."""
    lines = [[r["over"], r["what"], f"{r['per_1000']:.2g} ± {r['error']:.1g}", f"{r['last']:.4g}"] for r in rows]
    return markdown(["over", "what", "growth per 1000", "at the end"], lines)


def made(parts: dict[str, list[Row]]) -> str:
    """When, where and on which code each part was measured."""
    of: dict[tuple[str, ...], list[str]] = {}
    for part, rows in parts.items():
        codes = tuple(sorted({row["code"] for row in rows}))
        days = sorted({row["date"] for row in rows})
        of.setdefault((*codes, "|", *dict.fromkeys((days[0], days[-1]))), []).append(part.replace("_", " "))
    lines = []
    for key, names in of.items():
        codes, days = " ".join(key).split(" | ")
        lines.append(f"{', '.join(names)}: {' to '.join(days.split())}, code {', '.join(codes.split())}")
    return f"Measured on {machine()}. {'; '.join(lines)}."


def page(parts: dict[str, str]) -> str:
    """The page with everything between its marks replaced."""
    text = PAGE.read_text(encoding="utf-8")
    for name, content in parts.items():
        marks = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
        text = re.sub(marks, lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text, flags=re.S)
    return text


def wrong(parts: dict[str, list[Row]]) -> bool:
    """Whether something was lost, damaged or grows; what is wrongly accepted is not recorded, its script fails."""
    rows = [row for of in parts.values() for row in of]
    return any(row.get("lost") or row.get("damaged") or not row.get("flat", True) for row in rows)


def measured(command: Sequence[str]) -> int:
    """Exit status of a part; an interrupt is passed on to all its processes once, and waited for: it tidies up."""
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        raise


def main() -> int:
    """Measure what is missing, write the page, and say whether something was wrong."""
    parser = argparse.ArgumentParser(description="Faults, long runs, malformed input, crashes: the page's tables.")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to measure")
    parser.add_argument("--keep", action="store_true", help="measure nothing, write the page from what is recorded")
    parser.add_argument("--faults", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.faults:
        return faults()
    for own in (signal.SIGINT, signal.SIGTERM):
        signal.signal(own, signal.default_int_handler)
    failed = False
    for part in [] if options.keep else [part for part in PARTS if part in options.only]:
        failed |= measured(PARTS[part]) != 0
    parts = {part: rows for part in PARTS if (rows := rows_of(part))}
    tables = {"faults": fault_table, "long_runs": long_table, "fuzzing": input_table, "crashes": crash_table}
    texts = {part.replace("_", " "): tables[part](rows) for part, rows in parts.items()}
    PAGE.write_text(page({"made": made(parts), **texts}), encoding="utf-8")
    return 1 if failed or wrong(parts) else 0


if __name__ == "__main__":
    sys.exit(main())
