"""A trained generator's showers at exactly the held-out conditions, as a raw file.

In: a model, the reference data set's parts. Out: a CaloChallenge file of visible MeV on the network's mesh, at the
conditions of the held-out reference showers and in their order; milliseconds per shower go to `.measured.json`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.calorimeter import RaggedShowers
from pipeline.config import Config, SampleSpec, TrainingSpec
from pipeline.data.formats import write_calochallenge
from pipeline.data.store import Part, held_out
from pipeline.generation.model import CPU_BLOCK, GenerationError, GenerativeModel
from pipeline.models import ShowerNetwork
from pipeline.provenance import write_json
from pipeline.training.checkpoint import load_model
from pipeline.training.determinism import device_of, reproducible

log = logging.getLogger(__name__)
ALONE = 20


def generate(config: Config, sample_name: str, manifest: Path, parts: Sequence[Path], output: Path) -> None:
    """Write the showers of `samples.<sample_name>`."""
    spec = config.samples[sample_name]
    if not isinstance(spec, SampleSpec):
        raise GenerationError(f"samples.{sample_name}: expected a sample with the key run, got {type(spec).__name__}")
    if config.evaluation is None:
        raise GenerationError(
            f"samples.{sample_name}: expected an 'evaluation' section that names the conditions, got none"
        )
    trained, dataset = load_model(manifest), config.evaluation.reference
    training = TrainingSpec.model_validate(trained.manifest["spec"]["training"])
    device = device_of(training)
    model = GenerativeModel.of(trained, dataset, device)
    truth = held_out([Part.open(part) for part in parts], config.splits, "reference", config.evaluation.showers)
    started = time.monotonic(), time.process_time()
    with reproducible(training.threads, device):
        block = CPU_BLOCK if device.type == "cpu" else spec.batch_size
        write_calochallenge(
            output,
            model.blocks(truth, spec.seed, spec=spec, block=block),
            sampling_corrected=False,
            threshold_mev=model.transform.threshold_mev,
            sampling_fraction=config.detector(config.datasets[dataset].detector).sampling_fraction,
            attributes={"sample": sample_name, "run": spec.run, "weights_digest": trained.manifest["weights_digest"]},
        )
        seconds, cpu = time.monotonic() - started[0], time.process_time() - started[1]
        cost = {
            "device": str(device),
            "showers": len(truth),
            "ms_per_shower": 1000 * seconds / len(truth),
            "cpu_ms_per_shower": 1000 * cpu / len(truth),
            "cpu_ms_alone": alone_ms(model, truth, spec),
            "evaluations": evaluations(model, truth, spec),
        }
    write_json(output.with_suffix(".measured.json"), cost)
    log.info("%s: %d showers, %.2f ms each", sample_name, len(truth), cost["ms_per_shower"])


def alone_ms(model: GenerativeModel, truth: RaggedShowers, spec: SampleSpec) -> float:
    """CPU milliseconds of a shower that is made alone: the median of the first `ALONE`, after one to warm up."""
    spent = []
    for row in range(-1, min(ALONE, len(truth))):
        started = time.process_time()
        model.sample(truth.take(np.array([max(row, 0)])), spec.seed, spec=spec, block=1)
        spent.append(1000 * (time.process_time() - started))
    return float(np.median(spent[1:]))


def evaluations(model: GenerativeModel, truth: RaggedShowers, spec: SampleSpec) -> int:
    """How often the shower network, or one that it is built on, is called to make a shower."""
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    hooks = [m.register_forward_hook(count) for m in model.network.modules() if isinstance(m, ShowerNetwork)]
    model.sample(truth.take(np.array([0])), spec.seed, spec=spec, block=1)
    for hook in hooks:
        hook.remove()
    return calls
