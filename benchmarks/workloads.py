"""Raw files that benchmarks read, made once by the parametric engine and kept in data/benchmarks/.

Two meshes, 18x50x45 and 9x16x45 cells, electrons log-uniform from 1 GeV to 1 TeV, of a given number of raw bytes
(float32). Showers beyond the first gigabyte are those of the first, turned in phi by one cell more for every
further gigabyte. The layout is that of most published files: `showers` (N, R, PHI, Z), gzip 4, h5py's own chunks, with
`incident_energy` beside it.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import h5py
import numpy as np

from pipeline.calorimeter import Showers
from pipeline.config import BUILT_IN_DETECTORS, SimulateSpec
from pipeline.provenance import atomic_path
from pipeline.simulation import ENGINES

FOLDER = Path("data/benchmarks")
MESHES = {"18x50x45": (18, 50, 45), "9x16x45": (9, 16, 45)}
_BLOCK = 500


def raw_file(mesh: str, gigabytes: float) -> Path:
    """The raw file of a mesh and size (1e9 bytes of float32), made when it is not there."""
    path = FOLDER / f"{mesh}_{gigabytes:g}GB.h5"
    if not path.exists():
        n, simulated = (int(min(g, gigabytes) * 1e9 / (4 * np.prod(MESHES[mesh]))) for g in (gigabytes, 1))
        seeds = range(1, 1 + -(-simulated // _BLOCK))
        sizes = [min(_BLOCK, simulated - (seed - 1) * _BLOCK) for seed in seeds]
        cache = {"rdcc_nbytes": 1 << 30, "rdcc_nslots": 1_000_003}  # a chunk is compressed once, when it is whole
        with (
            ProcessPoolExecutor() as pool,
            atomic_path(path) as temporary,
            h5py.File(temporary, "w", **cache) as handle,
        ):
            showers = handle.create_dataset("showers", (n, *MESHES[mesh]), "f4", compression="gzip", compression_opts=4)
            incident = handle.create_dataset("incident_energy", (n,), "f4")
            for seed, block in zip(seeds, pool.map(_showers, [mesh] * len(sizes), sizes, seeds), strict=True):
                rows = slice((seed - 1) * _BLOCK, (seed - 1) * _BLOCK + len(block))
                showers[rows], incident[rows] = block.energy, block.incident_energy
            stop = simulated
            while stop < n:
                start, (turns, first) = stop, divmod(stop, simulated)
                stop = min(start + _BLOCK, n, (turns + 1) * simulated)
                known = slice(first, first + stop - start)
                showers[start:stop], incident[start:stop] = np.roll(showers[known], turns, axis=2), incident[known]
    return path


def _showers(mesh: str, n: int, seed: int) -> Showers:
    siw = BUILT_IN_DETECTORS["SiW"]
    cells = MESHES[mesh]
    coarse = {"cells": cells, "dr_mm": siw.mesh.dr_mm * 18 / cells[0], "dz_mm": siw.mesh.dz_mm}
    spec = SimulateSpec(engine="parametric", files=1, showers=n, energy_gev=(1, 1000), mesh=coarse)
    return ENGINES["parametric"](spec, "SiW", siw, seed)
