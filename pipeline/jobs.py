"""The jobs of an experiment, and what each leaves beside its log.

A `Job` knows its output, the key of all that shapes it, and the records it reads; `jobs(plan)` lists those of an
experiment in the order of work (the same as the Snakefile's, and a test says so). While a job runs and when it fails,
`<log>.error.json` says so; when it ends well, `<log>.measured.json` holds its cost, its code and `made_from`, a
digest of key and inputs: what is made from something else today is outdated, whatever the dates say. Both lie below
`logs/`, so they are no outputs that Snakemake removes, and no digest covers them.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pipeline.config import BaselineSampleSpec, digest_of
from pipeline.energy import EnergyMeter
from pipeline.plan import Plan
from pipeline.provenance import ProvenanceError, alive, code_digest, file_digest, read_json, write_json

State = Literal["current", "outdated", "missing", "failed", "running"]
LOGS = Path("logs")
MESSAGE = "CALOFORGE_MESSAGE"  # in the environment: where a process of a training says to its parent why it ended
SNAKEMAKE_LOCKS = Path(".snakemake") / "locks"
_STAGE_OF_FOLDER = {"store": "ingest", "preprocessed": "preprocess", "raw": "simulate"}


@dataclass(frozen=True)
class Job:
    """One job: its stage, what it is about, its output, the key of all that shapes it, and the records it reads."""

    stage: str
    name: str
    output: Path
    key: str
    inputs: tuple[Path, ...] = ()

    def made_from(self) -> str:
        """Digest of the key and of the inputs' content as it is now, in any order; `-` for one that is not there."""
        return digest_of([self.key, [[path.as_posix(), _digest(path)] for path in sorted(self.inputs)]])

    def record(self, kind: Literal["measured", "error"]) -> Path:
        """Where its cost, or its failure, is recorded."""
        return self._below_logs(f".{kind}.json")

    @property
    def log(self) -> Path:
        """The log of its rule."""
        path = self._below_logs(".log")
        if self.stage == "train":  # <run>/model -> <run>, <run>/slice-1 -> <run>-1
            return path.parent.with_name(f"{path.parent.name}{path.name.removeprefix('model').removeprefix('slice')}")
        return path

    def _below_logs(self, ending: str) -> Path:
        top, *rest = self.output.with_suffix("").parts
        if top == "data":
            rest[0] = _STAGE_OF_FOLDER[rest[0]]
        return LOGS.joinpath(*rest[:-1], f"{rest[-1]}{ending}")

    def measured(self) -> dict[str, Any]:
        """What the job cost when it last ended well: wall_seconds, cpu_seconds, peak_mb; empty when unknown."""
        return _read(self.record("measured"))

    def failure(self) -> str | None:
        """Why the job failed with this key, None when it did not; a job killed without a word failed."""
        record = _read(self.record("error"))
        if record.get("key") != self.key or is_running(record):
            return None
        return str(record["error"])

    def state(self, above: Mapping[Path, State]) -> State:
        """What is to be said of the output, given the states of what it is made from."""
        record = _read(self.record("error"))
        if record.get("key") == self.key:
            return "running" if is_running(record) else "failed"
        if not self.output.exists():
            return "missing"
        if any(above.get(path, "current") != "current" for path in self.inputs):
            return "outdated"
        made_from = self.measured().get("made_from")
        return "current" if made_from in (None, self.made_from()) else "outdated"


def is_running(record: Mapping[str, Any]) -> bool:
    """Whether the process of an error record is at work; one of another host, while Snakemake holds its lock here."""
    process = record.get("process")
    if process is None or record.get("host") == socket.gethostname():
        return process is not None and alive(process)
    return any(SNAKEMAKE_LOCKS.glob("*"))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (ProvenanceError, OSError):
        return {}
    return content if isinstance(content, dict) else {}


