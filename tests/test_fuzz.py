"""Whatever a raw file holds, it is read right or refused by name: never a traceback, a hang or all of the memory.

Files are spoilt in every layout, by rule and at random (the same draws in each run); others are odd but valid.
Bytes flipped at random are in `test_damaged_files.py`.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from raw_files import N, RawFile, read_whole, valid

from pipeline.calorimeter import RaggedShowers
from pipeline.data.formats import READERS, FormatError
from pipeline.data.ingest import ingest
from pipeline.data.store import Part

LAYOUTS = sorted(READERS)
fuzzed = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)


def as_expected(raw: RawFile, folder: Path) -> RaggedShowers:
    """The showers of the unspoilt file."""
    return read_whole(raw.write(folder / "plain.h5"), *raw.configured(folder))


def refused(raw: RawFile, folder: Path) -> str:
    """The message with which ingest refuses the file; it leaves nothing behind."""
    path = raw.write(folder / "spoilt.h5")
    with pytest.raises(FormatError, match=r"spoilt\.h5: .*(expected|has)") as caught:
        ingest(path, folder / "part.json", *raw.configured(folder), raw.layout)
    assert not list(folder.glob("*part*"))
    return str(caught.value)


def required(raw: RawFile) -> list[str]:
    return [key for key in raw.content if not (key in ("incident_theta", "incident_phi") and raw.layout == "caloforge")]


def floating(raw: RawFile) -> list[str]:
    return [key for key in raw.content if key not in ("row_size", "cell")]


# ----------------------------------------------------------------------------------- spoilt by rule


def linked(kind: str, folder: Path, values: Any) -> Any:
    """A function that puts no values into the file, but something that leads elsewhere."""

    def write(handle: h5py.File, key: str) -> None:
        with h5py.File(folder / "elsewhere.h5", "w") as other:
            other["values"] = values
        if kind == "external link":
            handle[key] = h5py.ExternalLink(str(folder / "elsewhere.h5"), "values")
        elif kind == "soft link":
            handle.create_group("group")["values"] = values
            handle[key] = h5py.SoftLink("/group/values")
        elif kind == "dangling link":
            handle[key] = h5py.SoftLink("/nowhere")
        elif kind == "virtual":
            layout = h5py.VirtualLayout(values.shape, values.dtype)
            layout[...] = h5py.VirtualSource(str(folder / "elsewhere.h5"), "values", values.shape)
            handle.create_virtual_dataset(key, layout)
        elif kind == "external storage":
            raw = [(str(folder / "elsewhere.bin"), 0, h5py.h5f.UNLIMITED)]
            handle.create_dataset(key, values.shape, values.dtype, external=raw)
        elif kind == "group":
            handle.create_group(key)
        elif kind == "never written":
            shape = (10**11, *values.shape[1:])
            handle.create_dataset(key, shape, values.dtype, chunks=(64, *values.shape[1:]))
        elif kind == "bomb":
            inflating = zlib.compressobj(9)
            data = inflating.compress(bytes(40 << 20)) + inflating.flush()
            made = handle.create_dataset(key, values.shape, values.dtype, chunks=values.shape, compression="gzip")
            made.id.write_direct_chunk((0,) * values.ndim, data)
        elif kind == "huge chunks":
            shape = (N, *values.shape[1:])
            chunks = ((1 << 31) // values[0].nbytes, *values.shape[1:])
            handle.create_dataset(key, shape, values.dtype, maxshape=(None, *shape[1:]), chunks=chunks)

    return write


LINKS = (
    "external link",
    "soft link",
    "dangling link",
    "virtual",
    "external storage",
    "group",
    "never written",
    "huge chunks",
    "bomb",
)


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_not_in_the_file_is_refused(tmp_path: Path, layout: str, kind: str) -> None:
    for key in valid(layout).content:
        raw = valid(layout)
        raw.content[key] = linked(kind, tmp_path, raw.content[key])
        refused(raw, tmp_path)


SPOILT_TYPES = ("i4", "u8", "c8", "f2", "S8", "bool", "object", "compound", "i4 array")


@pytest.mark.parametrize("dtype", SPOILT_TYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_wrong_type_is_refused(tmp_path: Path, layout: str, dtype: str) -> None:
    for key in floating(valid(layout)):
        raw = valid(layout)
        values = raw.content[key]
        if dtype == "object":
            text = np.full(values.shape, "1.5", dtype=object)
            raw.content[key] = lambda handle, key, text=text: handle.create_dataset(
                key, data=text, dtype=h5py.string_dtype()
            )
        elif dtype == "compound":
            raw.content[key] = np.zeros(values.shape, [("a", "f4")])
        elif dtype == "i4 array":
            raw.content[key] = np.zeros(values.shape, [("a", "i4", (3,))])
        else:
            raw.content[key] = np.ones(values.shape).astype(dtype)
        assert re.search(rf"data set {key}: expected (float32|one value)", refused(raw, tmp_path))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_key_is_refused(tmp_path: Path, layout: str) -> None:
    for key in required(valid(layout)):
        raw = valid(layout)
        del raw.content[key]
        if layout == "par04":
            raw.content["extra"] = next(iter(raw.content.values()))
        refused(raw, tmp_path)
    raw = valid(layout)
    raw.content = {}
    refused(raw, tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_showers_are_refused(tmp_path: Path, layout: str) -> None:
    raw = valid(layout)
    raw.content = {key: values[:0] for key, values in raw.content.items()}
    assert "expected showers, found none" in refused(raw, tmp_path)


@given(st.sampled_from(LAYOUTS), st.data())
@settings(fuzzed, max_examples=50)
def test_a_wrong_shape_is_refused(tmp_path: Path, layout: str, data: st.DataObject) -> None:
    raw = valid(layout)
    key = data.draw(st.sampled_from(sorted(raw.content)))
    values = raw.content[key]
    shapes = [values.shape[1:], (*values.shape, 2), (values.shape[0] + 1, *values.shape[1:]), (*values.shape[:-1], 7)]
    shape = data.draw(st.sampled_from(shapes))
    assume(layout != "par04" or shape[1:] != values.shape[1:])  # any number of showers is right there
    raw.content[key] = np.resize(values, shape)
    refused(raw, tmp_path)


@given(st.sampled_from(LAYOUTS), st.sampled_from([np.nan, np.inf, -np.inf, -1.0, -1e-30]), st.data())
@settings(fuzzed, max_examples=60)
def test_an_impossible_value_is_refused(tmp_path: Path, layout: str, value: float, data: st.DataObject) -> None:
    raw = valid(layout)
    key = data.draw(st.sampled_from(floating(raw)))
    assume(np.isfinite(value) is False or key not in ("incident_theta", "incident_phi"))
    values = raw.content[key] = np.array(raw.content[key])
    values.flat[data.draw(st.integers(0, values.size - 1))] = value
    refused(raw, tmp_path)


@given(st.sampled_from(LAYOUTS), st.floats(0, 1, exclude_max=True))
@settings(fuzzed, max_examples=30)
def test_a_truncated_file_is_refused(tmp_path: Path, layout: str, fraction: float) -> None:
    raw = valid(layout)
    path = raw.write(tmp_path / "cut.h5", compression="gzip")
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(FormatError, match=r"cut\.h5: expected a whole HDF5 file"):
        read_whole(path, *raw.configured(tmp_path))


# --------------------------------------------------------------------------------- valid exotica

FILTERS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "gzip": {"compression": "gzip", "chunks": True},
    "gzip 9, shuffle": {"compression": "gzip", "compression_opts": 9, "shuffle": True},
    "lzf": {"compression": "lzf"},
    "lzf, shuffle, fletcher32": {"compression": "lzf", "shuffle": True, "fletcher32": True},
    "fletcher32": {"fletcher32": True},
    "tiny chunks": {"chunks": "tiny", "compression": "gzip"},
    "one chunk": {"chunks": "one", "compression": "gzip"},
    "scale": {"scaleoffset": 4},
}


def rewrite(raw: RawFile, options: dict[str, Any], dtype: str, flat_labels: bool) -> RawFile:
    """The same values, stored otherwise."""

    def writer(values: np.ndarray) -> Any:
        def write(handle: h5py.File, key: str) -> None:
            own = dict(options)
            if own.get("chunks") in ("tiny", "one"):
                own["chunks"] = tuple(1 if own["chunks"] == "tiny" else n for n in values.shape)
            if values.dtype.kind in "iu":
                own.pop("scaleoffset", None)
            kind = values.dtype.newbyteorder(dtype[0]) if values.dtype.kind in "iu" else np.dtype(dtype)
            handle.create_dataset(key, data=values.astype(kind), dtype=kind, **own)

        return write

    content = dict(raw.content)
    for key in ("incident_energies", "incident_energy"):
        if key in content:
            content[key] = content[key].reshape(-1) if flat_labels else content[key].reshape(-1, 1)
    raw.content = {key: writer(values) for key, values in content.items()}
    return raw


DTYPES = ("<f4", ">f4", "<f8", ">f8")


@pytest.mark.parametrize(
    ("filters", "dtype"), [(f, DTYPES[(i + j) % 4]) for i, f in enumerate(FILTERS) for j in (0, 1)]
)
def test_valid_exotica_read_right(tmp_path: Path, filters: str, dtype: str) -> None:
    for i, layout in enumerate(LAYOUTS):
        raw = valid(layout)
        expected = as_expected(raw, tmp_path)
        path = rewrite(raw, FILTERS[filters], dtype, flat_labels=i % 2 == 0).write(tmp_path / "exotic.h5")
        ingest(path, tmp_path / "part.json", *raw.configured(tmp_path), layout)
        found = Part.open(tmp_path / "part.json").read()
        if filters == "scale":  # stores four decimals
            assert abs(found.energy.sum() - expected.energy.sum()) < 0.1
            continue
        for name in ("row_size", "cell", "energy", "incident_energy", "theta", "phi"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name).astype("f4"), layout)


@pytest.mark.parametrize("value", [1e300, 1e-300])
@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "par04"])
def test_an_incident_energy_beyond_float32_is_refused(tmp_path: Path, layout: str, value: float) -> None:
    raw = valid(layout)
    key = "incident_energies" if "incident_energies" in raw.content else "incident_energy"
    raw.content[key][2] = value
    refused(raw, tmp_path)
