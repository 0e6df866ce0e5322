"""One loop for all runs: AdamW, warm-up and cosine, clipping, an average of the weights, exact resume.

In: a `TrainRequest`. Out: the model (or the slice's manifest), `metrics.jsonl` with deterministic numbers only,
and `training.measured.json` with the times. Everything counts in showers seen; what a step does depends on the
weights, the seed and that count, so a run killed anywhere goes on to the same bytes (on one kind of CPU).
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.config import TrainingSpec, digest_of
from pipeline.data.transforms import Transform
from pipeline.models import Architecture, ShowerGenerator, build_network
from pipeline.provenance import atomic_path, write_json
from pipeline.training.adaptation import architecture_from, freeze_encoder, start_from, take_parents
from pipeline.training.bad_batch import write_bad_batch
from pipeline.training.batches import Batch
from pipeline.training.checkpoint import (
    checkpoint_folder,
    load_checkpoint,
    load_model,
    save_checkpoint,
    save_model,
    write_slice,
)
from pipeline.training.datasets import training_loader, validation_loader
from pipeline.training.determinism import device_of, reproducible, seeded
from pipeline.training.fitting import fit_buffers
from pipeline.training.interruption import TrainingInterrupted, interruptible
from pipeline.training.loading import Batches
from pipeline.training.objectives import LOSSES, Terms, is_finite, total
from pipeline.training.prefetch import Prefetcher
from pipeline.training.progress import progress_bar
from pipeline.training.request import (
    TrainingError,
    TrainRequest,
    architecture_of,
    fitted_transforms,
    record_of,
)

log = logging.getLogger(__name__)
VALIDATION_BATCH = 256
ROWS = 100  # rows of training metrics in a whole run


@dataclass
class State:
    """All that the next step depends on, and what was measured so far."""

    network: nn.Module
    averaged: nn.Module
    optimiser: torch.optim.Optimizer
    samples: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def content(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "samples": self.samples,
            "sums": self.sums,
            "rows": json.dumps(self.rows),
        }

    def restore(self, content: dict[str, Any]) -> None:
        """From a checkpoint's content."""
        self.network.load_state_dict(content["network"])
        self.averaged.load_state_dict(content["averaged"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.samples, self.sums, self.rows = content["samples"], content["sums"], json.loads(content["rows"])


def train(request: TrainRequest) -> None:
    """Train one slice of a run, from its newest checkpoint on; TrainingError when the loss is not finite."""
    spec = request.spec.training
    started, cpu = time.monotonic(), time.process_time()
    transforms = fitted_transforms(request)
    with reproducible(spec.threads, device_of(spec)), closing(training_loader(request, transforms)) as loader:
        record, validation = record_of(request, loader.order), validation_loader(request, transforms)
        architecture, network = initial_network(request, transforms, loader)
        state = _start(network.to(device_of(spec)), spec)
        checkpoints = checkpoint_folder(request.folder, digest_of(record))
        if (found := load_checkpoint(checkpoints, request.stop_at)) is not None:
            state.restore(found[1])
            log.info("%s: going on after %d showers", request.run, state.samples)
        resumed_at = state.samples
        run_loop(request, state, loader, validation, checkpoints)
        measured = {
            "samples": state.samples - resumed_at,
            "wall_seconds": time.monotonic() - started,
            "cpu_seconds": time.process_time() - cpu,
            "device": str(device_of(spec)),
        }
        write_json(request.folder / "training.measured.json", measured)
        if request.slice_index == request.n_slices:
            named = dict(zip(request.spec.data, transforms, strict=True))
            save_model(request.manifest, state.averaged, architecture, named, record)
        else:
            last = checkpoints / f"{state.samples:012d}.pt"
            write_slice(request.folder / f"slice-{request.slice_index}.json", digest_of(record), state.samples, last)
        log.info("%s: %d showers seen, %.0f s of CPU", request.run, state.samples, measured["cpu_seconds"])


def initial_network(
    request: TrainRequest, transforms: Sequence[Transform], loader: Batches
) -> tuple[Architecture, nn.Module]:
    """The network before its first step: fresh or the parent's weights, buffers fitted, frozen where asked."""
    built_on = {role: load_model(path) for role, path in request.model_parents.items()}
    architecture = architecture_of(request, transforms, {role: m.architecture for role, m in built_on.items()})
    parent = load_model(request.parent) if request.parent else None
    if parent is not None:
        architecture = architecture_from(parent.architecture, architecture)
    network = build_network(architecture, request.spec.seed + 1000 * request.config.seed)
    fit_buffers(network, loader, transforms, request.spec.seed)
    if built_on:
        take_parents(network, architecture, built_on)
    if parent is not None:
        log.info("%s: from run %s; fresh: %s", request.run, parent.manifest["run"], start_from(network, parent))
    if request.spec.freeze == "encoder":
        freeze_encoder(network)
    return architecture, network


def run_loop(
    request: TrainRequest, state: State, loader: Batches, validation: Batches | None, checkpoints: Path
) -> None:
    """Steps until the slice ends; metrics, validations and checkpoints where they are due."""
    spec, end = request.spec.training, request.steps * request.spec.training.batch_size
    metrics = request.folder / "metrics.jsonl"
    log_every = max(end // ROWS, spec.batch_size)
    _rewrite(metrics, state.rows)
    pinned = device_of(spec).type == "cuda"
    with (
        Prefetcher(loader, state.samples, request.stop_at, spec.batch_size, pinned=pinned) as batches,
        progress_bar(request.run, end, state.samples) as advance,
        interruptible() as asked_to_stop,
        open(metrics, "a") as rows,
    ):
        while state.samples < request.stop_at:
            before = state.samples
            terms = step(request, state, batches, end)
            advance(state.samples, terms["loss"])
            new = []
            if _due(log_every, before, state.samples) or state.samples == end:
                new.append(_averages(state))
            if validation and (_due(spec.validate_every, before, state.samples) or state.samples == end):
                new.append({"samples": state.samples, "split": "validation", **validate(state, validation, spec)})
            _append(rows, state, new)
            interrupted = asked_to_stop() if state.samples < request.stop_at else ""
            if interrupted or _due(spec.checkpoint_every, before, state.samples) or state.samples == request.stop_at:
                save_checkpoint(checkpoints, state.samples, state.content())
            if interrupted:
                raise TrainingInterrupted(
                    f"runs.{request.run}: stopped by {interrupted} after {state.samples} showers, with a checkpoint; "
                    "the same command goes on from there"
                )


def step(request: TrainRequest, state: State, batches: Prefetcher, end: int) -> dict[str, float]:
    """One optimiser step; a loss that is not finite stops before it."""
    spec, run, device = request.spec.training, request.spec, device_of(request.spec.training)
    batch = batches.training_batch(state.samples, spec.batch_size).to(device)
    generator = seeded(device, f"step {run.seed} {request.config.seed} {state.samples}")
    terms = losses(state.network, batch, generator, spec)
    loss = total(terms)
    numbers = {"loss": loss.item(), **{name: value.item() for name, value in terms.items()}}
    if not is_finite(numbers):
        showers = write_bad_batch(request, state.samples, batch, numbers)
        raise TrainingError(
            f"runs.{request.run}: expected a finite loss after {state.samples} showers, got {numbers}; "
            f"lower training.learning_rate or look at the recipe's values; the batch's showers are listed in {showers}"
        )
    rate = learning_rate(spec, state.samples, end)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), spec.clip)
    state.optimiser.step()
    average(state, spec)
    state.samples += spec.batch_size
    numbers |= {"learning_rate": rate, "gradient_norm": float(norm)}
    for name, value in {**numbers, "steps": 1.0}.items():
        state.sums[name] = state.sums.get(name, 0.0) + value
    return numbers


def losses(network: nn.Module, batch: Batch, generator: torch.Generator, spec: TrainingSpec) -> Terms:
    """The network's loss terms in the spec's precision."""
    with torch.autocast(batch.values.device.type, torch.bfloat16, enabled=spec.precision == "bf16"):
        return LOSSES[type(network)](network, batch, generator)


@torch.no_grad()
def average(state: State, spec: TrainingSpec) -> None:
    """Exponential moving average of the weights, with a shorter memory at the start."""
    seen = state.samples / spec.batch_size
    decay = min(spec.ema, (1 + seen) / (10 + seen)) if spec.ema else 0.0
    averaged: list[torch.Tensor] = list(state.averaged.parameters())
    current: list[torch.Tensor] = list(state.network.parameters())
    torch._foreach_lerp_(averaged, current, 1 - decay)


@torch.no_grad()
def validate(state: State, loader: Batches, spec: TrainingSpec) -> dict[str, float]:
    """Mean loss of the averaged weights over the validation showers, always with the same noise."""
    device = device_of(spec)
    generator = seeded(device, "validation")
    sums: dict[str, float] = {}
    for batch in loader.in_order(VALIDATION_BATCH):
        terms = losses(state.averaged, batch.to(device), generator, spec)
        for name, value in {"loss": total(terms), **terms}.items():
            sums[name] = sums.get(name, 0.0) + value.item() * len(batch)
    return {name: value / len(loader) for name, value in sums.items()}


def learning_rate(spec: TrainingSpec, samples: int, end: int) -> float:
    """Linear warm-up, then a cosine down to zero over the whole run."""
    warm = min(1.0, (samples + spec.batch_size) / spec.warmup_samples) if spec.warmup_samples else 1.0
    return spec.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * samples / end))


