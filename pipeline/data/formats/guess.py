"""What a raw file seems to be, by its content: the data set's section that it needs, for a person to check.

In: a file that nobody described. Out: a `Guess`: the section of `datasets:` as plain values, with a remark on each
line that the file does not say itself. Only `caloforge inspect` guesses; ingest takes what the configuration says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.config import BUILT_IN_DETECTORS, DetectorSpec
from pipeline.data.formats.hdf5 import attributes_of, open_raw, read_rows, row_blocks_of, rows_of
from pipeline.data.formats.reader import FormatError

_VOXELS = {6480: (9, 16, 45), 40500: (18, 50, 45)}
_IRREGULAR = {368: "photon", 533: "pion"}
_DIVIDED = 0.4  # visible over incident energy: about 0.03 for visible energy, near 1 when divided


@dataclass
class Guess:
    """A data set's section, and a remark on each line that somebody must check."""

    spec: dict[str, Any]
    remarks: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, value: Any, remark: str = "") -> None:
        """A line of the section."""
        self.spec[key] = value
        if remark:
            self.remarks[key] = f"check: {remark}"


def guessed(path: Path, layout: str | None, detector: str | None) -> Guess:
    """The section that the file seems to need, of the layout given or of the one recognised by its keys.

    Raises `FormatError` when the file is no HDF5 or its keys are of no known layout.
    """
    with open_raw(path) as handle:
        attributes = attributes_of(handle)
        guess = Guess({"format": layout or _layout(handle, path, attributes), "files": str(path)})
        name = detector or attributes.get("detector") or _named(path)
        remark = "" if name in BUILT_IN_DETECTORS else "describe it under `detectors:`"
        guess.add("detector", name or "SiW", remark if name else "the file does not say it")
        showers = _showers(handle)
        _add_mesh(guess, attributes, showers)
        if not {"angle_deg", "angle"} & {*attributes} and "incident_theta" not in handle:
            angle = re.search(r"angle_(\d+(?:\.\d+)?)", path.name)
            guess.add("angle_deg", float(angle[1]) if angle else 90.0, "degrees, from the name" if angle else "degrees")
        if "sampling_corrected" not in attributes and guess.spec["format"] != "lemurs":
            ratio = _visible_share(handle, showers)
            remark = "the file does not say it" if ratio is None else f"visible over incident energy is {ratio:.3g}"
            guess.add("sampling_corrected", ratio is not None and ratio > _DIVIDED, remark)
        return guess


def _layout(handle: h5py.File, path: Path, attributes: dict[str, Any]) -> str:
    keys = set(handle)
    showers = _showers(handle)
    if attributes.get("layout") == "caloforge" or {"row_size", "cell", "energy"} <= keys:
        return "caloforge"
    if showers is not None and "incident_energies" in keys:
        return "calochallenge_ds1" if showers.shape[-1] in _IRREGULAR and "cells" not in attributes else "calochallenge"
    if showers is not None and "incident_energy" in keys:
        low = showers.shape[1:] == (9, 16, 45) and "incident_theta" in keys
        return "lemurs" if low or path.name.startswith("LEMURS_") else "par04_events"
    if keys and all(re.fullmatch(r"\d+(?:\.\d+)?", key) for key in keys):
        return "par04"
    raise FormatError(
        f"{path}: keys: expected those of a known layout, found {sorted(keys)[:8]}; see docs/formats.md, "
        "or name the layout with --format"
    )


def _showers(handle: h5py.File) -> h5py.Dataset | None:
    """The data set of showers, if it is one that can be looked at."""
    for key in ("showers", *sorted(handle)):
        if isinstance(handle.get(key, getlink=True), h5py.HardLink) and isinstance(handle[key], h5py.Dataset):
            dataset = handle[key]
            if dataset.ndim in (2, 4) and dataset.shape[1:] != (1,):
                return dataset
    return None


def _named(path: Path) -> str | None:
    return next((name for name in BUILT_IN_DETECTORS if name in path.as_posix()), None)


def _add_mesh(guess: Guess, attributes: dict[str, Any], showers: h5py.Dataset | None) -> None:
    """The mesh, where it is not the detector's."""
    own = BUILT_IN_DETECTORS.get(guess.spec["detector"], BUILT_IN_DETECTORS["SiW"]).mesh
    said = [attributes.get(key) for key in ("cells", "dr_mm", "dz_mm")]
    cells = tuple(said[0]) if isinstance(said[0], list) else _cells(guess, showers)
    if cells is None or len(cells) != 3 or (cells == own.cells and said[1] is None):
        return
    sizes = [s if isinstance(s, int | float) else None for s in said[1:]]
    scaled = (own.dr_mm * own.cells[0] / cells[0], own.dz_mm * own.cells[2] / cells[2])
    dr, dz = (guessed if given is None else given for given, guessed in zip(sizes, scaled, strict=True))
    if (cells, dr, dz) != (own.cells, own.dr_mm, own.dz_mm):
        remark = "" if None not in sizes else "cell sizes are those that fill the detector's mesh"
        guess.add("mesh", {"cells": [int(n) for n in cells], "dr_mm": _rounded(dr), "dz_mm": _rounded(dz)}, remark)


def _rounded(size_mm: float) -> float:
    return float(f"{size_mm:.7g}")


def _cells(guess: Guess, showers: h5py.Dataset | None) -> tuple[int, ...] | None:
    layout = guess.spec["format"]
    if layout == "calochallenge_ds1":
        particle = _IRREGULAR.get(showers.shape[-1], "photon") if showers is not None else "photon"
        beside = Path(guess.spec["files"]).with_name(f"binning_dataset_1_{particle}s.xml")
        guess.add("binning", str(beside), "the challenge's XML of these voxels")
        return (40, 10, 5 if particle == "photon" else 7)
    if showers is None:
        return None
    return showers.shape[1:] if showers.ndim == 4 else _VOXELS.get(showers.shape[1])


def _visible_share(handle: h5py.File, showers: h5py.Dataset | None) -> float | None:
    """Sum of cells over incident energy, median of some showers; None where it cannot be told."""
    if showers is None or showers.shape[0] == 0 or showers.dtype.kind != "f":
        return None
    rows = slice(0, min(64, next(iter(row_blocks_of(showers))).stop))
    key = next((key for key in ("incident_energies", "incident_energy") if key in handle), None)
    try:
        incident = 1e3 * float(showers.name[1:]) if key is None else np.ravel(rows_of(handle[key], rows))
        share = read_rows(showers, rows).reshape(rows.stop, -1).sum(axis=1, dtype=float) / incident
    except (ValueError, TypeError):
        return None
    return float(np.median(share)) if np.isfinite(share).all() else None


def detector_of(name: str, detectors: dict[str, DetectorSpec]) -> DetectorSpec:
    """The detector of that name, or a built-in one in its place, whose mesh the section replaces."""
    return detectors.get(name) or BUILT_IN_DETECTORS.get(name) or BUILT_IN_DETECTORS["SiW"]
