"""Numbers that cannot be right: refused with the likely reason, and what is merely odd is read and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_fixtures import dataset, detector_with, write_raw
from raw_files import valid

from pipeline.calorimeter import Showers
from pipeline.config import DatasetSpec
from pipeline.data.formats import FormatError
from pipeline.data.ingest import ingest
from pipeline.data.store import Part


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)


def ingested(folder: Path, showers: Showers, spec: DatasetSpec | None = None, **options: Any) -> dict[str, Any]:
    """The manifest of the showers' file."""
    raw = write_raw(folder / "raw.h5", showers, **options)
    return ingest(raw, folder / "part.json", spec or dataset(), detector_with(showers.mesh), "siw")


def physical(make_showers: Any, energy_factor: float = 1.0, incident_factor: float = 1.0) -> Showers:
    """Showers that leave 3 % of their incident energy, as in the file's sampling fraction; then scaled."""
    showers = make_showers(n=20)
    share = 0.03 * showers.incident_energy / showers.visible_energy
    energy = showers.energy * share[:, None, None, None].astype(np.float32)
    changes = {"energy": energy * np.float32(energy_factor)}
    return make_showers(n=20, **changes, incident_energy=showers.incident_energy * incident_factor)


@pytest.mark.parametrize(
    ("energy", "incident", "reason"),
    [
        (1e-3, 1, "found a median of 0.001: cell energies look like GeV; multiply them by 1000"),
        (1, 1e-3, "found a median of 1e[+]03: incident energies look like GeV; multiply them by 1000"),
        (1 / 0.03, 1, "found a median of 33.3: the energies look divided by the sampling fraction"),
        (1e6, 1, "found a median of 1e[+]06: more than can be; check units"),
    ],
)
def test_wrong_units_are_recognised_and_explained(
    tmp_path: Path, make_showers: Any, energy: float, incident: float, reason: str
) -> None:
    with pytest.raises(FormatError, match=rf"raw.h5: expected E_tot/E_inc near 1 .*0.03\), {reason}"):
        ingested(tmp_path, physical(make_showers, energy, incident))
    assert not list(tmp_path.glob("*part*"))


@pytest.mark.parametrize("energy", [0.05, 0.3, 1, 3])
def test_leaking_and_low_showers_are_no_wrong_units(tmp_path: Path, make_showers: Any, energy: float) -> None:
    assert ingested(tmp_path, physical(make_showers, energy))["n_showers"] == 20


def test_a_bad_generator_is_evaluated_all_the_same(tmp_path: Path, make_showers: Any) -> None:
    generated = DatasetSpec(format="calochallenge", files=("*",), detector="SiW", particle="e-")
    assert ingested(tmp_path, physical(make_showers, 1e6), generated)["n_showers"] == 20


def test_some_empty_showers_are_kept_and_a_file_of_them_is_refused(tmp_path: Path, make_showers: Any) -> None:
    showers = physical(make_showers)
    showers.energy[3:6] = 0
    ingested(tmp_path, showers)
    assert (Part.open(tmp_path / "part.json").row_size == 0).sum() == 3
    showers.energy[:] = 0
    with pytest.raises(FormatError, match=r"raw.h5: expected showers with energy, found none above 0"):
        ingested(tmp_path, showers)


def test_duplicated_showers_are_counted(tmp_path: Path, make_showers: Any) -> None:
    rows = np.array([0, 1, 2, 2, 1, 3, 2])
    assert ingested(tmp_path, physical(make_showers)[rows])["duplicates"] == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0])
@pytest.mark.parametrize("key", ["showers", "incident_energy"])
def test_nan_infinite_and_negative_are_refused(tmp_path: Path, key: str, value: float) -> None:
    raw = valid("par04_events")
    raw.content[key] = np.array(raw.content[key])
    raw.content[key].flat[3] = value
    with pytest.raises(FormatError, match=rf"raw.h5: .*expected .*(finite|>=? 0|above 0|positive).*{value:g}"):
        ingest(raw.write(tmp_path / "raw.h5"), tmp_path / "part.json", *raw.configured(tmp_path), "siw")


@pytest.mark.parametrize("angle", [-0.1, 3.2])
def test_an_angle_outside_its_range_is_refused(tmp_path: Path, angle: float) -> None:
    raw = valid("lemurs")
    raw.content["incident_theta"][2] = angle
    with pytest.raises(FormatError, match=rf"incident_theta: expected radians in \[0, pi\], found {angle:g} in row 2"):
        ingest(raw.write(tmp_path / "raw.h5"), tmp_path / "part.json", *raw.configured(tmp_path), "siw")


def test_another_detector_is_refused(tmp_path: Path, make_showers: Any) -> None:
    with pytest.raises(FormatError, match=r"detector: expected 'SciPb' as in the data set's YAML, found 'SiW'"):
        ingested(tmp_path, physical(make_showers), dataset(detector="SciPb"))


def test_the_batch_of_a_loss_that_is_not_finite_is_named(tmp_path: Path) -> None:
    import torch

    from pipeline.config import RunSpec
    from pipeline.models.conditions import Conditions
    from pipeline.training.bad_batch import write_bad_batch
    from pipeline.training.batches import Batch

    values = torch.ones(2, 2, 3, 4)
    values[1, 0, 0, 0] = torch.nan
    known = Conditions(torch.tensor([1000.0, 2000.0]), torch.ones(2), torch.tensor([0, 1]), torch.ones(2, 4))

    class Request:
        run, folder = "generator", tmp_path
        spec = RunSpec.model_construct(seed=3, data=("siw", "scipb"))
        config = type("Config", (), {"seed": 7})

    path = write_bad_batch(Request, 96, Batch(values, values > 0, known), {"loss": float("nan")})  # type: ignore
    record = json.loads(path.read_text())
    assert (record["samples"], record["seeds"], record["terms"]) == (96, [3, 7], {"loss": "nan"})
    assert [(s["dataset"], s["incident_energy_mev"], s["finite"]) for s in record["showers"]] == [
        ("siw", "1000.0", True),
        ("scipb", "2000.0", False),
    ]
