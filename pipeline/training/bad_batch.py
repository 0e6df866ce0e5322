"""Which showers were in the batch whose loss was not finite, for whoever looks for the reason.

In: the batch and its loss terms. Out: `checkpoints/nonfinite-RANK.json` of the run, outside outputs and digests: seeds
and samples, from which the loader makes the same batch again, and a line per shower: data set, incident energy and
visible energy (MeV), theta (rad), and whether its values in network space are finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.provenance import write_json
from pipeline.training.batches import Batch
from pipeline.training.request import TrainRequest


def write_bad_batch(
    request: TrainRequest, samples: int, batch: Batch, terms: Mapping[str, float], rank: int = 0
) -> Path:
    """Record the process's share of the batch that follows after `samples` showers; returns the record's path."""
    path = request.folder / "checkpoints" / f"nonfinite-{rank}.json"
    write_json(
        path,
        {
            "run": request.run,
            "seeds": [request.spec.seed, request.config.seed],
            "samples": samples,
            "terms": {name: str(value) for name, value in terms.items()},
            "showers": _showers(request.spec.data, batch),
        },
    )
    return path


def _showers(datasets: tuple[str, ...], batch: Batch) -> list[dict[str, Any]]:
    """A line for each shower of the batch; numbers as text, for some may be no numbers."""
    known = batch.conditions
    finite = torch.isfinite(batch.values).flatten(1).all(dim=1)
    columns = (known.domain, known.incident_energy, known.theta, batch.visible_energy, finite)
    return [
        {
            "dataset": datasets[domain],
            "incident_energy_mev": str(incident),
            "theta_rad": str(theta),
            "visible_energy_mev": str(visible),
            "finite": fine,
        }
        for domain, incident, theta, visible, fine in zip(*(c.tolist() for c in columns), strict=True)
    ]
