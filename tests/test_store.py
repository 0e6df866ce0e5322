"""Parts: round trips, whole or not at all, splits that never move, held-out sets that never overlap."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from blake3 import blake3
from data_fixtures import dataset, detector_with, make_part, same, write_raw
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.calorimeter import CylinderMesh, RaggedShowers, Showers
from pipeline.config import SplitSpec
from pipeline.data import shards
from pipeline.data.formats import FormatError
from pipeline.data.ingest import ingest
from pipeline.data.store import (
    TEST,
    TRAIN,
    VALIDATION,
    Part,
    StoreError,
    held_out,
    places_by_part,
    rows_of,
    shower_hashes,
    split_code,
    training_set,
)

Make = Callable[..., Showers]


def test_a_part_holds_the_hits_of_its_file(tmp_path: Path, make_showers: Make) -> None:
    showers = make_showers(20)
    part = make_part(tmp_path, showers)
    np.testing.assert_array_equal(part.read().dense().energy, showers.energy)
    assert (part.n_showers, part.mesh, part.detector, part.particle) == (20, showers.mesh, "SiW", "e-")


def test_a_range_of_rows_reads_as_cut_from_the_whole(tmp_path: Path, make_showers: Make) -> None:
    part = make_part(tmp_path, make_showers(20))
    assert same(part.read(slice(5, 9)), part.read().take(np.arange(5, 9)))
    assert len(part.read(slice(7, 7))) == 0


@given(rows=st.lists(st.integers(0, 29), max_size=12))
@settings(max_examples=25, deadline=None)
def test_take_gives_the_rows_in_the_order_asked(tmp_path_factory: pytest.TempPathFactory, rows: list[int]) -> None:
    part = _cached_part(tmp_path_factory)
    assert same(part.take(np.array(rows, int)), part.read().take(np.array(rows, int)))


_PARTS: dict[str, Part] = {}


def _cached_part(factory: pytest.TempPathFactory) -> Part:
    if "part" not in _PARTS:
        rng, mesh = np.random.default_rng(0), CylinderMesh(2, 3, 4, 1.0, 1.0)
        energy = rng.uniform(size=(30, 2, 3, 4)) * (rng.uniform(size=(30, 2, 3, 4)) < 0.3)
        showers = Showers(energy, np.full(30, 1000.0), np.full(30, 1.57), np.zeros(30), mesh, "SiW")
        _PARTS["part"] = make_part(factory.mktemp("part"), showers)
    return _PARTS["part"]


def test_many_chunks_and_shards_hold_the_same(
    tmp_path: Path, make_showers: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "CHUNK", 16)
    monkeypatch.setattr(shards, "SHARD", 64)
    showers = make_showers(40)
    part = make_part(tmp_path, showers)
    assert part.group["energy"].shards == (64,) and part.group["energy"].chunks == (16,)
    np.testing.assert_array_equal(part.read().dense().energy, showers.energy)


def test_crowded_showers_are_stored_dense_and_read_alike(
    tmp_path: Path, make_showers: Make, mesh: CylinderMesh
) -> None:
    energy = np.random.default_rng(1).uniform(size=(40, *mesh.shape)).astype(np.float32)
    energy[:, 0] = 0
    part = make_part(tmp_path, make_showers(40, energy=energy))
    assert part.manifest["layout"] == "dense" and "shower_energy" in part.group and "energy" not in part.group
    np.testing.assert_array_equal(part.read(slice(30, 40)).dense().energy, energy[30:])


@pytest.mark.filterwarnings("error")
def test_xarray_understands_a_store_without_us(tmp_path: Path, make_showers: Make) -> None:
    part = make_part(tmp_path, make_showers(6))
    content = xr.open_zarr(part.store, consolidated=False)
    assert content.row_size.attrs["sample_dimension"] == "hit" and content.cell.attrs["compress"] == "r phi z"
    assert content.energy.dims == ("hit",) and content.energy.attrs["units"] == "MeV"
    assert {"r", "phi", "z"} <= set(content.coords) and content.attrs["detector"] == "SiW"


def test_ingesting_again_gives_the_same_bytes(tmp_path: Path, make_showers: Make) -> None:
    first = make_part(tmp_path, make_showers(9))
    text, digest = first.path.read_text(), first.digest
    again = make_part(tmp_path, make_showers(9))
    assert again.path.read_text() == text and again.digest == digest
    again.verify()


def test_a_store_without_manifest_is_replaced(tmp_path: Path, make_showers: Make) -> None:
    part = make_part(tmp_path, make_showers(9))
    part.path.unlink()
    (part.store / "left over").write_text("from a killed process")
    make_part(tmp_path, make_showers(9)).verify()


def test_a_refused_file_leaves_nothing_behind(tmp_path: Path, make_showers: Make, mesh: CylinderMesh) -> None:
    raw = write_raw(tmp_path / "a.h5", make_showers(9))
    with h5py.File(raw, "a") as handle:
        handle["showers"][7, 3] = np.nan
    with pytest.raises(FormatError, match=r"a\.h5: .*shower 7: expected finite cell energies"):
        ingest(raw, tmp_path / "out" / "a.json", dataset(), detector_with(mesh), "siw")
    assert not list((tmp_path / "out").iterdir())


def test_the_manifest_says_what_it_is_of(tmp_path: Path, make_showers: Make) -> None:
    showers = make_showers(9)
    part = make_part(
        tmp_path,
        Showers(
            **{
                **vars(showers),
                "energy": np.repeat(showers.energy[:1], 9, axis=0),
                "incident_energy": np.full(9, 1000.0),
            }
        ),
    )
    assert part.manifest["duplicates"] == 8 and part.manifest["source"]["name"] == "a.h5"
    assert part.manifest["n_hits"] == len(part.read().energy)
    assert not any(word in part.path.read_text() for word in ("host", "time", str(tmp_path)))


# ---------------------------------------------------------------------------------------- damage


def damaged(part: Part, damage: str) -> None:
    if damage == "missing":
        shutil.rmtree(part.store)
    elif damage == "short":
        zarr.open_group(part.store, mode="a")["energy"].resize((3,))
    elif damage == "json":
        part.path.write_text("{")
    else:
        part.path.write_text(json.dumps({"rows": []}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r"expected the store a\.zarr beside it, found none.*; delete .*a\.json and run again"),
        ("short", r"values of energy in the store, found 3; .*delete .*a\.json and run again"),
        ("json", r"a\.json: expected JSON"),
        ("other", "expected the manifest of a part"),
    ],
)
def test_damage_is_found_and_the_remedy_named(tmp_path: Path, make_showers: Make, damage: str, message: str) -> None:
    part = make_part(tmp_path, make_showers(5))
    damaged(part, damage)
    with pytest.raises(StoreError, match=message):
        Part.open(part.path)


def test_verify_finds_a_changed_byte(tmp_path: Path, make_showers: Make) -> None:
    part = make_part(tmp_path, make_showers(5))
    chunk = part.store / "energy" / "c" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match=r"the store was changed: delete .*a\.json"):
        part.verify()


# ---------------------------------------------------------------------------------------- splits


def test_the_hash_is_the_documented_one(make_showers: Make) -> None:
    ragged = RaggedShowers.from_dense(make_showers(3))
    one = ragged.take(np.array([1]))
    content = (
        one.cell.astype("<u4").tobytes()
        + one.energy.astype("<f4").tobytes()
        + one.incident_energy.astype("<f4").tobytes()
    )
    assert shower_hashes(ragged)[1] == int.from_bytes(blake3(content).digest(8), "little")


def test_the_hash_does_not_know_the_file(tmp_path: Path, make_showers: Make) -> None:
    showers = make_showers(12)
    whole, tail = make_part(tmp_path, showers, "a"), make_part(tmp_path, showers[slice(5, 12)], "b")
    np.testing.assert_array_equal(whole.shower_hash[5:], tail.shower_hash)


def test_places_by_part_are_those_found_part_by_part() -> None:
    part = np.random.default_rng(1).integers(0, 7, 100)
    found = places_by_part(part, 9)
    assert [places.tolist() for places in found] == [np.flatnonzero(part == i).tolist() for i in range(9)]


def test_fractions_are_kept() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)
    shares = np.bincount(split_code(hashes, SplitSpec(train=0.6, validation=0.1, test=0.3))) / 1e5
    np.testing.assert_allclose(shares, [0.6, 0.1, 0.3], atol=0.01)


def test_split_bounds_at_the_ends() -> None:
    hashes = np.array([0, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)
    assert split_code(hashes, SplitSpec(train=0.5, validation=0.5, test=0)).tolist() == [TRAIN] * 2 + [VALIDATION] * 2
    assert split_code(hashes, SplitSpec(train=0.5, validation=0, test=0.5)).tolist() == [TRAIN] * 2 + [TEST] * 2


def all_parts(tmp_path: Path, make_showers: Make) -> list[Part]:
    return [make_part(tmp_path, make_showers(150, seed=seed), name) for seed, name in ((1, "a"), (2, "b"), (1, "copy"))]


def test_held_out_sets_are_disjoint_sorted_and_without_duplicates(tmp_path: Path, make_showers: Make) -> None:
    parts, splits = all_parts(tmp_path, make_showers), SplitSpec(train=0.4, validation=0.1, test=0.5)
    sets = [held_out(parts, splits, "reference", 20), held_out(parts, splits, "floor", 20), training_set(parts, splits)]
    hashes = [shower_hashes(s) for s in sets]
    assert len(np.unique(np.concatenate(hashes))) == sum(len(s) for s in sets)
    assert all((np.diff(h.astype(object)) > 0).all() for h in hashes)
    assert len(sets[2]) == len(np.unique(np.concatenate([p.shower_hash[rows_of(p, splits, "train")] for p in parts])))


def test_neither_order_nor_cutting_of_files_matters(tmp_path: Path, make_showers: Make) -> None:
    splits, showers = SplitSpec(), make_showers(100)
    one = [make_part(tmp_path, showers, "one")]
    two = [make_part(tmp_path, showers[slice(60, 100)], "x"), make_part(tmp_path, showers[slice(0, 60)], "y")]
    assert same(training_set(one, splits, limit=30), training_set(two, splits, limit=30))
    assert same(held_out(one, splits, "floor", 3), held_out(two, splits, "floor", 3))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda parts: held_out(parts, SplitSpec(), "floor", 999),
            r"half 'floor': expected 999 in 1 part\(s\), found \d+; add data, lower `evaluation.showers`",
        ),
        (
            lambda parts: training_set(parts, SplitSpec(), "train", 999),
            r"split 'train': expected 999 showers .*; add data, lower the run's `showers`",
        ),
    ],
)
def test_too_few_showers_is_an_error(
    tmp_path: Path, make_showers: Make, ask: Callable[[list[Part]], Any], message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        ask([make_part(tmp_path, make_showers(30))])
