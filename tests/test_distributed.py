"""Several processes: the numbers of one, whatever the strategy; checkpoints that any number goes on from."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rank_fixtures import train_in_ranks
from safetensors.torch import load_file
from training_fixtures import CONTENT, ToyExperiment, make_toy_experiment

from pipeline.config import ConfigError, load_config
from pipeline.models import build_network
from pipeline.models.draws import BatchGenerator, drawing, evenly
from pipeline.provenance import temporary_name
from pipeline.training.checkpoint import load_checkpoint
from pipeline.training.datasets import training_loader
from pipeline.training.distributed import blocks, prepare_blocks
from pipeline.training.objectives import LOSSES
from pipeline.training.probe import probe
from pipeline.training.request import architecture_of, fitted_transforms
from pipeline.training.trainer import loss_of, train
from pipeline.training.writing import CheckpointWriter

STEPS, BATCH = 50, 16


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> ToyExperiment:
    return make_toy_experiment(tmp_path_factory.mktemp("toy"))


def sections(run: str, steps: int = STEPS, parallel: dict[str, Any] | None = None, **training: Any) -> dict[str, Any]:
    """Configuration of one run with all its steps in the metrics."""
    runs = copy.deepcopy(
        {name: CONTENT["runs"][name] for name in (run, CONTENT["runs"][run].get("start_from")) if name}
    )
    runs[run]["training"] |= {"samples": steps * BATCH, "batch_size": BATCH, "validate_every": 20 * BATCH, **training}
    runs[run]["training"]["parallel"] = parallel or {}
    return {"runs": runs, "samples": {}}


def task(run: str, where: Path, world: int, strategy: str = "ddp", **more: Any) -> dict[str, Any]:
    steps = more.pop("steps", STEPS)
    part = {key: more.pop(key) for key in ("slice", "slices") if key in more}
    parallel = {"processes": world, "strategy": strategy, **more.pop("parallel", {})}
    return {"run": run, "where": str(where), "world": world, "sections": sections(run, steps, parallel, **more), **part}


def rows(where: Path, run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (where / run / "metrics.jsonl").read_text().splitlines()]


def check_same(found: list[dict[str, Any]], expected: list[dict[str, Any]], tolerance: float = 1e-5) -> None:
    assert [(row["samples"], row["split"]) for row in found] == [(row["samples"], row["split"]) for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        for name in wanted.keys() - {"samples", "split", "gradient_norm"}:
            assert row[name] == pytest.approx(wanted[name], rel=tolerance, abs=tolerance), (row["samples"], name)


# ---------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize(
    "draw", [lambda n, g: torch.rand(n, 3, generator=g), lambda n, g: torch.randn((n,), generator=g)]
)
@pytest.mark.parametrize("times", [1, 4])
def test_draws_of_the_parts_are_those_of_the_batch(draw, times):
    whole = draw(times * 12, torch.Generator().manual_seed(5))
    parts = []
    for first in range(0, 12, 3):
        generator = BatchGenerator.seeded(torch.device("cpu"), 5, 12, slice(first, first + 3))
        with drawing(generator):
            parts.append(draw(times * 3, generator))
    assert torch.equal(torch.cat(parts), whole)


def test_a_draw_for_the_batch_is_the_same_in_all_parts_and_levels_are_spread_over_it():
    generators = [BatchGenerator.seeded(torch.device("cpu"), 5, 8, slice(i, i + 2)) for i in range(0, 8, 2)]
    levels = []
    for generator in generators:
        with drawing(generator):
            levels.append(evenly(2, generator))
            size = torch.randint(0, 9, size=(2, 4), generator=generator)
            assert size.shape == (2, 4)
    assert torch.equal(torch.cat(levels), evenly(8, torch.Generator().manual_seed(5)))


def test_a_draw_that_belongs_to_no_shower_is_refused():
    generator = BatchGenerator.seeded(torch.device("cpu"), 5, 12, slice(0, 4))
    with drawing(generator), pytest.raises(ValueError, match=r"expected a multiple of the 4 showers.*got \(7,\); draw"):
        torch.rand(7, generator=generator)


@pytest.mark.parametrize("run", ["generator", "pixels", "representation", "energy"])
def test_losses_of_the_parts_average_to_that_of_the_batch(toy, tmp_path, run):
    request = toy.request(run, tmp_path)
    transforms = fitted_transforms(request)
    batch = training_loader(request, transforms).training_batch(0, 12)
    network = build_network(architecture_of(request, transforms), 1)
    loss = LOSSES[type(network)]
    expected = loss(network, batch, torch.Generator().manual_seed(3))
    found: dict[str, list[float]] = {}
    for first in range(0, 12, 4):
        generator = BatchGenerator.seeded(torch.device("cpu"), 3, 12, slice(first, first + 4))
        with drawing(generator):
            for name, value in loss(network, batch.take(slice(first, first + 4)), generator).items():
                found.setdefault(name, []).append(value.item())
    assert {name: np.mean(values) for name, values in found.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-5
    )


# ------------------------------------------------------------------------- one process, in pieces


def test_pieces_and_second_computations_give_the_same_training(toy, tmp_path):
    runs = {"plain": {}, "pieces": {"accumulate": 4}, "twice": {"recompute": True}}
    for name, parallel in runs.items():
        train(toy.request("generator", tmp_path / name, toy.config(**sections("generator", 10, parallel))))
    expected = rows(tmp_path / "plain", "generator")
    check_same(rows(tmp_path / "pieces", "generator"), expected)
    assert rows(tmp_path / "twice", "generator") == expected
    weights = [(tmp_path / name / "generator" / "model.safetensors").read_bytes() for name in ("plain", "twice")]
    assert weights[0] == weights[1]


def test_no_digest_knows_of_processes(toy, tmp_path):
    """A checkpoint of one piece is gone on from in two, and the model is of the same run."""
    manifests = []
    for parallel in ({}, {"accumulate": 2, "recompute": True}):
        train(toy.request("pixels", tmp_path, toy.config(**sections("pixels", 4, parallel, keep_checkpoints=3))))
        manifests.append(json.loads((tmp_path / "pixels" / "model.json").read_text()))
    assert manifests[0] == manifests[1]
    assert len(list((tmp_path / "pixels" / "checkpoints").iterdir())) == 1


def test_blocks_are_those_of_the_outermost_lists(toy, tmp_path):
    request = toy.request("generator", tmp_path)
    network = build_network(architecture_of(request, fitted_transforms(request)))
    assert [type(block).__name__ for block in blocks(network)] == ["ConditionedBlock", "_Residual"]
    names = list(network.state_dict())
    prepare_blocks(network, request.config.runs["generator"].training.parallel.model_copy(update={"recompute": True}))
    assert list(network.state_dict()) == names


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ConfigError, match=r"batch_size: expected a multiple of .*accumulate = 6, got 16"):
        load_config({**CONTENT, **sections("pixels", parallel={"processes": 3, "accumulate": 2})})


# ------------------------------------------------------------------------------- several processes


def test_two_processes_give_the_numbers_of_one(toy, tmp_path):
    train(toy.request("generator", tmp_path / "one", toy.config(**sections("generator", 10))))
    train_in_ranks(toy, [task("generator", tmp_path / "two", 2, steps=10)])
    check_same(rows(tmp_path / "two", "generator"), rows(tmp_path / "one", "generator"))
    one, two = (load_file(tmp_path / name / "generator" / "model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], rtol=1e-4, atol=1e-6) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "steps", "variants"),
    [
        ("generator", 50, [(2, "ddp", 1), (2, "fsdp", 1), (4, "ddp", 2), (4, "fsdp", 2)]),
        ("representation", 20, [(2, "ddp", 2), (2, "fsdp", 1)]),
    ],
)
def test_fifty_steps_of_any_number_of_processes_are_those_of_one(toy, tmp_path, run, steps, variants):
    train(toy.request(run, tmp_path / "1", toy.config(**sections(run, steps))))
    tasks = []
    for world, strategy, pieces in variants:
        parallel = {"accumulate": pieces, "recompute": pieces > 1}
        tasks.append(task(run, tmp_path / f"{world}{strategy}", world, strategy, steps=steps, parallel=parallel))
    train_in_ranks(toy, tasks)
    for world, strategy, _ in variants:
        check_same(rows(tmp_path / f"{world}{strategy}", run), rows(tmp_path / "1", run))


SHORT_LIVES = """
import functools, os, sys, torch
from torch import distributed, nn
from pipeline.training.distributed import ranks

