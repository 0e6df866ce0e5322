"""One loop for all runs: AdamW, warm-up and cosine, clipping, an average of the weights, exact resume.

In: a `TrainRequest`. Out: the model (or the slice's manifest), `metrics.jsonl` with deterministic numbers only,
and `training.measured.json` with the times. Everything counts in showers seen; what a step does depends on the
weights, the seed and that count, so a run killed anywhere goes on to the same bytes (on one kind of CPU). Started by
torchrun it is one of several processes (see `distributed`), which give the same numbers within rounding; the first
of them writes the files.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import torch
from torch import nn

from pipeline.config import TrainingSpec, digest_of
from pipeline.data.transforms import Transform
from pipeline.models import Architecture, build_network
from pipeline.models.draws import BatchGenerator, drawing
from pipeline.training.adaptation import architecture_from, freeze_encoder, start_from, take_parents
from pipeline.training.bad_batch import write_bad_batch
from pipeline.training.batches import Batch
from pipeline.training.checkpoint import checkpoint_folder, load_checkpoint, load_model, save_model, write_slice
from pipeline.training.collapse import collapse
from pipeline.training.datasets import training_loader, validation_loader
from pipeline.training.determinism import device_of, reproducible, seed_of
from pipeline.training.distributed import piece, ranks, whole
from pipeline.training.fine_tuning import anchors, choose_trained, pull_back
from pipeline.training.fitting import fit_buffers, fit_codes
from pipeline.training.interruption import TrainingInterrupted, agreed, interruptible
from pipeline.training.loading import Batches, share
from pipeline.training.objectives import LOSSES, WATCHED, Terms, is_finite, total
from pipeline.training.prefetch import Prefetcher
from pipeline.training.probe import probe
from pipeline.training.progress import progress_bar
from pipeline.training.recording import ROWS, append, averages, due, measured, metrics_file
from pipeline.training.request import (
    TrainingError,
    TrainRequest,
    architecture_of,
    fitted_transforms,
    record_of,
)
from pipeline.training.state import State, average, first_state
from pipeline.training.throughput import Throughput
from pipeline.training.writing import CheckpointWriter

log = logging.getLogger(__name__)
VALIDATION_BATCH = 256


def train(request: TrainRequest) -> None:
    """Train one slice of a run, from its newest checkpoint on; TrainingError when the loss is not finite."""
    spec, device = request.spec.training, device_of(request.spec.training)
    transforms = fitted_transforms(request)
    with (
        reproducible(spec.threads, device),
        ranks(device) as team,
        closing(training_loader(request, transforms)) as loader,
    ):
        logging.getLogger("pipeline").setLevel(logging.NOTSET if team.first else logging.WARNING)
        record, validation = record_of(request, loader.order), validation_loader(request, transforms)
        architecture, network, start = initial_network(request, transforms, loader)
        work = probe(copy.deepcopy(network), loss_of(spec), next(loader.in_order(2, 2)), device)
        state = first_state(network.to(device), loss_of(spec), spec, team, work.unused, request.spec.adapt)
        state.anchors = start
        checkpoints = checkpoint_folder(request.folder, digest_of(record))
        resume(request, state, checkpoints)
        meter = Throughput(spec, device, team.world, work.flop_per_shower)
        run_loop(request, state, loader, validation, checkpoints, meter)
        weights = whole(state.averaged.state_dict(), keep=team.first)
        if not team.first:
            return
        if request.slice_index == request.n_slices:
            named = dict(zip(request.spec.data, transforms, strict=True))
            save_model(request.manifest, weights, architecture, named, record)
        else:
            last = checkpoints / f"{state.samples:012d}.pt"
            write_slice(request.folder / f"slice-{request.slice_index}.json", digest_of(record), state.samples, last)
        log.info("%s: %d showers seen", request.run, state.samples)


def initial_network(
    request: TrainRequest, transforms: Sequence[Transform], loader: Batches
) -> tuple[Architecture, nn.Module, dict[str, torch.Tensor]]:
    """The network before its first step, buffers fitted, frozen where asked; the weights that it is pulled towards."""
    built_on = {role: load_model(path) for role, path in request.model_parents.items()}
    architecture = architecture_of(request, transforms, {role: m.architecture for role, m in built_on.items()})
    parent = load_model(request.parent) if request.parent else None
    if parent is not None:
        architecture = architecture_from(parent.architecture, architecture, request.spec.adapt.patch_embedder)
    network = build_network(architecture, request.spec.seed + 1000 * request.config.seed)
    fit_buffers(network, loader, transforms, request.spec.seed)
    if built_on:
        take_parents(network, architecture, built_on)
    fit_codes(network, loader, request.spec.seed)
    fresh: list[str] = []
    if parent is not None:
        fresh = start_from(network, parent, request.spec.adapt.patch_embedder)
        log.info("%s: from run %s; fresh: %s", request.run, parent.manifest["run"], fresh)
    if request.spec.freeze == "encoder":
        freeze_encoder(network)
    choose_trained(network, request.spec.adapt, request.spec.seed)
    return architecture, network, anchors(network, request.spec.adapt, fresh)


def resume(request: TrainRequest, state: State, checkpoints: Path) -> None:
    """Go on from the newest checkpoint up to the slice's end, if there is one; all processes from the same."""
    found = load_checkpoint(checkpoints, request.stop_at)
    samples = found[0] if found else 0
    if state.ranks.total([samples])[0] != samples * state.ranks.world:
        raise TrainingError(
            f"runs.{request.run}: expected all processes to find the same checkpoint in {checkpoints}, got one that "
            f"found {samples} showers where others found more or fewer; see that all hosts see the same files"
        )
    if found:
        state.restore(found[1])
        log.info("%s: going on after %d showers", request.run, state.samples)


