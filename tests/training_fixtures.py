"""A tiny experiment on disk: two raw files of toy showers, ingested, preprocessed and merged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.calorimeter import CylinderMesh, Showers
from pipeline.config import Config, load_config
from pipeline.data.formats import write_calochallenge
from pipeline.data.ingest import ingest
from pipeline.data.merge import merge
from pipeline.data.preprocess import preprocess_part
from pipeline.provenance import write_json
from pipeline.training.request import TrainRequest

MESH = CylinderMesh(6, 10, 6, 4.0, 10.0)
TRAINING = {
    "samples": 96,
    "batch_size": 16,
    "warmup_samples": 32,
    "validate_every": 48,
    "checkpoint_every": 32,
    "device": "cpu",
}
SYMMETRIES = {"rotate_phi": True, "reflect_phi": True}
CONTENT: dict[str, Any] = {
    "experiment": "toy",
    "detectors": {
        "Toy": {
            "layers": 6,
            "absorber": {"material": "G4_W", "thickness_mm": 8},
            "active": {"material": "G4_Si", "thickness_mm": 2},
            "sampling_fraction": 0.1,
            "mesh": {"cells": list(MESH.shape), "dr_mm": MESH.dr_mm, "dz_mm": MESH.dz_mm},
            "radiation_length_mm": 4.0,
            "moliere_radius_mm": 12.0,
        }
    },
    "datasets": {
        "toy": {
            "format": "calochallenge",
            "files": "*.h5",
            "detector": "Toy",
            "sampling_corrected": False,
            "angle_deg": 90,
        }
    },
    "splits": {"train": 0.5, "validation": 0.1, "test": 0.4},
    "preprocessing": {
        "coarse": [
            {"rebin": {"factors": [2, 2, 1]}},
            {"cut": {"threshold_mev": 0.05}},
            {"log1p": {"scale_mev": 0.1}},
            {"standardise": {"per": ["r", "z"]}},
        ]
    },
    "runs": {
        "generator": {
            "model": {
                "name": "diffusion",
                "patch": [3, 5, 1],
                "width": 24,
                "depth": 1,
                "heads": 2,
                "layer_energies": {"width": 16, "depth": 1, "steps": 4},
            },
            "data": ["toy"],
            "recipe": "coarse",
            "training": {**TRAINING, "augment": SYMMETRIES},
        },
        "pixels": {
            "model": {
                "name": "diffusion",
                "output": "pixels",
                "sigma_min": 0.02,
                "patch": [3, 5, 2],
                "width": 24,
                "depth": 1,
                "heads": 2,
                "layer_energies": None,
            },
            "data": ["toy"],
            "recipe": "coarse",
            "training": TRAINING,
        },
        "representation": {
            "model": {
                "name": "masked_vit",
                "patch": [3, 5, 2],
                "width": 24,
                "depth": 1,
                "heads": 2,
                "decoder_width": 12,
            },
            "data": ["toy"],
            "recipe": "coarse",
            "training": TRAINING,
        },
        "energy": {
            "start_from": "representation",
            "head": {"predict": "incident_energy", "width": 16},
            "data": ["toy"],
            "recipe": "coarse",
            "training": TRAINING,
        },
    },
    "samples": {
        "generated": {"run": "generator", "steps": 2, "batch_size": 16},
        "independent": {"run": "generator", "steps": 0},
        "by_pixels": {"run": "pixels", "steps": 3},
    },
    "evaluation": {"reference": "toy", "rebin": [2, 2, 1], "threshold_mev": 0.05, "showers": 20},
}


def toy_showers(n: int, seed: int) -> Showers:
    """Showers of gamma-like depth and falling radius, 1-4 GeV, a tenth of the energy visible."""
    random = np.random.default_rng(seed)
    energy = np.exp(random.uniform(np.log(1000), np.log(4000), n))
    depth = (np.arange(6) + 0.5) * np.exp(-(np.arange(6) + 0.5) / 1.7)
    shape = np.exp(-np.arange(6) / 1.2)[:, None, None] * np.ones((1, 10, 1)) * depth
    mean = 0.1 * energy[:, None, None, None] * shape / shape.sum()
    cells = random.poisson(mean / 2.0) * 2.0 * random.uniform(0.5, 1.5, mean.shape)
    angle = np.full(n, np.pi / 2)
    return Showers(cells.astype(np.float32), energy, angle, np.zeros(n), MESH, "Toy")


@dataclass(frozen=True)
class ToyExperiment:
    """Manifests of the experiment's files below `folder`."""

    folder: Path
    parts: list[Path]
    prefix: list[Path]
    transform: Path

    def config(self, **overrides: Any) -> Config:
        """The configuration; `overrides` replace whole sections."""
        return load_config({**CONTENT, **overrides})

    def request(
        self, run: str, where: Path, config: Config | None = None, part: tuple[int, int] = (1, 1)
    ) -> TrainRequest:
        """A training of the run that writes below `where`."""
        config = config or self.config()
        parent = config.runs[run].start_from
        return TrainRequest(
            run=run,
            config=config,
            parts={"toy": self.parts},
            prefix={"toy": self.prefix},
            transforms={"toy": self.transform},
            parent=where / parent / "model.json" if parent else None,
            model_parents={role: where / r / "model.json" for role, r in config.model_of(run).parents.items()},
            manifest=where / run / "model.json",
            folder=where / run,
            slice_index=part[0],
            n_slices=part[1],
        )


def make_toy_experiment(folder: Path) -> ToyExperiment:
    """Write, ingest and preprocess two files of 80 showers."""
    config = load_config(CONTENT)
    recipe, parts, prefix = config.preprocessing["coarse"], [], []
    for i in range(2):
        raw = folder / f"raw{i}.h5"
        write_calochallenge(
            raw, [toy_showers(80, i)], sampling_fraction=0.1, sampling_corrected=False, threshold_mev=5e-4
        )
        parts.append(folder / "store" / f"raw{i}.json")
        ingest(raw, parts[-1], config.datasets["toy"], config.detector("Toy"), "toy")
        prefix.append(folder / "prefix" / f"raw{i}.json")
        preprocess_part(parts[-1], prefix[-1], recipe, config.splits)
    write_json(folder / "transform.json", merge(prefix, recipe, MESH))
    return ToyExperiment(folder, parts, prefix, folder / "transform.json")
