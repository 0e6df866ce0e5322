"""The small experiment whose stages are ended: every stage once, and which files each of them makes."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from crash_server import Server, undisturbed
from workflow_fixtures import Workspace

CONTENT: dict[str, Any] = {
    "experiment": "crash",
    "datasets": {
        "siw": {
            "format": "calochallenge",
            "files": "data/raw/siw/*.h5",
            "detector": "SiW",
            "sampling_corrected": False,
            "angle_deg": 90,
            "simulate": {"engine": "parametric", "files": 2, "showers": 40, "energy_gev": [1, 4]},
        }
    },
    "splits": {"train": 0.5, "validation": 0.1, "test": 0.4},
    "preprocessing": {
        "log": [
            {"rebin": {"factors": [6, 10, 9]}},
            {"cut": {"threshold_mev": 0.015}},
            {"log1p": {"scale_mev": 0.01}},
            "standardise",
        ]
    },
    "runs": {
        "representation": {
            "model": {"name": "masked_vit", "patch": [3, 5, 1], "width": 8, "depth": 1, "heads": 2, "decoder_width": 8},
            "data": ["siw"],
            "recipe": "log",
            "training": {"samples": 32, "batch_size": 8, "validate_every": 16, "checkpoint_every": 8},
        },
        "energy": {
            "start_from": "representation",
            "head": {"predict": "incident_energy", "width": 8},
            "data": ["siw"],
            "recipe": "log",
            "training": {"samples": 32, "batch_size": 8, "validate_every": 16, "checkpoint_every": 8},
        },
        "generator": {
            "model": {
                "name": "diffusion",
                "patch": [3, 5, 1],
                "width": 8,
                "depth": 1,
                "heads": 2,
                "layer_energies": {"width": 8, "depth": 1, "steps": 2},
            },
            "data": ["siw"],
            "recipe": "log",
            "slices": 2,
            "training": {"samples": 32, "batch_size": 8, "validate_every": 16, "checkpoint_every": 8},
        },
    },
    "samples": {"generator": {"run": "generator", "steps": 2}},
    "evaluation": {
        "reference": "siw",
        "rebin": [6, 10, 9],
        "threshold_mev": 0.015,
        "showers": 10,
        "bootstrap": 2,
        "classifier_seeds": 1,
    },
    "figures": {"draw": ["hits", "attention", "study"]},
    "study": {
        "question": "Does a frozen encoder help?",
        "data": "siw",
        "pretraining": {
            "model": {"name": "masked_vit", "patch": [3, 5, 1], "width": 8, "depth": 1, "heads": 2, "decoder_width": 8},
            "data": ["siw"],
            "recipe": "log",
            "training": {"samples": 16, "batch_size": 8, "validate_every": 16, "checkpoint_every": 16},
        },
        "seeds": [1],
        "shuffled": False,
        "tasks": {"front": {"layers": 2}},
        "labels": [10],
        "subsets": 1,
        "pool": 20,
        "validation": 4,
        "test": 8,
        "claims": [{"task": "front", "labels": [10], "than": ["random"]}],
    },
}

DATA = ("--dataset", "siw", "--recipe", "log")
PART = "siw_0002"
# stage -> (arguments, what it makes below the workspace)
STAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "simulate": (("simulate", "--file", f"siw/{PART}"), (f"data/raw/siw/{PART}.h5*",)),
    "ingest": (
        ("ingest", "--dataset", "siw", "--part", PART, "--threads", "1"),
        (f"data/store/siw-*/{PART}.*", "data/fingerprints.json"),
    ),
    "preprocess": (
        ("preprocess", *DATA, "--part", PART, "--threads", "1"),
        (f"data/preprocessed/*/siw-*/{PART}.*",),
    ),
    "merge": (("merge", *DATA, "--threads", "1"), ("results/crash/merge/log/siw.json",)),
    "train": (("train", "--run", "energy"), ("results/crash/train/energy",)),
    "train slice": (
        ("train", "--run", "generator", "--slice", "1"),
        ("results/crash/train/generator/slice-1.json", "results/crash/train/generator/checkpoints"),
    ),
    "generate": (("generate", "--sample", "generator"), ("results/crash/generate/generator.*",)),
    "ingest_sample": (("ingest", "--sample", "generator", "--threads", "1"), ("results/crash/ingest/generator.*",)),
    "predict": (("predict", "--run", "energy"), ("results/crash/predict/energy.*",)),
    "evaluate": (("evaluate", "--subject", "energy"), ("results/crash/evaluate/energy.*",)),
    "examine": (("examine", "--run", "generator"), ("results/crash/examine/generator.*",)),
    "metrics": (("metrics",), ("results/crash/metrics.json",)),
    "probe": (("probe", "--encoder", "encoder_seed1"), ("results/crash/probe/encoder_seed1.*",)),
    "study": (("study",), ("results/crash/study",)),
    "figures": (("figures", "--figure", "hits"), ("results/crash/figures/hits.*",)),
    "report": (("report",), ("results/crash/report.html",)),
    "paper": (("paper",), ("results/crash/paper",)),
    "freeze": (("freeze", "experiment.yaml", "--output", "data/lock.json"), ("data/lock.json",)),
    "download": (("download", "siw", "--config", "download.yaml"), ("data/raw/fetched", "data/fingerprints.json")),
    "export-dense": (
        ("export-dense", "--dataset", "siw", "--output", "data/dense"),
        ("data/dense",),
    ),
}
# the next slice goes on in the same folder, so a slice alone is compared with itself, and the next one comes behind it
SHARED = {"train slice": ("train", "--run", "generator")}


def finished(running: Server, folder: Path) -> Workspace:
    """A workspace in which every job of the experiment has run, one after the other."""
    from pipeline.config import load_config
    from pipeline.jobs import jobs
    from pipeline.plan import Plan

    workspace = Workspace(folder)
    workspace.configure(CONTENT)
    before = Path.cwd()
    os.chdir(folder)
    try:
        for job in jobs(Plan.discover(load_config(workspace.config_file))):
            undisturbed(running, workspace, _command(job.stage, job.name, job.output))
    finally:
        os.chdir(before)
    published = folder / "published"
    published.mkdir()
    (published / "siw.h5").write_bytes((folder / "data" / "raw" / "siw" / f"{PART}.h5").read_bytes())
    checksum = f"md5:{hashlib.md5((published / 'siw.h5').read_bytes(), usedforsecurity=False).hexdigest()}"
    spec = {"urls": [{"url": f"{_served(published)}/siw.h5", "checksum": checksum}]}
    dataset = {"format": "calochallenge", "detector": "SiW", "files": "data/raw/fetched/*.h5", "download": spec}
    (folder / "download.yaml").write_text(json.dumps({"experiment": "fetched", "datasets": {"siw": dataset}}))
    for stage in ("paper", "freeze", "download", "export-dense"):
        undisturbed(running, workspace, STAGES[stage][0])
    return workspace


def _served(folder: Path) -> str:
    """The address of a server of the folder's files, which lives as long as this process."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    own = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder)))
    threading.Thread(target=own.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{own.server_address[1]}"


def _command(stage: str, name: str, output: Path) -> list[str]:
    """The command line of a job."""
    first, _, rest = name.partition("/")
    options = {
        "simulate": ["--file", name],
        "ingest": ["--dataset", first, "--part", rest],
        "preprocess": ["--recipe", first, "--dataset", *rest.partition("/")[::2]],
        "merge": ["--recipe", first, "--dataset", rest],
        "train": ["--run", name],
        "generate": ["--sample", name],
        "ingest_sample": ["--sample", name],
        "predict": ["--run", name],
        "evaluate": ["--subject", name],
        "examine": ["--run", name],
        "probe": ["--encoder", name],
        "figures": ["--figure", name],
    }.get(stage, [])
    if stage == "preprocess":
        options.insert(4, "--part")
    if output.stem.startswith("slice-"):
        options += ["--slice", output.stem.removeprefix("slice-")]
    return ["ingest" if stage == "ingest_sample" else stage, *options]
