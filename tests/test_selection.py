"""Selection in the configuration: a part holds what was asked for, and the rest of a file is not decoded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from data_fixtures import dataset, detector_with, write_raw
from pydantic import ValidationError

from pipeline.calorimeter import CylinderMesh, Showers
from pipeline.config import DatasetSpec, SelectSpec
from pipeline.data.formats import FormatError
from pipeline.data.formats.chunks import ChunkIndex
from pipeline.data.ingest import ingest
from pipeline.data.store import Part

Make = Callable[..., Showers]
ENERGIES = np.array([1000.0, 1000, 1000, 4000, 4000, 16000, 64000, 64000])


def selected(folder: Path, made: Showers, layout: str, **select: Any) -> Part:
    raw = write_raw(folder / "a.h5", made, layout)
    ingest(raw, folder / "a.json", dataset(format=layout, select=select), detector_with(made.mesh), "x")
    return Part.open(folder / "a.json")


@pytest.mark.parametrize("layout", ["calochallenge", "par04"])
@pytest.mark.parametrize(
    ("select", "rows"),
    [
        ({"energy_gev": [2, 16]}, [3, 4, 5]),
        ({"energy_gev": [4, 64], "exact": True}, [3, 4, 6, 7]),
        ({"energy_gev": [1, 16, 64]}, [0, 1, 2, 5, 6, 7]),
        ({"energy_gev": 4}, [3, 4]),
        ({"showers": 4}, [0, 1, 2, 3]),
        ({"showers": 2, "energy_gev": [4, 1000]}, [3, 4]),
        ({"showers": 100}, list(range(8))),
        ({"angle_deg": 90}, list(range(8))),
    ],
)
def test_a_part_holds_what_was_asked_for(
    tmp_path: Path, make_showers: Make, layout: str, select: dict[str, Any], rows: list[int]
) -> None:
    showers = make_showers(8, incident_energy=ENERGIES)
    part = selected(tmp_path, showers, layout, **select)
    np.testing.assert_array_equal(part.read().dense().energy, showers.energy[rows])
    np.testing.assert_array_equal(part.incident_energy, ENERGIES[rows])
    assert part.n_showers == len(rows) and part.manifest["source"]["n_showers"] == 8
    assert part.manifest["incident_energy_mev"] == [ENERGIES[rows].min(), ENERGIES[rows].max()]


def test_angles_select_showers(tmp_path: Path, make_showers: Make) -> None:
    theta = np.radians([50.0, 60, 70, 80, 90])
    part = selected(tmp_path, make_showers(5, theta=theta), "calochallenge", angle_deg=[60, 80])
    np.testing.assert_allclose(np.degrees(part.theta), [60, 70, 80], rtol=1e-6)


def test_chunks_of_other_showers_are_not_decoded(
    tmp_path: Path, make_showers: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    showers = make_showers(8, incident_energy=ENERGIES)
    read: list[int] = []
    original = ChunkIndex.read
    monkeypatch.setattr(ChunkIndex, "read", lambda self, *task: read.append(self.shape[0]) or original(self, *task))
    selected(tmp_path, showers, "par04", energy_gev=16)
    assert read == [1]


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (
            {"energy_gev": [100, 200]},
            r"a\.h5: select: expected showers with energy_gev 100 to 200, found energy_gev 1 to",
        ),
        ({"energy_gev": [2, 3, 5]}, r"energy_gev 2, 3, 5, found energy_gev 1 to 64 and angle_deg 90 to 90; widen"),
        ({"angle_deg": [20, 30]}, "expected showers with angle_deg 20 to 30, found"),
    ],
)
def test_an_empty_selection_names_what_was_asked_and_found(
    tmp_path: Path, make_showers: Make, select: dict[str, Any], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        selected(tmp_path, make_showers(8, incident_energy=ENERGIES), "calochallenge", **select)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_impossible_labels_are_refused_though_not_asked_for(
    tmp_path: Path, make_showers: Make, mesh: CylinderMesh
) -> None:
    raw = write_raw(tmp_path / "a.h5", make_showers(8, incident_energy=ENERGIES))
    with h5py.File(raw, "a") as handle:
        handle["incident_energies"][7] = -1
    spec = dataset(select={"energy_gev": [1, 4]})
    with pytest.raises(FormatError, match="expected an incident energy > 0 MeV, got -1"):
        ingest(raw, tmp_path / "a.json", spec, detector_with(mesh), "x")


@pytest.mark.parametrize("select", [{"energy_gev": [64, 1]}, {"angle_deg": [90, 20]}])
def test_a_range_upside_down_is_refused(select: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"expected \[low, high\] with low <= high"):
        SelectSpec(**select)


def test_the_selection_enters_the_ingest_key() -> None:
    plain = DatasetSpec(format="par04", detector="SiW")
    assert plain.digest() != plain.model_copy(update={"select": SelectSpec(showers=3)}).digest()
