"""An experiment of many raw files without their payload: what the workflow sees of 10,000 files and 1 TB.

Raw files are sparse, each with a content of its own. One part is ingested and preprocessed in earnest, 0.1 GB of
showers on 9x16x45 cells; every other part has its own manifest, its own `shower_hash` and its own job records, and
shares the other arrays by links. All later outputs are there too, as empty files, and Snakemake takes them for made
(`--touch`). The bare workflow (bare_workflow.smk) gets as many files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
import zarr
from data_workflow import experiment
from workloads import FOLDER, raw_file

from pipeline import stages
from pipeline.config import load_config
from pipeline.jobs import Job, jobs
from pipeline.plan import Plan

REPOSITORY = Path(__file__).resolve().parent.parent
RAW_BYTES = 100_000_000
RAW_GB = RAW_BYTES / 1e9
MEMORY_GB = 1.0  # of a streaming training
CONFIG = "experiment.yaml"
COMPLETE = "complete"  # written last; holds the path of the plan
AT_ONCE = (  # Snakemake waits for 0.1 s before it touches the files of a job
    "from snakemake.executors.touch import Executor; Executor.SLEEPING_TIME = 0; from snakemake.cli import main; main()"
)
FINAL = {"representation": "train/representation.json", "generator": "train/generator.json"}


def build(n: int) -> Path:
    """The folder of an experiment of n raw files, everything up to date; made when it is not there."""
    folder = (FOLDER / "scale" / str(n)).resolve()
    if (folder / COMPLETE).exists():
        for path in set((folder / "raw").iterdir()) - {folder / "raw" / f"{name_of(i)}.h5" for i in range(n)}:
            path.unlink()  # one more file, of a run that was interrupted
        snakemake(folder, [*ours(), "--touch"])  # what this version of the package holds for outdated counts as made
        return folder
    template = raw_file("9x16x45", RAW_GB).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "raw").mkdir(parents=True)
    names = [name_of(i) for i in range(n)]
    os.link(template, folder / "raw" / f"{names[0]}.h5")
    before = os.getcwd()
    os.chdir(folder)
    try:
        content = experiment("scale", "raw/*.h5")
        for training in content["runs"].values():
            training["training"] |= {"loading": "stream", "memory_gb": MEMORY_GB}
        Path(CONFIG).write_text(yaml.safe_dump(content, sort_keys=False))
        first = Plan.discover(load_config(CONFIG))
        manifests = (stages.ingest(first, "siw", names[0]), stages.preprocess(first, "siw", names[0], "log"))
        for i in range(1, n):
            add_raw_file(folder, names[i])
        for i, name in enumerate(names[1:], 1):
            hashes = _repeat(manifests[0], name, i)
            _repeat(manifests[1], name, i, hashes)
        plan = Plan.discover(load_config(CONFIG))
        stages.merge(plan, "log", "siw")
        _make_records(plan)
        snakemake(folder, [*ours(), "--touch", "--forceall"])
        _build_bare(folder / "bare", n)
        Path(COMPLETE).write_text(plan.save().as_posix())
    finally:
        os.chdir(before)
    return folder


def name_of(i: int) -> str:
    """The name of the i-th part, as the bare workflow has it."""
    return f"f{i:04d}"


def add_raw_file(folder: Path, name: str) -> Path:
    """A sparse raw file with a content of its own."""
    path = folder / "raw" / f"{name}.h5"
    with open(path, "wb") as handle:
        handle.write(name.encode())
        handle.truncate(RAW_BYTES)
    return path


def _repeat(manifest: Path, name: str, i: int, hashes: Path | None = None) -> Path:
    """Another part like this one: its own manifest and hashes (or those given), the arrays by links; its hashes."""
    content: dict[str, Any] = json.loads(manifest.read_text())
    content |= {"store_digest": f"{i:032x}"}
    if "source" in content:
        content["source"] |= {"name": f"{name}.h5", "digest": f"{i:032x}"}
    else:
        content["part_digest"] = f"{i:032x}"
        os.link(manifest.with_suffix(".npz"), manifest.with_name(f"{name}.npz"))
    source, store = manifest.with_suffix(".zarr"), manifest.with_name(f"{name}.zarr")
    store.mkdir()
    for member in source.iterdir():
        if member.name != "shower_hash":
            (store / member.name).symlink_to(member.absolute())
    if hashes:
        (store / "shower_hash").symlink_to(hashes.absolute())
    else:
        shutil.copytree(source / "shower_hash", store / "shower_hash")
        own = np.random.default_rng(i).integers(0, 1 << 64, content["n_showers"], dtype=np.uint64)
        zarr.open_array(store / "shower_hash", mode="r+")[:] = own
    _write(manifest.with_name(f"{name}.json"), content)
    return store / "shower_hash"


def _write(path: Path, content: Any) -> None:
    """As `write_json`, but not made durable: there are tens of thousands of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, sort_keys=True, indent=1) + "\n")


