"""Whether this machine can run an experiment: software, GPUs, scratch space, memory, Geant4's data.

In: a profile, and the plan of an experiment where there is one. Out: findings for `caloforge doctor`, each with a
remedy. Nothing is run and nothing written; nvidia-smi is asked, and torch whether it sees a GPU.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.plan import Plan
from pipeline.provenance import ProvenanceError, read_json
from pipeline.site.devices import visible_devices
from pipeline.site.findings import Finding, fail, ok, warn
from pipeline.site.slurm import ask, evaluated

GEANT4_VARIABLES = ("GEANT4_DATA_DIR", "G4LEDATA")
_SMALLEST_SCRATCH_GB = 2.0
_OLDEST_SNAKEMAKE = (9, 5)
_BYTES_PER_HIT = 6  # cell index and energy
_STORED_PER_RAW = 1.0  # a part, its preprocessed copy and results are together not larger than raw files


def check_software(profile: Mapping[str, Any]) -> list[Finding]:
    """Snakemake, and the plugin that the profile's executor needs."""
    try:
        found = version("snakemake")
    except PackageNotFoundError:
        return [fail("snakemake", "not installed beside this Python", "run `make env`")]
    numbers = tuple(int(n) for n in re.findall(r"\d+", found)[:2])
    least = ".".join(map(str, _OLDEST_SNAKEMAKE))
    findings = [
        ok("snakemake", found)
        if numbers >= _OLDEST_SNAKEMAKE
        else fail("snakemake", f"expected {least} or later, found {found}", "run `make env`")
    ]
    executor = profile.get("executor")
    if executor not in (None, "local"):
        plugin = f"snakemake-executor-plugin-{executor}"
        there = find_spec(plugin.replace("-", "_")) is not None
        remedy = f"pip install {plugin}"
        findings.append(ok(plugin, version(plugin)) if there else fail(plugin, "not installed", remedy))
    return findings


# ---------------------------------------------------------------------------------------- GPUs


def check_gpu(profile: Mapping[str, Any]) -> list[Finding]:
    """Driver, torch and the profile's number of GPUs; on a cluster's login node, where there is none, only a remark."""
    import torch

    built = torch.version.cuda
    driver = re.search(r"CUDA Version:\s*(\d+\.\d+)", ask("nvidia-smi") or "")
    devices = visible_devices()
    torch_name = f"torch {torch.__version__}"
    if driver is None:
        text = f"no NVIDIA driver here; {torch_name} trains on CPUs"
        wanted = _wanted_gpus(profile)
        remedy = "lower `gpu` in the profile, or install the driver"
        return (
            [fail("gpu", f"the profile hands out {wanted}, there is no driver", remedy)]
            if wanted
            else [ok("gpu", text)]
        )
    if built is None:
        remedy = f"install the torch build for CUDA {driver[1]} or earlier"
        return [fail("torch", f"{torch_name} was built without CUDA, the driver has CUDA {driver[1]}", remedy)]
    if _newer(built, driver[1]):
        remedy = f"update the driver, or install the torch build for CUDA {driver[1]} or earlier"
        return [fail("torch", f"built for CUDA {built}, the driver has CUDA {driver[1]}", remedy)]
    if not torch.cuda.is_available():
        remedy = "look at CUDA_VISIBLE_DEVICES, and at `nvidia-smi`"
        return [fail("gpu", f"nvidia-smi lists {', '.join(devices) or 'none'}, torch sees none", remedy)]
    found = ok("gpu", f"{torch.cuda.device_count()} of {torch.cuda.get_device_name(0)}; {torch_name}, CUDA {built}")
    return [found, *_check_count(_wanted_gpus(profile), devices)]


def _check_count(wanted: int, devices: list[str]) -> list[Finding]:
    if wanted > len(devices):
        remedy = "lower `gpu` in the profile's resources"
        return [fail("gpu", f"the profile hands out {wanted}, there are {len(devices)}", remedy)]
    if 0 < wanted < len(devices):
        remedy = "raise `gpu` in the profile's resources, or leave them to others"
        return [warn("gpu", f"the profile hands out {wanted} of {len(devices)}", remedy)]
    return []


def _wanted_gpus(profile: Mapping[str, Any]) -> int:
    """`resources: [gpu=2]` of a profile that runs jobs on this machine; 0 on a cluster."""
    if profile.get("executor") not in (None, "local"):
        return 0
    pairs = (str(item).partition("=") for item in profile.get("resources", ()))
    return sum(int(n) for name, _, n in pairs if name == "gpu")