def _start(network: nn.Module, spec: TrainingSpec) -> State:
    """Optimiser and average of a network before its first step; only matrices decay."""
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=spec.learning_rate, betas=spec.betas, fused=True)
    averaged = copy.deepcopy(network).eval().requires_grad_(False)
    if isinstance(network, ShowerGenerator):
        network.follow(averaged)
    return State(network.train(), averaged, optimiser)


# ------------------------------------------------------------------------------------ metrics


def _due(every: int, before: int, after: int) -> bool:
    return before // every != after // every


def _averages(state: State) -> dict[str, Any]:
    """The row of training metrics since the last one; starts the sums anew."""
    steps = state.sums.pop("steps")
    row = {"samples": state.samples, "split": "train", **{k: v / steps for k, v in state.sums.items()}}
    state.sums = {}
    return row


def _append(rows: Any, state: State, new: list[dict[str, Any]]) -> None:
    for row in new:
        state.rows.append(row)
        rows.write(json.dumps(row, sort_keys=True) + "\n")
        rows.flush()
        level = logging.INFO if row["split"] == "validation" else logging.DEBUG
        log.log(level, "%(samples)d showers, %(split)s loss %(loss).4f", row)


def _rewrite(metrics: Path, rows: list[dict[str, Any]]) -> None:
    """Cut the metrics back to what the checkpoint knows."""
    with atomic_path(metrics) as temporary:
        temporary.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
