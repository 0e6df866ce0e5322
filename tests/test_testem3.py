"""Geant4's own reference: example TestEm3, 1 GeV electrons in lead and liquid argon (planar layers)."""

from __future__ import annotations

import importlib.util

import pytest

from pipeline.config.detectors import DetectorSpec, LayerSpec, MeshSpec
from pipeline.simulation.geant4 import run_geant4
from pipeline.simulation.geant4_request import Geant4Request

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("geant4_pybind") is None, reason="the wheel geant4-pybind is not installed"
    ),
]


def test_energies_in_lead_and_argon() -> None:
    """50 x (2.3 mm Pb + 5.7 mm lAr), 40 cm wide, cut 1 mm: E(Pb) 774.0 +- 1.5 MeV, E(lAr) 215.7 +- 1.3 MeV.

    The reference is that of the Geant4 distribution, made with the official data; the tolerance is 3 MeV.
    """
    mesh = MeshSpec(cells=(10, 1, 50), dr_mm=20, dz_mm=8)
    calorimeter = DetectorSpec(
        layers=50,
        absorber=LayerSpec(material="G4_Pb", thickness_mm=2.3),
        active=LayerSpec(material="G4_lAr", thickness_mm=5.7),
        mesh=mesh,
        sampling_fraction=0.2157,
        radiation_length_mm=16.5,
        moliere_radius_mm=40,
    )
    request = Geant4Request(calorimeter, mesh, "e-", 90.0, (1000.0,) * 1000, seed=1, cut_mm=1.0, shape="planar")
    hits = run_geant4(request, "TestEm3")
    assert hits["absorber_mev"].mean() == pytest.approx(774.0, abs=3)
    assert hits["active_mev"].mean() == pytest.approx(215.7, abs=3)
    assert hits["energy"].sum() / hits["active_mev"].sum() > 0.97  # and the mesh follows the slabs
