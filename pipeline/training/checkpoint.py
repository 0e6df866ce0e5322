"""What a run leaves behind: resume checkpoints while it trains, and at the end a model.

A resume checkpoint holds all that the next step depends on, so that a killed run goes on byte for byte; it lies
in `<folder>/checkpoints/<run digest>/`, is written whole or not at all, with its digest beside it, and the last few
are kept. It does not know how many processes wrote it. A model is `model.safetensors` (averaged weights and
buffers) and a JSON manifest, written last, with the spec, the fitted transforms and the lineage. Loading runs no
code from a file (weights_only, safetensors), and a network is built when its shapes are those of the weights. No times,
no hosts.
"""

from __future__ import annotations

import logging
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from pipeline.data.transforms import Transform
from pipeline.models import Architecture, build_network
from pipeline.models.low_rank import merged_low_rank
from pipeline.models.sizes import refuse_other_shapes
from pipeline.provenance import ProvenanceError, atomic_path, file_digest, read_json, write_json

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A model or checkpoint that is missing, damaged, or not the one that was asked for."""


# --------------------------------------------------------------------------- resume checkpoints


def checkpoint_folder(folder: Path, run_digest: str) -> Path:
    """Where a run's resume checkpoints lie: another configuration or other data, another folder."""
    return folder / "checkpoints" / run_digest


def save_checkpoint(folder: Path, samples: int, state: Mapping[str, Any], keep: int) -> Path:
    """Write the state after `samples` showers, drop all but the last `keep` up to it; returns its path."""
    path = folder / f"{samples:012d}.pt"
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as handle:  # given a path, torch.save would put the file's name into its bytes
            torch.save(dict(state), handle)
        write_json(path.with_suffix(".json"), {"digest": file_digest(temporary)})
    for old in [p for p in _checkpoints(folder) if p.name <= path.name][:-keep]:
        old.unlink()
    for record in folder.glob("*.json"):  # also one whose checkpoint was lost when a process died here
        if not record.with_suffix(".pt").exists():
            record.unlink()
    return path


def load_checkpoint(folder: Path, at_most: int) -> tuple[int, dict[str, Any]] | None:
    """The newest whole state at or before `at_most` samples; a damaged one is skipped with a warning."""
    for path in reversed(_checkpoints(folder)):
        if int(path.stem) > at_most:
            continue
        try:
            _check_digest(path)
            return int(path.stem), torch.load(path, map_location="cpu", weights_only=True)
        except _DAMAGE as error:
            log.warning(
                "%s: expected a checkpoint, found a damaged file (%s); going on from the one before it",
                path,
                type(error).__name__,
            )
    return None


_DAMAGE = (
    *(ProvenanceError, pickle.UnpicklingError, zipfile.BadZipFile, struct.error),
    *(RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(ArithmeticError, MemoryError),
)


def _check_digest(path: Path) -> None:
    """torch.load does not see a changed bit. A checkpoint without a digest beside it is taken as it is."""
    record = path.with_suffix(".json")
    if record.exists() and read_json(record).get("digest") != file_digest(path):
        raise CheckpointError(f"{path}: expected the content of {record}, found other bytes; delete both")


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*.pt") if p.stem.isdigit())


def write_slice(path: Path, run_digest: str, samples: int, checkpoint: Path) -> None:
    """The manifest of a slice: how far the run is, and the digest of the checkpoint outside the outputs."""
    write_json(
        path,
        {
            "run": run_digest,
            "samples": samples,
            "checkpoint": checkpoint.name,
            "checkpoint_digest": file_digest(checkpoint),
        },
    )


# ---------------------------------------------------------------------------------------- models


@dataclass(frozen=True)
class TrainedModel:
    """A network with averaged weights in evaluation mode, and the fitted transform of each data set."""

    network: nn.Module
    architecture: Architecture
    transforms: dict[str, Transform]
    manifest: dict[str, Any]

    def domain(self, dataset: str) -> int:
        """The index of a data set; `CheckpointError` when the model was not trained on it."""
        if dataset not in self.architecture.datasets:
            raise CheckpointError(
                f"model of run '{self.manifest['run']}': expected one trained on '{dataset}', got "
                f"one of {list(self.architecture.datasets)}; add the data set to the run's `data`"
            )
        return self.architecture.datasets.index(dataset)


def save_model(
    manifest: Path,
    state: Mapping[str, Tensor],
    architecture: Architecture,
    transforms: Mapping[str, Transform],
    record: Mapping[str, Any],
) -> None:
    """Write `<manifest stem>.safetensors` and then the manifest; `record` holds run, spec and lineage."""
    weights = {name: value.contiguous() for name, value in merged_low_rank(state).items()}
    path = manifest.with_suffix(".safetensors")
    with atomic_path(path) as temporary:
        temporary.write_bytes(save_tensors(weights))
    write_json(
        manifest,
        {
            **record,
            "architecture": architecture.state(),
            "weights_digest": file_digest(path),
            "transforms": {name: t.state() for name, t in transforms.items()},
        },
    )


def load_model(manifest: Path) -> TrainedModel:
    """The model of a manifest; `CheckpointError` when one is damaged, or it and the weights do not belong together."""
    path = manifest.with_suffix(".safetensors")
    try:
        record = read_json(manifest)
        found = file_digest(path)
    except (ProvenanceError, FileNotFoundError) as error:
        raise CheckpointError(
            f"{manifest}: expected a trained model with its weights beside it, got: {error}; train the run again"
        ) from None
    expected = record.get("weights_digest") if isinstance(record, dict) else None
    if found != expected:
        raise CheckpointError(
            f"{path}: expected weights of digest {expected}, found {found}; delete {manifest} and train again"
        )
    try:
        architecture, weights = Architecture.from_state(record["architecture"]), load_tensors(path.read_bytes())
        refuse_other_shapes(architecture, weights, path.name)
        network = build_network(architecture)
        network.load_state_dict(weights)
        transforms = {name: Transform.from_state(state) for name, state in record["transforms"].items()}
    except (SafetensorError, *_DAMAGE) as error:
        raise CheckpointError(
            f"{manifest}: expected the record of the weights beside it, got {type(error).__name__}: "
            f"{' '.join(str(error).split())}; delete it and train again"
        ) from None
    return TrainedModel(network.eval(), architecture, transforms, record)
