"""What an experiment has cost: hours of cores and GPUs, energy, CO2, and showers per kWh beside Geant4's.

In: the records that jobs left beside their logs (`jobs`), and the assumptions of the section `cost`. Out: plain
records. The energy of a job is what counters of its devices said (`energy`), else Slurm's ConsumedEnergy of the job,
else an estimate from configured watts; each row says which. Attempts that failed count, where they ended with a word.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config import CostSpec, SampleSpec
from pipeline.jobs import Job, jobs
from pipeline.plan import Plan

_JOULES_PER_KWH = 3.6e6
_ONE_BY_ONE = ("train", "generate")  # stages whose jobs have a row for each name; others are added up


@dataclass(frozen=True)
class Cost:
    """What some jobs cost; `sources` are where their energy is known from."""

    jobs: int = 0
    failed_attempts: int = 0
    core_hours: float = 0.0
    gpu_hours: float = 0.0
    kwh: float = 0.0
    sources: frozenset[str] = frozenset()

    def __add__(self, other: Cost) -> Cost:
        """The cost of both."""
        return Cost(
            self.jobs + other.jobs,
            self.failed_attempts + other.failed_attempts,
            self.core_hours + other.core_hours,
            self.gpu_hours + other.gpu_hours,
            self.kwh + other.kwh,
            self.sources | other.sources,
        )


def cost_of(measured: Mapping[str, Any], spec: CostSpec, sacct_joules: float | None = None) -> Cost:
    """The cost of one job from its record, its failed attempts included."""
    if not measured:
        return Cost()
    total = _attempt(measured, spec, sacct_joules)
    for attempt in measured.get("failed_attempts", ()):
        total += replace(_attempt(attempt, spec, None), jobs=0, failed_attempts=1)
    return total


def _attempt(measured: Mapping[str, Any], spec: CostSpec, sacct_joules: float | None) -> Cost:
    core_hours = measured["cpu_seconds"] / 3600
    gpu_hours = measured.get("gpus", 0) * measured["wall_seconds"] / 3600
    counted = {name: measured[name] for name in ("cpu_joules", "gpu_joules") if name in measured}
    if sacct_joules and not counted:
        return Cost(1, 0, core_hours, gpu_hours, sacct_joules / _JOULES_PER_KWH * spec.overhead, frozenset({"sacct"}))
    kwh, sources = sum(counted.values()) / _JOULES_PER_KWH, set()
    sources |= {"RAPL"} if "cpu_joules" in counted else set()
    sources |= {"NVML"} if "gpu_joules" in counted else set()
    if "cpu_joules" not in counted:
        kwh += core_hours * spec.watts_per_core / 1000
        sources.add("estimate")
    if gpu_hours and "gpu_joules" not in counted:
        kwh += gpu_hours * spec.watts_per_gpu / 1000
        sources.add("estimate")
    return Cost(1, 0, core_hours, gpu_hours, kwh * spec.overhead, frozenset(sources))


def cost_table(plan: Plan, slurm_joules: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Rows by run, sample and stage with their total, showers per kWh, and what the numbers rest on."""
    spec, rows = plan.config.cost, dict[str, Cost]()
    per_job: dict[Job, Cost] = {}
    found = [(job, job.measured()) for job in jobs(plan)]
    shares = _slurm_shares([measured for _, measured in found], slurm_joules or {})
    for (job, measured), joules in zip(found, shares, strict=True):
        cost = per_job[job] = cost_of(measured, spec, joules)
        name = f"{job.stage} {job.name}" if job.stage in _ONE_BY_ONE else job.stage
        rows[name] = rows.get(name, Cost()) + cost
    rows = {name: cost for name, cost in rows.items() if cost.jobs or cost.failed_attempts}
    rows["all"] = sum(rows.values(), Cost())
    return {
        "rows": [{"of": name, **_row(cost, spec)} for name, cost in rows.items()],
        "showers": _showers(plan, per_job),
        "assumptions": spec.model_dump(mode="json"),
        "notes": _notes(rows["all"], spec),
    }


def _row(cost: Cost, spec: CostSpec) -> dict[str, Any]:
    row: dict[str, Any] = {
        "jobs": cost.jobs,
        "failed_attempts": cost.failed_attempts,
        "core_hours": cost.core_hours,
        "gpu_hours": cost.gpu_hours,
        "kwh": cost.kwh,
        "energy_from": " + ".join(sorted(cost.sources)),
    }
    if spec.grid_g_per_kwh is not None:
        row["co2_g"] = cost.kwh * spec.grid_g_per_kwh
    return row


