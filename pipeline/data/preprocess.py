"""Preprocess: the prefix of a recipe on one part.

`preprocess_part`: a part in, a part of the prefix's values (float32, hits only, plus the constant `fill`
of empty cells) and the mergeable statistics of its training showers out; where the recipe keeps all cells, it shares
their files with the part. Dask works on blocks of 2^20 hits where
`compute:` says; some of them are in memory at a time, and results are reduced in file order, so neither the
number of workers nor the machine changes a bit. `merge` fits the rest of the recipe.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import RaggedShowers
from pipeline.config import ComputeSpec, RecipeSpec, SplitSpec, digest_of
from pipeline.data.compute import Workers, client_for
from pipeline.data.observed import observed
from pipeline.data.part_writer import PartWriter, mesh_attributes
from pipeline.data.spectrum import EnergySpectrum
from pipeline.data.statistics import Statistics
from pipeline.data.store import TRAIN, Part, StoreError, split_code
from pipeline.data.transforms import Transform, TransformError
from pipeline.provenance import file_digest, write_json

BLOCK_HITS = 1 << 20
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
    writer = PartWriter(
        manifest_out.with_suffix(".zarr"),
        transform.mesh,
        _attributes(part, transform),
        {"units": "1", "long_name": "value behind the recipe's prefix"},
        allow_dense=False,
        cells_of=None if transform.geometry or part.manifest["layout"] != "ragged" else part.store,
    )
    with client_for(compute, threads) as workers, writer:
        nothing = transform.prefix_ragged(part.read(slice(0, 0)))
        statistics = Statistics(observed(transform, nothing), EnergySpectrum.empty())
        for rows, showers, state in _blocks(part, transform, splits, workers):
            writer.append(showers, part.shower_hash[rows])
            statistics = statistics.merge(state)
    statistics.save(manifest_out.with_suffix(".npz"))
    content = {
        "kind": "preprocessed",
        **keys_of(recipe, splits),
        "part_digest": part.digest,
        "fill": transform.fill,
        "raw_mesh": mesh_attributes(part.mesh),
        "mesh": mesh_attributes(transform.mesh),
        "detector": part.detector,
        "particle": part.particle,
        "layout": writer.layout,
        "n_showers": part.n_showers,
        "n_hits": writer.n_hits,
        "n_train": statistics.cells.count,
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


def keys_of(recipe: RecipeSpec, splits: SplitSpec) -> dict[str, str]:
    """Digests of what decides the result; parts of one prefix and one split merge."""
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
) -> Iterator[tuple[slice, RaggedShowers, Statistics]]:
    """Rows, prefix and training statistics of each block, in file order."""
    train = split_code(part.shower_hash, splits) == TRAIN
    rows = row_blocks(part)
    work = partial(_block, part.path.absolute(), part.digest, transform)
    results = workers.in_order(work, [(r, train[r]) for r in rows])
    for r, (showers, state) in zip(rows, results, strict=True):
        yield r, showers, state


def row_blocks(part: Part) -> list[slice]:
    """Rows of the part in blocks of about `BLOCK_HITS` hits; a function of the part alone."""
    ends = np.cumsum(part.row_size)
    starts = np.unique(np.searchsorted(ends, np.arange(0, int(part.row_size.sum()), BLOCK_HITS), side="right"))
    edges = [0, *(int(i) for i in starts if 0 < i < part.n_showers), part.n_showers]
    return [slice(a, b) for a, b in pairwise(edges) if a < b]


@lru_cache(maxsize=2)
def opened(manifest: Path, digest: str) -> Part:
    """A part opened once per process; the digest tells apart what had the same name one after another."""
    return Part.open(manifest)


def _block(
    manifest: Path, digest: str, transform: Transform, block: tuple[slice, NDArray[np.bool_]]
) -> tuple[RaggedShowers, Statistics]:
    """The prefix of a row range, and the statistics of its training showers."""
    rows, train = block
    raw = opened(manifest, digest).read(rows)
    on_mesh = transform.on_mesh(raw)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        showers = transform.prefix_of_hits(on_mesh)
        cells = observed(transform, showers.where(train))
    if not np.isfinite(showers.energy).all():
        row = rows.start + int(showers.shower_of_hit[np.argmin(np.isfinite(showers.energy))])
        raise TransformError(
            f"{manifest}: shower {row}: expected finite values behind the recipe's prefix, found "
            "some that are not; divide by the incident energy before logit, or raise logit.scale"
        )
    hits_mev = on_mesh.where(train).energy
    return showers, Statistics(cells, EnergySpectrum.of(_energies(raw)[train], hits_mev, transform.mesh.n_cells))


def _energies(showers: RaggedShowers) -> NDArray[np.float64]:
    """Visible energy of each shower, MeV; the sum of a shower does not depend on its neighbours."""
    energy, some = np.zeros(len(showers)), np.asarray(showers.row_size) > 0
    if some.any():
        energy[some] = np.add.reduceat(showers.energy.astype(np.float64), showers.offsets[:-1][some])
    return energy