def _make_records(plan: Plan) -> None:
    """Fingerprints of the manifests, empty outputs where there are none, and the record of every job."""
    for part in plan.parts("siw"):
        manifest = plan.paths.part("siw", part)
        content = json.loads(manifest.read_text())
        content["source"]["fingerprint"] = plan.files["siw"][part].key
        _write(manifest, content)
    saved = plan.save().as_posix()
    for job in jobs(plan):
        for path in _outputs(job):
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("{}\n")
        cost = {"wall_seconds": 10.0, "cpu_seconds": 10.0, "peak_mb": 500.0}
        _write(job.record("measured"), {"made_from": job.made_from(), "plan": saved, **cost})


def _outputs(job: Job) -> list[Path]:
    endings = (".pdf", ".png", ".json") if job.stage == "figures" else (job.output.suffix,)
    return [job.output.with_suffix(ending) for ending in endings]


def _build_bare(folder: Path, n: int) -> None:
    """The bare workflow with all its files made."""
    (folder / "raw").mkdir(parents=True)
    for i in range(n):
        (folder / "raw" / f"{name_of(i)}.h5").write_bytes(str(i).encode())
    for below, ending in (("store", "json"), ("preprocessed", "json")):
        (folder / below).mkdir()
        for i in range(n):
            (folder / below / f"{name_of(i)}.{ending}").write_text("{}\n")
    later = ["merge.json", "metrics.json", "report.html", *FINAL.values(), "generate/generator.h5"]
    later += ["ingest/generator.json", *(f"evaluate/{s}.json" for s in ("floor", "known_fault", "generator"))]
    later += [f"figures/{figure}.pdf" for figure in ("hits", "linearity")]
    for name in later:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}\n")
    snakemake(folder, [*bare(n), "--touch", "--forceall"])


# ------------------------------------------------------------------------------------- Snakemake


def ours() -> list[str]:
    """The options of Snakemake for our workflow in an experiment's folder."""
    profile = str(REPOSITORY / "profiles" / "default")
    return ["--snakefile", str(REPOSITORY / "Snakefile"), "--workflow-profile", profile, "--configfile", CONFIG]


def bare(n: int) -> list[str]:
    """The same for the bare workflow."""
    return ["--snakefile", str(REPOSITORY / "benchmarks" / "bare_workflow.smk"), "--config", f"files={n}"]


def environment() -> dict[str, str]:
    """This package, and no plan of somebody else."""
    return {**{k: v for k, v in os.environ.items() if not k.startswith("CALOFORGE")}, "PYTHONPATH": str(REPOSITORY)}


def snakemake(folder: Path, arguments: list[str]) -> str:
    """Run Snakemake in a process of its own; returns what it printed, ends with it when it fails."""
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE, *arguments, "--cores", "1000", "--scheduler-subsample", "200"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"snakemake {' '.join(arguments)}:\n{done.stdout[-2000:]}")
    return done.stdout