def _notes(total: Cost, spec: CostSpec) -> list[str]:
    if not total.jobs + total.failed_attempts:
        return ["no job has left a record of its cost beside its log here; run the workflow first"]
    notes = []
    if "estimate" in total.sources:
        notes.append(
            f"estimate: CPU time at {spec.watts_per_core:g} W per core and GPU time at {spec.watts_per_gpu:g} W per "
            "GPU, as `cost:` in the configuration says; nothing measured it"
        )
    if "sacct" in total.sources:
        notes.append("sacct: Slurm's ConsumedEnergy, which counts whole nodes")
    if spec.grid_g_per_kwh is None:
        notes.append("no CO2: set cost.grid_g_per_kwh to what your grid emits")
    return notes


# ---------------------------------------------------------------------------- showers per kWh


def _showers(plan: Plan, per_job: Mapping[Job, Cost]) -> list[dict[str, Any]]:
    """Showers per kWh of each simulated data set and of each sample that a model made, its training left out.

    `repaid_after` is the number of showers behind which a model, with the training of its run and of the runs that it
    starts from, has cost less than the first Geant4 data set would.
    """
    by_dataset: dict[str, tuple[int, Cost]] = {}
    for job, cost in per_job.items():
        if job.stage == "simulate" and cost.jobs:
            dataset = plan.simulated_file(job.name)[0]
            simulate = plan.config.datasets[dataset].simulate
            n, so_far = by_dataset.get(dataset, (0, Cost()))
            by_dataset[dataset] = n + (simulate.showers if simulate else 0), so_far + cost
    rows = []
    for dataset, (n, cost) in by_dataset.items():
        spec = plan.config.datasets[dataset].simulate
        rows.append(_shower_row(f"{spec.engine if spec else ''} {dataset}", n, cost))
    reference = next((row for row in rows if row["of"].startswith("geant4") and row["showers_per_kwh"]), None)
    for job, cost in per_job.items():
        if job.stage == "generate" and cost.jobs and isinstance(plan.config.samples[job.name], SampleSpec):
            row = _shower_row(f"generate {job.name}", _generated(job), cost)
            training = _training_kwh(plan, job.name, per_job)
            if reference and row["showers_per_kwh"] and row["showers_per_kwh"] > reference["showers_per_kwh"]:
                saved = 1 / reference["showers_per_kwh"] - 1 / row["showers_per_kwh"]
                row["times_geant4"] = row["showers_per_kwh"] / reference["showers_per_kwh"]
                row["repaid_after"] = round(training / saved)
            rows.append(row)
    return rows


def _shower_row(of: str, showers: int, cost: Cost) -> dict[str, Any]:
    per_kwh = showers / cost.kwh if showers and cost.kwh else None
    return {"of": of, "showers": showers, "kwh": cost.kwh, "showers_per_kwh": per_kwh}


def _generated(job: Job) -> int:
    from pipeline.provenance import ProvenanceError, read_json

    try:
        return int(read_json(job.output.with_suffix(".measured.json"))["showers"])
    except (ProvenanceError, KeyError, OSError):
        return 0


def _training_kwh(plan: Plan, sample: str, per_job: Mapping[Job, Cost]) -> float:
    spec = plan.config.samples[sample]
    assert isinstance(spec, SampleSpec)
    lineage = plan.config.lineage(spec.run)
    return sum(cost.kwh for job, cost in per_job.items() if job.stage == "train" and job.name in lineage)


# --------------------------------------------------------------------------------------- Slurm


def slurm_energy(plan: Plan) -> dict[str, float]:
    """Joules of the experiment's Slurm jobs by number, as sacct knows them; empty without sacct or its plugin."""
    numbers = sorted({str(m["slurm_job"]) for job in jobs(plan) if "slurm_job" in (m := job.measured())})
    if not numbers or shutil.which("sacct") is None:
        return {}
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobIDRaw,ConsumedEnergyRaw"]
    asked = subprocess.run([*command, "--jobs", ",".join(numbers)], capture_output=True, text=True, check=False)
    return parsed_sacct(asked.stdout) if asked.returncode == 0 else {}


def parsed_sacct(text: str) -> dict[str, float]:
    """Joules by job number from sacct's lines `number|joules`; jobs without a measurement are left out."""
    pairs = (line.split("|") for line in text.splitlines() if line.count("|") == 1)
    return {number: float(joules) for number, joules in pairs if joules.isdigit() and int(joules) > 0}


def _slurm_shares(measured: Sequence[Mapping[str, Any]], joules: Mapping[str, float]) -> list[float | None]:
    """Each record's share of its Slurm job, which may have held several, by their CPU time."""
    seconds: dict[str, float] = {}
    for record in measured:
        number = str(record.get("slurm_job", ""))
        seconds[number] = seconds.get(number, 0.0) + record.get("cpu_seconds", 0.0)
    shares: list[float | None] = []
    for record in measured:
        number = str(record.get("slurm_job", ""))
        known = number in joules and seconds[number] > 0
        shares.append(joules[number] * record["cpu_seconds"] / seconds[number] if known else None)
    return shares