def _digest(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "-"
    return _file_digest(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=65536)
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:
    return file_digest(path)


# ------------------------------------------------------------------------------------ recording


@contextmanager
def recorded(plan: Plan, job: Job) -> Iterator[None]:
    """Record the block's cost, plan and code when it ends well, else why it did not; once for all its processes."""
    if not is_recording():
        yield
        return
    error, made_from, code = job.record("error"), job.made_from(), code_digest()[:12]
    attempts = _failed_attempts(error, job.key)
    started = {"key": job.key, "host": socket.gethostname(), "failed_attempts": attempts}
    write_json(
        error, {**started, "process": os.getpid(), "error": "the process ended without a word; see the log beside this"}
    )
    cost = _measuring(job)
    try:
        yield
    except BaseException as reason:
        told = {"process": None, "error": str(reason) or type(reason).__name__}
        write_json(error, {**started, **told, "failed_attempts": [*attempts, cost()]})
        raise
    made = {"made_from": made_from, "plan": plan.save().as_posix(), "code": code}
    write_json(job.record("measured"), {**made, **cost(), **({"failed_attempts": attempts} if attempts else {})})
    error.unlink(missing_ok=True)


def _failed_attempts(error: Path, key: str) -> list[dict[str, Any]]:
    """What attempts before this one cost that ended with a word."""
    record = _read(error)
    return list(record.get("failed_attempts", [])) if record.get("key") == key else []


def _measuring(job: Job) -> Callable[[], dict[str, Any]]:
    """Begins to measure this process and its children; what it returns gives the cost until then."""
    wall, cpu, began, meter = time.monotonic(), _cpu_seconds(), time.time(), EnergyMeter()

    def cost() -> dict[str, Any]:
        used = _cpu_seconds() - cpu
        gpus = _gpus(job, began)
        numbers = {"wall_seconds": time.monotonic() - wall, "cpu_seconds": used, "peak_mb": _peak_mb()}
        found: dict[str, Any] = {k: round(v, 3) for k, v in (numbers | meter.stop(gpus, used)).items()}
        found |= {"gpus": len(gpus)} if gpus else {}
        return found | ({"slurm_job": os.environ["SLURM_JOB_ID"]} if "SLURM_JOB_ID" in os.environ else {})

    return cost


def _gpus(job: Job, began: float) -> list[str]:
    """GPUs that the job worked on: those of its training, or that of this process."""
    record = job.output.parent / "training.measured.json"
    if job.stage == "train" and record.exists() and record.stat().st_mtime >= began - 1:
        return list(_read(record).get("gpu_uuids", []))
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return []
    return [f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"]


def is_recording() -> bool:
    """Whether this process keeps the job's record: torchrun's first one, unless `launch` started it."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or (MESSAGE not in os.environ and os.environ.get("RANK") == "0")


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usages)


def _peak_mb() -> float:
    """The largest resident size of this process or of one of its children, MB."""
    usages = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return max(usages) / (1e6 if sys.platform == "darwin" else 1e3)


# --------------------------------------------------------------------------------- jobs by stage


def _simulate(plan: Plan, file: str) -> Job:
    dataset, index = plan.simulated_file(file)
    return Job("simulate", file, plan.paths.raw(dataset, file.partition("/")[2]), plan.simulate_key(dataset, index))


def _ingest(plan: Plan, dataset: str, part: str) -> Job:
    plan.raw_file(dataset, part)
    return Job("ingest", f"{dataset}/{part}", plan.paths.part(dataset, part), plan.ingest_key(dataset, part))


def _ingest_sample(plan: Plan, sample: str) -> Job:
    return Job("ingest_sample", sample, plan.paths.sample_part(sample), "", (plan.paths.sample(sample),))


def _preprocess(plan: Plan, dataset: str, part: str, recipe: str) -> Job:
    output, part_manifest = plan.paths.prefix(recipe, dataset, part), plan.paths.part(dataset, part)
    return Job("preprocess", f"{recipe}/{dataset}/{part}", output, plan.recipe_key(recipe), (part_manifest,))


def _merge(plan: Plan, recipe: str, dataset: str) -> Job:
    output, inputs = plan.paths.transform(recipe, dataset), tuple(plan.prefix_manifests(recipe, dataset))
    return Job("merge", f"{recipe}/{dataset}", output, plan.recipe_key(recipe), inputs)


def _train(plan: Plan, run: str, slice: int | None = None) -> Job:
    index = plan.config.runs[run].slices if slice is None else slice
    output = plan.paths.slice(run, index)
    return Job("train", run, output, plan.run_key(run), _flat(plan.train_inputs(run, index)))


def _generate(plan: Plan, sample: str) -> Job:
    inputs = _flat(plan.generate_inputs(sample))
    return Job("generate", sample, plan.paths.sample(sample), plan.sample_key(sample), inputs)


def _predict(plan: Plan, run: str) -> Job:
    inputs = _flat(plan.predict_inputs(run))
    return Job("predict", run, plan.paths.prediction(run), plan.conditions_key(), inputs)


def _evaluate(plan: Plan, subject: str) -> Job:
    inputs = _flat(plan.evaluate_inputs(subject))
    return Job("evaluate", subject, plan.paths.evaluation(subject), plan.evaluation_key(), inputs)


def _examine(plan: Plan, run: str) -> Job:
    inputs = _flat(plan.examine_inputs(run))
    return Job("examine", run, plan.paths.examination(run), plan.examine_key(run), inputs)


def _metrics(plan: Plan) -> Job:
    return Job("metrics", "", plan.paths.metrics, digest_of(plan.subjects()), tuple(plan.evaluations()))


def _probe(plan: Plan, encoder: str) -> Job:
    inputs = _flat(plan.probe_inputs(encoder))
    return Job("probe", encoder, plan.paths.probe(encoder), plan.probe_key(encoder), inputs)


def _study(plan: Plan) -> Job:
    return Job("study", "", plan.paths.study, plan.study_key(), tuple(plan.study_inputs()))


def _figures(plan: Plan, figure: str) -> Job:
    return Job("figures", figure, plan.paths.figure(figure), plan.figures_key(), tuple(plan.tables()))


def _report(plan: Plan) -> Job:
    figures = [plan.paths.figure(figure) for figure in plan.figures()]
    return Job("report", "", plan.paths.report, plan.report_key(), (*figures, *plan.tables()))


def _paper(plan: Plan) -> Job:
    return Job("paper", "", plan.paths.paper, plan.paper_key(), _flat(plan.paper_inputs()))


JOBS: dict[str, Callable[..., Job]] = {
    "simulate": _simulate,
    "ingest": _ingest,
    "preprocess": _preprocess,
    "merge": _merge,
    "train": _train,
    "generate": _generate,
    "ingest_sample": _ingest_sample,
    "predict": _predict,
    "evaluate": _evaluate,
    "examine": _examine,
    "metrics": _metrics,
    "probe": _probe,
    "study": _study,
    "figures": _figures,
    "report": _report,
    "paper": _paper,
}


def _flat(inputs: Mapping[str, Any]) -> tuple[Path, ...]:
    return tuple(path for value in inputs.values() for path in (value if isinstance(value, list) else [value]))


def jobs(plan: Plan) -> list[Job]:
    """All jobs of the experiment, in the order of work."""
    config = plan.config
    read = {(run.recipe, dataset) for run in config.runs.values() for dataset in run.data}
    probed = (
        {(plan.probed_recipe(e), d) for e in plan.probed() for d in config.study.labelled_data}
        if config.study
        else set()
    )
    pairs = sorted(read | probed)
    datasets = {d for _, d in pairs} | ({config.evaluation.reference} if config.evaluation else set())
    datasets |= {s.data for s in config.samples.values() if isinstance(s, BaselineSampleSpec) and s.data}
    datasets = datasets if plan.config.runs or config.evaluation else set(config.datasets)
    made = [sample for sample in config.samples if sample not in config.file_samples()]
    ingested = [*(d for d in config.datasets if d in datasets), *config.file_samples()]
    slices = [(run, i) for run in _parents_first(plan) for i in range(1, config.runs[run].slices + 1)]
    heads = config.head_runs() if config.evaluation else []
    report = bool(config.runs or config.evaluation)
    return [
        *(_simulate(plan, file) for file, (dataset, _) in plan.simulated.items() if dataset in datasets),
        *(_ingest(plan, d, part) for d in ingested for part in plan.parts(d)),
        *(_preprocess(plan, d, part, recipe) for recipe, d in pairs for part in plan.parts(d)),
        *(_merge(plan, recipe, d) for recipe, d in pairs),
        *(_train(plan, run, i) for run, i in slices),
        *(_generate(plan, sample) for sample in made),
        *(_ingest_sample(plan, sample) for sample in made),
        *(_predict(plan, run) for run in heads),
        *(_evaluate(plan, subject) for subject in plan.subjects()),
        *(_examine(plan, run) for run in config.examined()),
        *([_metrics(plan)] if config.evaluation else []),
        *(_probe(plan, encoder) for encoder in plan.probed()),
        *([_study(plan)] if plan.has_study else []),
        *(_figures(plan, figure) for figure in plan.figures() if report),
        *([_report(plan)] if report else []),
    ]


def _parents_first(plan: Plan) -> list[str]:
    return sorted(plan.config.runs, key=plan.config.generation_of)
