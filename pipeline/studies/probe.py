"""The stage `probe`: errors of all heads on one encoder, or of the baselines, on every task and subset of labels.

In: a run of the study (or `baselines`), the fitted recipe, the parts of the labelled showers. Out: a JSON table, a row
per (task, labels, subset, arm) with point, seed and error (RMS of (predicted - true) / true on test showers). Features
are computed once for a task; hundreds of linear fits follow. A run pre-trained on true cells brings the random encoder
of its seed, and what is trained on labels alone; subset i of these belongs to the i-th seed, around. Of as many
labels as the pool has showers there is one subset, which every seed sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import Config
from pipeline.config.study import BASELINES, PRETRAINED, RANDOM, SCRATCH, WITH_CELL_SUM, ZERO_SHOT, StudySpec
from pipeline.data.store import Part
from pipeline.data.transforms import Transform
from pipeline.models import build_network
from pipeline.models.masked_vit import MaskedViT
from pipeline.provenance import read_json, write_json
from pipeline.studies.baselines import baseline_heads, log_visible_energy
from pipeline.studies.encoders import frozen_features, placed
from pipeline.studies.from_labels import train_from_labels
from pipeline.studies.linear import Fitted, linear_head
from pipeline.studies.pool import Array, Labelled, Pool, Rows
from pipeline.training.checkpoint import load_model
from pipeline.training.determinism import reproducible, seed_of

Row = dict[str, Any]


class StudyError(RuntimeError):
    """An encoder that a study cannot read."""


def probe(
    config: Config,
    subject: str,
    model: Path | None,
    transforms: Sequence[Path],
    parts: Sequence[Sequence[Path]],
    output: Path,
) -> None:
    """Write the table of `subject`: a run of the study, or its baselines (`model` None).

    transforms, parts: of the study's data set, and of that of zero-shot heads, where there are any.
    """
    study = config.study
    assert study is not None  # the rule's condition
    with reproducible(1, torch.device("cpu")):
        fitted = [Transform.from_state(read_json(path)) for path in transforms]
        labelled = [Labelled.read([Part.open(p) for p in own], config.splits, study) for own in parts]
        networks = [_networks(config, subject, model, data) if model else {} for data in study.labelled_data]
        rows: list[Row] = []
        for name, task in study.tasks.items():
            pool, *others = [Pool.of(a, t, task, seed_of(name)) for a, t in zip(labelled, fitted, strict=True)]
            if model is None:
                rows += _baseline_rows(study, name, pool)
            else:
                rows += _network_rows(study, subject, networks[0], name, pool)
                for there, other in zip(networks[1:], others, strict=True):
                    rows += _zero_shot_rows(study, subject, networks[0], name, pool, there, other)
    write_json(output, {"subject": subject, "rows": rows})


def _networks(config: Config, subject: str, model: Path, data: str) -> dict[str, MaskedViT]:
    """By arm, placed on a data set: the subject, and beside a pre-trained encoder the untrained one of its seed."""
    trained = load_model(model)
    assert config.study is not None
    _, arm, seed = config.study.encoders()[subject]
    networks = {arm: trained.network}
    if arm == PRETRAINED:
        networks[RANDOM] = build_network(trained.architecture, seed + 1000 * config.seed).eval()
    found = {}
    for name, network in networks.items():
        if not isinstance(network, MaskedViT):
            raise StudyError(f"{model}: expected a masked_vit without a head, got a {type(network).__name__}")
        found[name] = placed(replace(trained, network=network), config, data, config.runs[subject].recipe)
    return found


def _baseline_rows(study: StudySpec, task: str, pool: Pool) -> Iterator[Row]:
    heads = baseline_heads(pool)
    for arm in BASELINES:
        yield from _rows(study, task, pool, {"point": "", "arm": arm, "seed": None}, heads[arm])


def _network_rows(
    study: StudySpec, subject: str, networks: dict[str, MaskedViT], task: str, pool: Pool
) -> Iterator[Row]:
    point, own, seed = study.encoders()[subject]
    for arm, network in networks.items():
        tokens = frozen_features(network, pool)
        read = {arm: tokens, f"{arm}{WITH_CELL_SUM}": np.concatenate([tokens, log_visible_energy(pool)], axis=1)}
        for name, features in read.items():

            def head(rows: Rows, features: Array = features) -> Fitted:
                return linear_head(features, pool.incident_energy, rows, pool.validation_rows, pool.test_rows)

            yield from _rows(study, task, pool, {"point": point, "arm": name, "seed": seed}, head)
    if own == PRETRAINED and study.from_labels:
        yield from _trained_rows(study, task, pool, {"point": point, "seed": seed}, networks)


def _zero_shot_rows(
    study: StudySpec,
    subject: str,
    networks: dict[str, MaskedViT],
    task: str,
    pool: Pool,
    there: dict[str, MaskedViT],
    other: Pool,
) -> Iterator[Row]:
    """Heads fitted on the other data set's labels, on this one's test showers: the same at any number of labels.

    `networks` are told this data set's detector, `there` the other one's, where they are told any.
    """
    point, own, seed = study.encoders()[subject]
    if own != PRETRAINED or study.zero_shot is None:
        return
    features = np.concatenate([frozen_features(there[own], other), frozen_features(networks[own], pool)])
    energy = np.concatenate([other.incident_energy, pool.incident_energy])
    for index in range(study.subsets_of(study.zero_shot.labels)):
        rows = other.subset(study.zero_shot.labels, index, study.seed)
        found = linear_head(features, energy, rows, other.validation_rows, len(other) + pool.test_rows)
        what = {"point": point, "arm": ZERO_SHOT, "seed": seed, **asdict(found)}
        yield from ({"task": task, "labels": n, "subset": index, **what} for n in study.labels)


def _rows(study: StudySpec, task: str, pool: Pool, what: Row, head: Callable[[Rows], Fitted]) -> Iterator[Row]:
    """One row for each number of labels and subset."""
    for n in study.labels:
        for index in range(study.subsets_of(n)):
            found = head(pool.subset(n, index, study.seed))
            yield {"task": task, "labels": n, "subset": index, **what, **asdict(found)}


def _trained_rows(study: StudySpec, task: str, pool: Pool, what: Row, networks: dict[str, MaskedViT]) -> Iterator[Row]:
    """Rows of networks trained on labels: each seed takes its share of the subsets, all seeds the only one."""
    spec = study.from_labels
    assert spec is not None
    mine = study.seeds.index(what["seed"])
    for n in spec.labels:
        subsets = study.subsets_of(n)
        for index in range(mine, subsets, len(study.seeds)) if subsets > 1 else [0]:
            rows = pool.subset(n, index, study.seed)
            for arm in spec.arms:
                network = networks[RANDOM if arm == SCRATCH else PRETRAINED]
                found = train_from_labels(network, pool, rows, spec, seed_of(f"{study.seed} {what['seed']} {index}"))
                yield {"task": task, "labels": n, "subset": index, **what, "arm": arm, **asdict(found)}
