"""Merge: the statistics of all parts, and the rest of a recipe fitted to them.

In: manifests of preprocessed parts. Out: the state of the fitted `Transform`. The statistics are merged in the order
of the parts' digests, so that the same files give the same bits, however they were named and found. A recipe with a
division that is fitted *and* standardise is fitted in two rounds: the division from the merged spectrum, standardise
from one more pass over the training showers of all parts, for the numbers in front of it depend on the division. New
data then cost a pass over all data; every other recipe needs no pass at all.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.calorimeter import CylinderMesh
from pipeline.config import ComputeSpec, RecipeSpec, SplitSpec
from pipeline.data.compute import Workers, client_for
from pipeline.data.observed import observed
from pipeline.data.part_writer import mesh_of
from pipeline.data.preprocess import keys_of, opened, row_blocks
from pipeline.data.statistics import CellStatistics, Statistics, merged
from pipeline.data.store import TRAIN, Part, StoreError, split_code
from pipeline.data.transforms import Transform
from pipeline.provenance import ProvenanceError, file_digest, read_json

log = logging.getLogger(__name__)
_THREADS = ComputeSpec()


def merge(
    parts: Sequence[Path],
    recipe: RecipeSpec,
    raw_mesh: CylinderMesh,
    splits: SplitSpec | None = None,
    threads: int | None = None,
    compute: ComputeSpec = _THREADS,
) -> dict[str, Any]:
    """The fitted transform's state from the statistics of all parts, plus the digests of the parts.

    `parts`: manifests written by `preprocess_part`; their order does not matter. `splits`: those of the parts
    (default: the default ones), asked for where all parts are read once more, by `threads` and `compute` as in
    `client_for`. Raises `StoreError` when a part is of another recipe, mesh or split, or when its statistics are
    missing or changed.
    """
    manifests = sorted((_manifest(Path(path)) for path in parts), key=lambda item: item[1]["part_digest"])
    if not manifests:
        raise StoreError("merge: expected at least one preprocessed part, got none; add raw files to the data set")
    transform = Transform.from_recipe(recipe, raw_mesh)
    splits = splits or SplitSpec()
    expected = {
        "prefix_digest": keys_of(recipe, splits)["prefix_digest"],
        "splits_digest": splits.digest() if recipe.rounds == 2 else manifests[0][1]["splits_digest"],
    }
    for path, content in manifests:
        _check(path, content, expected, raw_mesh)
    state = merged(Statistics.load(path.with_suffix(".npz")) for path, _ in manifests)
    cells = state.cells
    if cells.count and (division := transform.division):
        transform = transform.fit_division(state.spectrum)
        log.info("%s: %.6g MeV", division.name, division.fit(state.spectrum).scale_mev)
        if recipe.rounds == 2:
            log.info("standardise behind it: one more pass over all %d parts", len(manifests))
            with client_for(compute, threads) as workers:
                cells = merged(_second_round([path for path, _ in manifests], transform, splits, workers))
    return {
        **transform.fit(cells).state(),
        "n_showers": cells.count,
        "parts": [content["part_digest"] for _, content in manifests],
    }


def _second_round(
    parts: Sequence[Path], transform: Transform, splits: SplitSpec, workers: Workers
) -> Iterator[CellStatistics]:
    """Statistics in front of standardise, one state for each block of the training showers of each part."""
    for path in parts:
        part = Part.open(path)
        train = split_code(part.shower_hash, splits) == TRAIN
        work = partial(_block, path.absolute(), part.digest, transform)
        yield from workers.in_order(work, [(rows, train[rows]) for rows in row_blocks(part)])


def _block(manifest: Path, digest: str, transform: Transform, block: tuple[slice, Any]) -> CellStatistics:
    rows, train = block
    with np.errstate(invalid="ignore", divide="ignore"):
        state = observed(transform, opened(manifest, digest).read(rows).where(train))
    if not np.isfinite(state.m2).all():
        raise StoreError(
            f"{manifest}: showers {rows.start} to {rows.stop}: expected finite values in front of standardise, "
            "found some that are not; raise logit.scale"
        )
    return state


def _manifest(path: Path) -> tuple[Path, dict[str, Any]]:
    try:
        content = read_json(path)
    except ProvenanceError as error:
        raise StoreError(str(error)) from None
    if not isinstance(content, dict) or content.get("kind") != "preprocessed":
        raise StoreError(f"{path}: expected the manifest of a preprocessed part, found other JSON; run preprocess")
    return path, content


def _check(path: Path, content: dict[str, Any], expected: dict[str, str], raw_mesh: CylinderMesh) -> None:
    for key, value in expected.items():
        if content[key] != value:
            raise StoreError(
                f"{path}: expected {key} {value}, found {content[key]}; merge parts preprocessed with one "
                f"recipe and one split: delete {path} and run again"
            )
    mesh = mesh_of(content["raw_mesh"])
    sizes = zip((mesh.dr_mm, mesh.dz_mm), (raw_mesh.dr_mm, raw_mesh.dz_mm), strict=True)
    if mesh.shape != raw_mesh.shape or not all(math.isclose(a, b, rel_tol=1e-5) for a, b in sizes):
        raise StoreError(
            f"{path}: expected showers on {raw_mesh}, found {mesh}; correct `mesh:` of the data set "
            "or keep files of different meshes in different data sets"
        )
    statistics = path.with_suffix(".npz")
    if not statistics.exists() or file_digest(statistics) != content["statistics_digest"]:
        raise StoreError(
            f"{path}: expected {statistics.name} beside it as it was written, found it missing or "
            f"changed; delete {path} and run again"
        )