def _newer(built: str, driver: str) -> bool:
    """Whether torch needs another major version than the driver has; within one, drivers serve newer builds too."""
    return int(built.split(".")[0]) > int(driver.split(".")[0])


# ------------------------------------------------------------------------------- space and memory


def check_scratch(plan: Plan | None) -> list[Finding]:
    """Free space where results and temporary files go, against what is still to be ingested."""
    findings = []
    needed = _to_ingest_gb(plan) * _STORED_PER_RAW if plan else 0.0
    for what, folder, least in (("space", Path(), max(needed, _SMALLEST_SCRATCH_GB)), ("tmp", _temporary(), 0.5)):
        free = shutil.disk_usage(folder).free / 1e9
        text = f"{free:.3g} GB free in {folder.resolve()}"
        if free < _SMALLEST_SCRATCH_GB / 4:
            findings.append(fail(what, text, "free some, or set TMPDIR" if what == "tmp" else "work on another disk"))
        elif free < least:
            remedy = "free some, or work on another disk"
            findings.append(warn(what, f"{text}, up to {least:.3g} GB may be written", remedy))
        else:
            findings.append(ok(what, text))
    return findings


def _temporary() -> Path:
    return Path(tempfile.gettempdir())


def _to_ingest_gb(plan: Plan) -> float:
    """Raw files without a part."""
    missing = (
        raw.path
        for dataset, parts in plan.files.items()
        for part, raw in parts.items()
        if not plan.paths.part(dataset, part).exists()
    )
    return sum(os.path.getsize(path) for path in missing if os.path.exists(path)) / 1e9


def check_memory(plan: Plan | None, profile: Mapping[str, Any]) -> list[Finding]:
    """The largest part and each run's showers, held in memory, against the profile's `train`, else this machine."""
    import psutil

    request = evaluated(profile.get("set-resources", {}).get("train", {}).get("mem_mb"), 1)
    memory_mb = request or psutil.virtual_memory().total / 1e6
    whose = "the profile gives train" if request else "this machine has"
    if plan is None:
        return [ok("memory", f"{whose} {memory_mb:.0f} MB")]
    sizes = {dataset: [_held_mb(plan.paths.part(dataset, p)) for p in plan.parts(dataset)] for dataset in plan.files}
    largest = max((mb for parts in sizes.values() for mb in parts), default=0.0)
    if not largest:
        return [ok("memory", f"no part is ingested yet; {whose} {memory_mb:.0f} MB")]
    if largest > memory_mb / 2:
        remedy = "split the raw file, or give more memory"
        return [fail("memory", f"the largest part takes {largest:.0f} MB, {whose} {memory_mb:.0f}", remedy)]
    findings = [ok("memory", f"the largest part takes {largest:.3g} MB, {whose} {memory_mb:.0f}")]
    for name, run in plan.config.runs.items():
        held = sum(sum(sizes[dataset]) for dataset in run.data)
        if held > memory_mb / 2:
            remedy = "it will stream (docs/loading.md); give train more memory if that is too slow"
            findings.append(warn(f"memory, {name}", f"its parts take {held:.0f} MB, {whose} {memory_mb:.0f}", remedy))
    return findings


def _held_mb(manifest: Path) -> float:
    """What the showers of a part take in memory; 0 for one that is not ingested yet."""
    try:
        return float(read_json(manifest)["n_hits"]) * _BYTES_PER_HIT / 1e6
    except (ProvenanceError, KeyError, TypeError):
        return 0.0


# ------------------------------------------------------------------------------------- Geant4


def check_geant4(plan: Plan | None) -> list[Finding]:
    """Geant4 and its data, where the experiment simulates with it."""
    engines = [s.simulate.engine for s in plan.config.datasets.values() if s.simulate] if plan else []
    if "geant4" not in engines:
        return []
    if find_spec("geant4_pybind") is None:
        return [fail("geant4", "geant4-pybind is not installed", "pip install 'caloforge[geant4]'")]
    given = {name: os.environ[name] for name in GEANT4_VARIABLES if os.environ.get(name)}
    for name, folder in given.items():
        if not Path(folder).is_dir():
            return [
                fail("geant4", f"{name}: expected a folder, found none at {folder}", f"correct {name}, or unset it")
            ]
    if given:
        return [ok("geant4", f"data of {', '.join(given)}")]
    remedy = "set G4LEDATA to Geant4's own data before a study is published (docs/geant4.md)"
    return [warn("geant4", "no data installed; the stand-in is used", remedy)]
