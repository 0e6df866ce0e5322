"""How benchmarks measure: interleaved repetitions, each in a fresh process, compared within one run.

A case is a function and its arguments. Its module is imported before the clock starts; wall and CPU seconds (of the
process, its threads and finished children) and the peak memory above that of the process before the call are its
`Cost`. Ratios are taken repetition by repetition, for the machine is shared and its speed drifts.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import platform
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
REPETITIONS = 5
UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
Row = dict[str, Any]


@dataclass(frozen=True)
class Cost:
    """Wall and CPU seconds, peak memory (MB) above the process before the call, and what the call returned."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    result: Any = None


@dataclass(frozen=True)
class Case:
    """A function of a benchmark module, its (picklable) arguments, and variables for the process that runs it."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def cpu_seconds() -> float:
    """User and system time of this process and of its finished children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usages)


def cost(case: Case) -> Cost:
    """The case once, in a fresh process."""
    with _environment(case.environment), multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (case,))


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _measured(case: Case) -> Cost:
    gc.collect()
    os.sync()  # what the case before left to write
    before = _reset_peak_mb()
    wall, cpu = time.monotonic(), cpu_seconds()
    result = case.function(*case.arguments)
    return Cost(time.monotonic() - wall, cpu_seconds() - cpu, _peak_mb() - before, result)


def _reset_peak_mb() -> float:
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_mb()


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def interleaved(cases: Mapping[str, Case], repetitions: int = REPETITIONS) -> dict[str, list[Cost]]:
    """Every case once without keeping it (caches warm up), then `repetitions` rounds of all cases in turn."""
    for case in cases.values():
        cost(case)
    costs: dict[str, list[Cost]] = {name: [] for name in cases}
    for _ in range(repetitions):
        for name, case in cases.items():
            costs[name].append(cost(case))
    return costs


def gain(slow: Sequence[Cost], fast: Sequence[Cost], what: str = "wall_s") -> float:
    """How many times less `fast` costs: the median over repetitions."""
    return statistics.median(getattr(a, what) / getattr(b, what) for a, b in zip(slow, fast, strict=True))


def median(costs: Sequence[Cost], what: str) -> float:
    """The median of one figure over repetitions."""
    return statistics.median(getattr(c, what) for c in costs)


def row(name: str, value: float, unit: str, against: str | None, workload: str, n: int) -> Row:
    """One line of a table of results."""
    return {
        "name": name,
        "workload": workload,
        "value": value,
        "unit": unit,
        "against": against,
        "n": n,
        "machine": machine(),
        "date": date.today().isoformat(),
    }


def machine() -> str:
    """Architecture, cores, and on Linux the processor's name and what it multiplies matrices with."""
    told = f"{platform.machine()}, {multiprocessing.cpu_count()} cores"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return told
    processor = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    units = [unit for unit in UNITS if unit in processor.get("flags", "").split()]
    return ", ".join([told, *filter(None, [processor.get("model name"), " ".join(units)])])


def write(name: str, rows: Sequence[Row]) -> Path:
    """Print the rows and write them to benchmarks/results/<name>.json."""
    for line in rows:
        print(f"{line['name']:34} {line['workload']:34} {line['value']:10.4g} {line['unit']}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(list(rows), indent=1) + "\n")
    print(path, file=sys.stderr)
    return path


def quoted(text: str, parts: Mapping[str, str]) -> str:
    """A page with what stands between its marks `<!-- name -->` and `<!-- end of name -->` replaced, by name."""
    for name, content in parts.items():
        marks = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
        new = f"{content}\n"
        text, found = re.subn(marks, lambda match, new=new: match[1] + new + match[2], text, flags=re.S)
        if not found:
            raise ValueError(f"expected the marks of '{name}' in the page, found none; add them where it shall stand")
    return text