def run_loop(
    request: TrainRequest,
    state: State,
    loader: Batches,
    validation: Batches | None,
    checkpoints: Path,
    meter: Throughput,
) -> None:
    """Steps until the slice ends; metrics, validations and checkpoints where they are due."""
    spec, end, team = request.spec.training, request.steps * request.spec.training.batch_size, state.ranks
    log_every = max(end // ROWS, spec.batch_size)
    pinned = device_of(spec).type == "cuda"
    with (
        Prefetcher(
            loader, state.samples, request.stop_at, spec.batch_size, rank=team.rank, world=team.world, pinned=pinned
        ) as batches,
        progress_bar(request.run, end, state.samples) as advance,
        interruptible() as asked_to_stop,
        CheckpointWriter(checkpoints, spec.keep_checkpoints) as writer,
        metrics_file(request, state) as rows,
        measured(request, state, meter, batches),
    ):
        while state.samples < request.stop_at:
            before, started = state.samples, time.monotonic()
            terms = step(request, state, batches, end)
            meter.add(time.monotonic() - started)
            advance(state.samples, terms["loss"])
            new = []
            if due(log_every, before, state.samples) or state.samples == end:
                new.append(averages(state))
            if validation and (due(spec.validate_every, before, state.samples) or state.samples == end):
                found = validate(state, validation, spec)
                new.append({"samples": state.samples, "split": "validation", **found})
                if warning := collapse(state.averaged, found):
                    log.warning("%s after %d showers: %s", request.run, state.samples, warning)
            append(rows, state, new)
            interrupted = agreed(asked_to_stop(), team) if state.samples < request.stop_at else ""
            if interrupted or due(spec.checkpoint_every, before, state.samples) or state.samples == request.stop_at:
                content = state.content()
                if team.first:
                    writer.save(state.samples, content)
            if interrupted:
                raise TrainingInterrupted(
                    f"runs.{request.run}: stopped by {interrupted} after {state.samples} showers, with a checkpoint; "
                    "the same command goes on from there"
                )


def step(request: TrainRequest, state: State, batches: Prefetcher, end: int) -> dict[str, float]:
    """One optimiser step; a loss or gradient that is not finite stops before it."""
    spec, run = request.spec.training, request.spec
    batch = batches.training_batch(state.samples, spec.batch_size).to(device_of(spec))
    state.optimiser.zero_grad(set_to_none=True)
    terms = gradients(state, batch, f"step {run.seed} {request.config.seed} {state.samples}", spec)
    penalty = pull_back(state.network, state.anchors, run.adapt.l2_sp) if state.anchors else None
    norm = _number(nn.utils.clip_grad_norm_(state.network.parameters(), spec.clip))
    mean = torch.stack([total(terms), *terms.values(), norm]).tolist()
    sums = [value / state.ranks.world for value in state.ranks.total(mean)]
    numbers = dict(zip(["loss", *terms, "gradient_norm"], sums, strict=True))
    if penalty is not None:
        numbers["l2_sp"] = float(penalty)
    if not is_finite(numbers):
        showers = write_bad_batch(request, state.samples, batch, numbers, state.ranks.rank)
        raise TrainingError(
            f"runs.{request.run}: expected a finite loss after {state.samples} showers, got {numbers}; "
            f"lower training.learning_rate or look at the recipe's values; the batch's showers are listed in {showers}"
        )
    rate = learning_rate(spec, state.samples, end)
    for group in state.optimiser.param_groups:
        group["lr"] = rate * group["factor"]
    state.optimiser.step()
    average(state, spec)
    state.samples += spec.batch_size
    numbers["learning_rate"] = rate
    for name, value in {**numbers, "steps": 1.0}.items():
        state.sums[name] = state.sums.get(name, 0.0) + value
    return numbers


def gradients(state: State, batch: Batch, key: str, spec: TrainingSpec) -> Terms:
    """Mean terms over this process's showers, taken piece by piece; their gradients over all showers stay behind."""
    pieces, first = spec.parallel.accumulate, len(batch) * state.ranks.rank
    sums: Terms = {}
    for index in range(pieces):
        own = share(len(batch), index, pieces)
        places = slice(first + own.start, first + own.stop)
        generator = BatchGenerator.seeded(device_of(spec), seed_of(key), spec.batch_size, places)
        with piece(state.loss, last=index == pieces - 1):
            terms = state.loss(batch.take(own), generator)
            (total(terms) / pieces).backward()  # type: ignore[no-untyped-call]
        for name, value in terms.items():
            sums[name] = sums.get(name, 0) + value.detach() / pieces
    return sums


def losses(network: nn.Module, batch: Batch, generator: torch.Generator, spec: TrainingSpec) -> Terms:
    """The network's loss terms in the spec's precision."""
    with torch.autocast(batch.values.device.type, torch.bfloat16, enabled=spec.precision == "bf16"):
        return LOSSES[type(network)](network, batch, generator)


def loss_of(spec: TrainingSpec) -> Callable[[nn.Module, Batch, BatchGenerator], Terms]:
    """The loss of a part of a batch, with its share of the batch's random numbers."""

    def loss(network: nn.Module, batch: Batch, generator: BatchGenerator) -> Terms:
        with drawing(generator):
            return losses(network, batch, generator, spec)

    return loss


@torch.no_grad()
def validate(state: State, loader: Batches, spec: TrainingSpec) -> dict[str, float]:
    """Mean loss of the averaged weights over the validation showers, always with the same noise."""
    device, team = device_of(spec), state.ranks
    generator = BatchGenerator.seeded(device, seed_of("validation"), VALIDATION_BATCH)
    sums: dict[str, float] = {}
    for batch in loader.in_order(VALIDATION_BATCH):
        own = team.share(len(batch))
        weight, own = own.stop - own.start, own if own.stop > own.start else slice(0, 1)  # all must take part
        terms = state.averaged_loss(batch.take(own).to(device), generator.cut(len(batch), own))
        for name, value in {"loss": total(terms), **terms}.items():
            sums[name] = sums.get(name, 0.0) + value.item() * weight
    means = dict(zip(sums, (value / len(loader) for value in team.total(list(sums.values()))), strict=True))
    return means | ({"collapsed": float(bool(collapse(state.averaged, means)))} if {*means} & {*WATCHED} else {})


def learning_rate(spec: TrainingSpec, samples: int, end: int) -> float:
    """Linear warm-up, then a cosine down to zero over the whole run."""
    warm = min(1.0, (samples + spec.batch_size) / spec.warmup_samples) if spec.warmup_samples else 1.0
    return spec.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * samples / end))


def _number(norm: torch.Tensor) -> torch.Tensor:
    """A norm that may be sharded, as one number."""
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
