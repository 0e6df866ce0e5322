"""Preprocess: the prefix of a recipe on one part, and the fit of its suffix over many.

`preprocess_part`: a part in, a part of the prefix's values (float32, hits only, plus the constant `fill`
of empty cells) and the mergeable statistics of its training showers out. Dask runs blocks of 512 showers
in threads; a wave of them is in memory at a time, and results are reduced in file order, so neither the
number of threads nor the machine changes a bit. `merge`: the statistics of all parts in, the fitted
`Transform`'s state out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.config import ComputeSpec, RecipeSpec, SplitSpec, digest_of
from pipeline.data.compute import Workers, client_for
from pipeline.data.part_writer import PartWriter, mesh_attributes, mesh_of
from pipeline.data.statistics import CellStatistics, merged
from pipeline.data.store import TRAIN, Part, StoreError, split_code
from pipeline.data.transforms import Transform, TransformError
from pipeline.provenance import ProvenanceError, file_digest, read_json, write_json

BLOCK_SHOWERS = 512
_THREADS = ComputeSpec()


def preprocess_part(
    manifest_in: Path,
    manifest_out: Path,
    recipe: RecipeSpec,
    splits: SplitSpec,
    threads: int | None = None,
    compute: ComputeSpec = _THREADS,
) -> dict[str, Any]:
    """Materialise the prefix of one part and the statistics of its training showers; returns the manifest.

    Writes `manifest_out` last, beside it `.zarr` (values) and `.npz` (statistics). `threads` and `compute` say where
    Dask works and change no bit (see `client_for`). Raises `StoreError` when the recipe does not fit the part's mesh.
    """
    manifest_in, manifest_out = Path(manifest_in), Path(manifest_out)
    part = Part.open(manifest_in)
    transform = _fitting(recipe, part)
    manifest_out.unlink(missing_ok=True)
    statistics = CellStatistics.empty(transform.mesh.shape, transform.fill)
    writer = PartWriter(
        manifest_out.with_suffix(".zarr"),
        transform.mesh,
        _attributes(part, transform),
        {"units": "1", "long_name": "value behind the recipe's prefix"},
        allow_dense=False,
    )
    with client_for(compute, threads) as workers, writer:
        for rows, showers, state in _blocks(part, transform, splits, workers):
            writer.append(showers, part.shower_hash[rows])
            statistics = statistics.merge(state)
    statistics.save(manifest_out.with_suffix(".npz"))
    content = {
        "kind": "preprocessed",
        **_keys(recipe, splits),
        "part_digest": part.digest,
        "fill": transform.fill,
        "raw_mesh": mesh_attributes(part.mesh),
        "mesh": mesh_attributes(transform.mesh),
        "detector": part.detector,
        "particle": part.particle,
        "layout": writer.layout,
        "n_showers": part.n_showers,
        "n_hits": writer.n_hits,
        "n_train": statistics.count,
        "statistics_digest": file_digest(manifest_out.with_suffix(".npz")),
        "store_digest": writer.digest,
    }
    write_json(manifest_out, content)
    return content


def _fitting(recipe: RecipeSpec, part: Part) -> Transform:
    """The recipe on the part's mesh."""
    try:
        return Transform.from_recipe(recipe, part.mesh)
    except ValueError as error:
        raise StoreError(
            f"{part.path}: expected showers on a mesh that the recipe fits, found {part.mesh}: {error}; "
            "correct the recipe, or `mesh:` of the data set and ingest again"
        ) from None


def _keys(recipe: RecipeSpec, splits: SplitSpec) -> dict[str, str]:
    """Digests of what decides the result."""
    fitted = [i for i, step in enumerate(recipe.steps) if step.fitted]
    prefix = recipe.steps[: fitted[0] if fitted else len(recipe.steps)]
    content = [recipe.version, [step.model_dump(mode="json") for step in prefix]]
    return {"recipe_digest": recipe.digest(), "prefix_digest": digest_of(content), "splits_digest": splits.digest()}


def _attributes(part: Part, transform: Transform) -> dict[str, Any]:
    return {
        "title": "Calorimeter showers behind the prefix of a recipe",
        "source": part.path.name,
        "detector": part.detector,
        "particle": part.particle,
        "fill": transform.fill,
    }


def _blocks(
    part: Part, transform: Transform, splits: SplitSpec, workers: Workers
) -> Iterator[tuple[slice, RaggedShowers, CellStatistics]]:
    """Rows, prefix and training statistics of each block, in file order."""
    train = split_code(part.shower_hash, splits) == TRAIN
    rows = [slice(i, min(i + BLOCK_SHOWERS, part.n_showers)) for i in range(0, part.n_showers, BLOCK_SHOWERS)]
    work = partial(_block, part.path.absolute(), part.digest, transform)
    results = workers.in_order(work, [(r, train[r]) for r in rows])
    for r, (showers, state) in zip(rows, results, strict=True):
        yield r, showers, state


@lru_cache(maxsize=2)
def _opened(manifest: Path, digest: str) -> Part:
    """A part opened once per process; the digest tells apart what had the same name one after another."""
    return Part.open(manifest)


def _block(
    manifest: Path, digest: str, transform: Transform, block: tuple[slice, NDArray[np.bool_]]
) -> tuple[RaggedShowers, CellStatistics]:
    """The prefix of a row range, and the statistics of its training showers."""
    rows, train = block
    showers = transform.prefix_ragged(_opened(manifest, digest).read(rows))
    if not np.isfinite(showers.energy).all():
        row = rows.start + int(showers.shower_of_hit[np.argmin(np.isfinite(showers.energy))])
        raise TransformError(
            f"{manifest}: shower {row}: expected finite values behind the recipe's prefix, found "
            "some that are not; divide by the incident energy before logit, or raise logit.scale"
        )
    return showers, CellStatistics.of(showers.take(np.flatnonzero(train)), transform.fill)


# ---------------------------------------------------------------------------------------- merge


def merge(parts: Sequence[Path], recipe: RecipeSpec, raw_mesh: CylinderMesh) -> dict[str, Any]:
    """The fitted transform's state from the statistics of all parts, plus the digests of the parts.

    `parts`: manifests written by `preprocess_part`; their order does not matter. Raises `StoreError`
    when a part is of another recipe, mesh or split, or when its statistics are missing or changed.
    """
    manifests = sorted((_manifest(Path(path)) for path in parts), key=lambda item: item[1]["part_digest"])
    if not manifests:
        raise StoreError("merge: expected at least one preprocessed part, got none; add raw files to the data set")
    transform = Transform.from_recipe(recipe, raw_mesh)
    expected = {
        "prefix_digest": _keys(recipe, SplitSpec())["prefix_digest"],
        "splits_digest": manifests[0][1]["splits_digest"],
    }
    for path, content in manifests:
        _check(path, content, expected, raw_mesh)
    state = merged(CellStatistics.load(path.with_suffix(".npz")) for path, _ in manifests)
    return {
        **transform.fit(state).state(),
        "n_showers": state.count,
        "parts": [content["part_digest"] for _, content in manifests],
    }


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
