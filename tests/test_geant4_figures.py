"""Geant4 showers of both detectors, through the evaluation's own observables and fits, have their published figures.

Validation figures of the stand-in physics tables (docs/geant4.md). Tolerances are three statistical errors of the
showers simulated here, beside the rounding of the figure that is quoted.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np
import pytest

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.config import BUILT_IN_DETECTORS
from pipeline.evaluation.observables import Table, observables, observe
from pipeline.evaluation.response import energy_edges, fit_resolution, growth_per_doubling, means, response
from pipeline.simulation.geant4 import run_geant4
from pipeline.simulation.geant4_request import Geant4Request

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("geant4_pybind") is None, reason="the wheel geant4-pybind is not installed"
    ),
]
SHOWERS = {1: 400, 2: 150, 4: 75, 8: 40, 16: 30}  # at each energy in GeV
ENERGIES_MEV = np.repeat(1e3 * np.array(list(SHOWERS)), list(SHOWERS.values()))
TOTAL_GEV = ENERGIES_MEV.sum() / 1e3


@dataclass(frozen=True)
class Figures:
    """What a detector is known to do; hits at 1 and 16 GeV."""

    name: str
    fraction: float
    stochastic: float
    r90_mm: float
    hits: tuple[float, float]


KNOWN = [
    Figures("SiW", 0.0319, 0.135, 12.1, (162, 1577)),
    Figures("SciPb", 0.0334, 0.165, 22.7, (105, 1185)),
]


@pytest.fixture(scope="module", params=KNOWN, ids=lambda known: known.name)
def measured(request) -> tuple[Figures, Table, np.ndarray]:
    """The figures, the table of observables, and all energy in the active layers, beyond the mesh too (MeV)."""
    known, detector = request.param, BUILT_IN_DETECTORS[request.param.name]
    asked = Geant4Request(detector, detector.mesh, "e-", 90.0, tuple(ENERGIES_MEV.tolist()), seed=7, threshold_mev=5e-4)
    made = run_geant4(asked, known.name)
    angles = np.full(len(ENERGIES_MEV), np.pi / 2)
    mesh = CylinderMesh.from_spec(detector.mesh)
    showers = RaggedShowers(
        made["row_size"], made["cell"], made["energy"], ENERGIES_MEV, angles, 0 * angles, mesh, known.name
    )
    return known, observe(showers.cut(5e-4), observables(wide=False)), made["active_mev"]


def at(table: Table, gev: float, name: str) -> tuple[float, float]:
    """Mean of an observable at one energy and its error."""
    values = table[name][table["incident_energy"] == 1e3 * gev]
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def test_visible_fraction_is_known_and_flat(measured) -> None:
    """Of the incident energy; 1 to 2 % of it lie beyond the mesh. Flat within .45 % from 1 to 16 GeV."""
    known, table, active_mev = measured
    error = known.stochastic / np.sqrt(TOTAL_GEV)
    assert active_mev.sum() / ENERGIES_MEV.sum() == pytest.approx(known.fraction, rel=3 * error + 0.002)
    assert 0.975 < table["visible_energy"].sum() / active_mev.sum() < 0.995
    for b in response(ENERGIES_MEV, active_mev, energy_edges(ENERGIES_MEV, len(SHOWERS))):
        assert b.mean == pytest.approx(known.fraction, rel=0.0045 + 3 * b.mean_error / b.mean)


def test_resolution_is_stochastic(measured) -> None:
    known, table, _ = measured
    bins = response(ENERGIES_MEV, table["visible_energy"], energy_edges(ENERGIES_MEV, len(SHOWERS)))
    scaled = np.array([b.resolution * np.sqrt(b.energy_mev / 1e3) for b in bins])
    errors = np.array([b.resolution_error * np.sqrt(b.energy_mev / 1e3) for b in bins])
    weights = errors**-2 / (errors**-2).sum()
    assert weights @ scaled == pytest.approx(known.stochastic, abs=0.0005 + 3 / np.sqrt((errors**-2).sum()))
    fit = fit_resolution(bins)
    assert fit is not None and fit.chi2 / fit.ndf < 5
    at_4_gev = np.sqrt(fit.stochastic**2 / 4 + fit.constant**2 + fit.noise**2 / 16)
    assert at_4_gev == pytest.approx(known.stochastic / 2, rel=0.12)


def test_maximum_moves_with_the_energy(measured) -> None:
    """+0.7 X0 per doubling in SiW, about ln 2 in any material."""
    known, table, _ = measured
    growth = growth_per_doubling(table["incident_energy"], table["depth_of_maximum"])
    assert growth is not None
    x0 = BUILT_IN_DETECTORS[known.name].radiation_length_mm
    assert growth[0] / x0 == pytest.approx(0.7, abs=0.05 + 3 * growth[1] / x0)
    assert growth[1] / x0 < 0.04


def test_containment_radius_hardly_depends_on_the_energy(measured) -> None:
    known, table, _ = measured
    for b in means(table["incident_energy"], table["containment_radius"], energy_edges(ENERGIES_MEV, len(SHOWERS))):
        assert b.mean == pytest.approx(known.r90_mm, abs=0.15 + 3 * b.mean_error)


def test_hits_are_known(measured) -> None:
    known, table, _ = measured
    for gev, expected in zip((1, 16), known.hits, strict=True):
        hits, error = at(table, gev, "hits")
        assert hits == pytest.approx(expected, abs=3 * error + 0.005 * expected)
