"""Fixtures shared by all tests: factories that make the tiny thing a test needs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.calorimeter import CylinderMesh, Showers

REPOSITORY = Path(__file__).resolve().parent.parent
LONGEST = (
    "test_workflow.py",
    "test_kill.py",
    "test_generator_study.py",
    "test_autoencoder_runs.py",
    "test_distributed.py",
    "test_study.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files whose slow tests take longest first, so that no worker ends long after the other."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture
def mesh() -> CylinderMesh:
    """A mesh of 4 x 6 x 5 cells."""
    return CylinderMesh(4, 6, 5, dr_mm=2.0, dz_mm=3.0)


@pytest.fixture
def make_showers(mesh: CylinderMesh) -> Callable[..., Showers]:
    """Sparse random showers, about 70 % of the cells empty."""

    def make(n: int = 5, seed: int = 0, mesh: CylinderMesh = mesh, **changes: Any) -> Showers:
        rng = np.random.default_rng(seed)
        energy = rng.exponential(0.5, size=(n, *mesh.shape)) * (rng.uniform(size=(n, *mesh.shape)) < 0.3)
        values = {
            "energy": energy.astype(np.float32),
            "incident_energy": rng.uniform(1000, 4000, size=n),
            "theta": np.full(n, np.pi / 2),
            "phi": np.zeros(n),
        }
        return Showers(**{**values, **changes}, mesh=mesh, detector="SiW")

    return make


@pytest.fixture(scope="session")
def test_content() -> dict[str, Any]:
    """The content of config/test.yaml."""
    content: dict[str, Any] = yaml.safe_load((REPOSITORY / "config" / "test.yaml").read_text())
    return content


@pytest.fixture
def test_config(test_content: dict[str, Any]) -> dict[str, Any]:
    """The content of config/test.yaml, free to be changed."""
    return copy.deepcopy(test_content)
