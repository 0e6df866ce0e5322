"""Training on a GPU, measured: `make bench-gpu`.

In: nothing; showers are random hits in network space on 18x50x45 cells. Out: benchmarks/results/gpu_train.json. For a
diffusion of width 384 and one of width 1024 (150 tokens of 270 cells, blocks compiled, bf16), the trainer's own steps
with the loader's batches from memory:
- samples_per_second, mfu: model FLOP of the steps against the fastest large matrix product of the same run (`ceiling`);
- waiting_for_data: share of the steps' time in which no batch was ready;
- peak_memory_gb of the device.
Needs torch, numpy, pydantic and this folder's project; other libraries that its modules name are replaced by stand-ins
where they are not installed, for nothing here uses them. Without a GPU it stops; `--tiny` runs small models on a CPU to
try the program, and writes nothing.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import sys
import time
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
STAND_INS = {
    *("array_api_compat", "blake3", "dask", "deflate", "distributed", "google_crc32c", "h5py", "numcodecs", "psutil"),
    *("rich", "safetensors", "scipy", "xarray", "yaml", "zarr"),
}


class StandIns(MetaPathFinder, Loader):
    """Empty modules for libraries that are not installed, behind all other finders."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """A module of the list, or of a package of it."""
        if name.split(".")[0] not in STAND_INS:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """One whose every attribute exists."""
        return MagicMock(name=spec.name, __path__=[], __name__=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


sys.meta_path.append(StandIns())

import numpy as np  # noqa: E402
import torch  # noqa: E402
from measure import Row, row, write  # noqa: E402

from pipeline.calorimeter import CylinderMesh, RaggedShowers  # noqa: E402
from pipeline.config import DiffusionSpec, TrainingSpec  # noqa: E402
from pipeline.models import Architecture, build_network  # noqa: E402
from pipeline.training.determinism import reproducible  # noqa: E402
from pipeline.training.distributed import Ranks  # noqa: E402
from pipeline.training.loading import Loader as ShowerLoader  # noqa: E402
from pipeline.training.prefetch import Prefetcher  # noqa: E402
from pipeline.training.probe import probe  # noqa: E402
from pipeline.training.sources import ReadySource  # noqa: E402
from pipeline.training.state import first_state  # noqa: E402
from pipeline.training.throughput import Throughput  # noqa: E402
from pipeline.training.trainer import loss_of, step  # noqa: E402

CELLS, PATCH, OCCUPANCY = (18, 50, 45), (3, 10, 9), 0.1
MODELS = {"width 384": (384, 6, 6, 256), "width 1024": (1024, 12, 16, 128)}  # width, depth, heads, batch
TINY = {"tiny": (24, 1, 2, 4)}
WARM_UP = 10


def loader(n: int, seed: int = 0) -> ShowerLoader:
    """n showers of random hits in memory, ready for the network."""
    mesh, random = CylinderMesh(*CELLS, 4.65, 3.4), np.random.default_rng(seed)
    sizes = random.binomial(mesh.n_cells, OCCUPANCY, n)
    cells = np.concatenate([np.sort(random.choice(mesh.n_cells, size, replace=False)) for size in sizes])
    values = random.normal(size=len(cells)).astype(np.float32)
    incident = random.uniform(1e3, 1e5, n)
    labels = (incident, np.full(n, np.pi / 2), np.zeros(n))
    showers = RaggedShowers(sizes, cells.astype(np.uint16), values, *labels, mesh, "SiW")
    layers = np.full((n, CELLS[2]), 1.0, dtype=np.float32)
    return ShowerLoader([ReadySource(showers, layers, np.full(CELLS, -9.0, dtype=np.float32), True)], seed)


def measured(model: tuple[int, int, int, int], steps: int, device: torch.device, showers: int) -> dict[str, Any]:
    """The trainer's own record of some steps of one model."""
    width, depth, heads, batch = model
    spec = DiffusionSpec(patch=PATCH, width=width, depth=depth, heads=heads)
    on_gpu = device.type == "cuda"
    training = TrainingSpec.model_validate(
        {
            "samples": batch * (WARM_UP + steps),
            "batch_size": batch,
            "device": device.type,
            "precision": "bf16" if on_gpu else "fp32",
            "parallel": {"compile": on_gpu},
        }
    )
    run = SimpleNamespace(training=training, seed=1)
    request: Any = SimpleNamespace(run="bench", spec=run, config=SimpleNamespace(seed=1))
    architecture = Architecture(spec, None, CELLS, (("bench", "SiW"),), ("SiW",), 1e-3)
    data = loader(max(showers, 2 * batch))
    with reproducible(training.threads, device):
        network = build_network(architecture, 1)
        work = probe(build_network(architecture, 1), loss_of(training), next(data.in_order(2, 2)), device)
        state = first_state(network.to(device), loss_of(training), training, Ranks(), work.unused)
        meter = Throughput(training, device, 1, work.flop_per_shower)
        with Prefetcher(data, 0, training.samples, batch, pinned=on_gpu) as batches:
            for _ in range(WARM_UP):
                step(request, state, batches, training.samples)
            waited = batches.waited_seconds
            for _ in range(steps):
                started = time.monotonic()
                step(request, state, batches, training.samples)
                meter.add(time.monotonic() - started)
            found = meter.record(batches.waited_seconds - waited)
    return found | {"parameters": sum(p.numel() for p in network.parameters())}


def rows_of(name: str, found: dict[str, Any], batch: int, steps: int) -> list[Row]:
    """Lines of the table of results."""
    where = f"{name}, batch {batch}, {found['device_name']}"
    numbers = [
        ("samples_per_second", found["samples_per_second"], "1/s", None),
        ("mfu", found["mfu"], "", "ceiling"),
        ("model_tflops", found["flops_per_process"] / 1e12, "TFLOP/s", None),
        ("ceiling_tflops", found["matrix_product_flops"] / 1e12, "TFLOP/s", None),
        ("waiting_for_data", found["share_waiting_for_data"], "of the steps' time", None),
        ("peak_memory_gb", found["peak_memory_mb"] / 1e3, "GB", None),
        ("parameters", found["parameters"], "", None),
    ]
    return [row(what, value, unit, against, where, steps) for what, value, unit, against in numbers]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all models; exit status 1 without a GPU."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="a small model on the CPU, to try the program")
    parser.add_argument("--steps", type=int, default=50, help="steps that are measured")
    options = parser.parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        print("gpu_train: expected a CUDA GPU, found none; run it on one, or try it with --tiny", file=sys.stderr)
        return 1
    device = torch.device("cpu" if options.tiny else "cuda")
    lines: list[Row] = []
    for name, model in (TINY if options.tiny else MODELS).items():
        found = measured(model, options.steps, device, 8 if options.tiny else 4096)
        lines += rows_of(name, found, model[3], options.steps)
    if options.tiny:
        print("\n".join(f"{line['name']} {line['value']:.4g} {line['unit']}" for line in lines))
    else:
        write("gpu_train", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