join, rank = distributed.init_process_group, int(os.environ["RANK"])

def live():
    with ranks(torch.device("cpu")) as team:
        network = nn.parallel.DistributedDataParallel(nn.Linear(64, 64), gradient_as_bucket_view=True)
        network(torch.randn(8, 64)).sum().backward()
        return team.total([1.0])

for life in range(150):  # meeting over a file: a server would look up names for each
    file = f"file://{sys.argv[1]}/{life}"
    distributed.init_process_group = functools.partial(join, init_method=file, rank=rank, world_size=2)
    assert live() == [2.0]
"""


@pytest.mark.slow
def test_a_group_ends_however_soon_its_network_dies(tmp_path):
    common = os.environ | {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen([sys.executable, "-c", SHORT_LIVES, tmp_path], env=common | {"RANK": str(rank)})
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=120) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "before", "after"), [("ddp", 2, 1), ("fsdp", 2, 1), ("fsdp", 1, 2)])
def test_a_checkpoint_of_some_processes_is_gone_on_from_by_others(toy, tmp_path, strategy, before, after):
    whole = toy.request("generator", tmp_path / "whole", toy.config(**sections("generator", 20)))
    train(whole)
    for index, world in enumerate((before, after), 1):
        train_in_ranks(toy, [task("generator", tmp_path / "cut", world, strategy, steps=20, slice=index, slices=2)])
    check_same(rows(tmp_path / "cut", "generator"), rows(tmp_path / "whole", "generator"))


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "freeze"), [("ddp", "none"), ("fsdp", "encoder")])
def test_fine_tuning_leaves_parameters_unused_or_frozen(toy, tmp_path, strategy, freeze):
    for name, world in (("one", 1), ("two", 2)):
        content = task("energy", tmp_path / name, world, strategy, steps=10)
        content["sections"]["runs"]["energy"]["freeze"] = freeze
        parent = {"run": "representation", "where": content["where"], "world": 1, "sections": content["sections"]}
        train_in_ranks(toy, [parent, content])
    check_same(rows(tmp_path / "two", "energy"), rows(tmp_path / "one", "energy"))


# ----------------------------------------------------------------------------- work and checkpoints


def test_the_work_of_a_step_is_three_times_that_of_a_forward_pass(toy, tmp_path):
    request = toy.request("representation", tmp_path)
    transforms = fitted_transforms(request)
    network = build_network(architecture_of(request, transforms), 1)
    batch = next(training_loader(request, transforms).in_order(2, 2))
    spec = request.spec.training
    found = probe(copy.deepcopy(network), loss_of(spec), batch, torch.device("cpu"))
    width, mlp, tokens, visible, cells = 24, 72, 3, 1, 30
    block = 2 * (4 * width**2 + 2 * width * mlp)  # multiply-adds of a token, without attention
    by_hand = visible * (2 * cells * width + block + 4 * visible * width + 2 * width * 12)
    by_hand += tokens * (2 * (4 * 12**2 + 2 * 12 * 36) + 4 * tokens * 12 + 2 * 12 * cells)
    inputs = 2 * visible * cells * width  # nothing asks for the gradient of the showers
    assert found.flop_per_shower == pytest.approx(3 * by_hand - inputs, rel=0.02)
    assert not found.unused


def test_parameters_without_a_gradient_are_noticed(toy, tmp_path):
    request = toy.request("energy", tmp_path)
    transforms = fitted_transforms(request)
    network = build_network(architecture_of(request, transforms), 1)
    batch = next(training_loader(request, transforms).in_order(2, 2))
    assert probe(network, loss_of(request.spec.training), batch, torch.device("cpu")).unused  # the decoder


def test_as_many_checkpoints_as_asked_are_kept_and_a_changed_bit_is_seen(tmp_path, caplog):
    (tmp_path / f"{7:012d}.json").write_text("{}")  # its checkpoint never came
    with CheckpointWriter(tmp_path, keep=3) as writer:
        for samples in range(5):
            writer.save(samples, {"x": torch.full((1000,), float(samples))})
    paths = sorted(tmp_path.glob("*.pt"))
    assert [int(path.stem) for path in paths] == [2, 3, 4] and len(list(tmp_path.iterdir())) == 6
    content = bytearray(paths[-1].read_bytes())
    content[len(content) // 2] ^= 1
    paths[-1].write_bytes(content)
    samples, state = load_checkpoint(tmp_path, 10)
    assert samples == 3 and float(state["x"][0]) == 3.0
    assert "expected a checkpoint, found a damaged file" in caplog.text


def test_a_checkpoint_that_cannot_be_written_stops_the_training(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match="taken"), CheckpointWriter(tmp_path / "taken", keep=2) as writer:
        writer.save(1, {})


def test_what_dead_processes_left_half_written_is_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    half = temporary_name(tmp_path / "000000000016.pt")
    half = half.with_name(half.name.replace(f"-{os.getpid()}.", f"-{dead.pid}."))
    half.write_bytes(b"x")
    with CheckpointWriter(tmp_path, keep=2):
        assert not half.exists()
