"""Samples of other numbers and energies: equal numbers, one spectrum, their own floor, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_evaluate import ToyPart, config, parts, toy_showers

from pipeline.calorimeter import RaggedShowers
from pipeline.data.stream import ShowerStream
from pipeline.evaluation.conditions import (
    ConditionsError,
    common_ground,
    copies,
    matched_rows,
    same_spectrum,
    sample_stream,
)
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.summary import collect, gather, summarise
from pipeline.provenance import read_json

__all__ = ["config", "parts"]


def stream(seed: int, n: int, low_mev: float = 1e3, high_mev: float = 4e3) -> ShowerStream:
    energies = np.random.default_rng(seed).uniform(low_mev, high_mev, n)
    return ShowerStream.of(toy_showers(seed, n, incident=energies))


def test_the_same_conditions_are_left_alone() -> None:
    reference, sample = stream(1, 50), stream(1, 50)
    ground = common_ground(reference, sample, "x")
    assert ground.reference is reference and ground.sample is sample and not ground.notes


@pytest.mark.parametrize(("n", "notes"), [(30, 1), (80, 0)])
def test_other_numbers_of_one_spectrum_become_equal(n, notes) -> None:
    ground = common_ground(stream(1, 50), stream(2, n), "x")
    assert len(ground.reference) == len(ground.sample) == min(n, 50)
    assert not ground.differs and len(ground.notes) == notes


def test_a_file_sorted_by_energy_is_drawn_from_as_a_whole() -> None:
    sample = stream(2, 2000)
    ordered = sample.take(np.argsort(sample.incident_energy))
    ground = common_ground(stream(1, 100), ordered, "x")
    assert not ground.differs and same_spectrum(stream(3, 500).incident_energy, ground.sample.incident_energy)


def test_other_spectra_are_brought_together() -> None:
    ground = common_ground(stream(1, 400), stream(2, 400, 2e3, 8e3), "x")
    ours, theirs = ground.reference.incident_energy, ground.sample.incident_energy
    assert ground.differs and len(ours) == len(theirs) > 100 and same_spectrum(ours, theirs)
    assert "2002 to 7999" in ground.notes[0] or "not spread as the reference's" in ground.notes[0]
    assert theirs.min() > 1900 and theirs.max() <= 4000.1


def test_fixed_energies_match_theirs() -> None:
    reference, sample = np.repeat([1e3, 2e3, 4e3], [10, 20, 30]), np.repeat([2e3, 4e3, 8e3], [25, 5, 50])
    first, second = matched_rows(reference, sample, 20)
    assert sorted(reference[first]) == sorted(sample[second]) == [2e3] * 20 + [4e3] * 5


def test_no_common_energies_are_refused() -> None:
    with pytest.raises(ConditionsError, match=r"peer: expected at least 20 showers at the reference's energies"):
        common_ground(stream(1, 50), stream(2, 50, 5e4, 6e4), "peer")


def test_copies_are_counted(parts) -> None:
    twice = RaggedShowers.concatenate([toy_showers(1, 5), toy_showers(1, 5)])
    ToyPart.known["twice"] = twice
    assert copies([ToyPart("twice")]) == ("5 of 10 showers are exact copies of others",)
    assert len(sample_stream([ToyPart("twice"), ToyPart("null")])) == 70


def test_a_smaller_sample_brings_its_own_floor(config, parts, tmp_path) -> None:
    ToyPart.known["good"] = replace(toy_showers(9, 40))
    for name in ("floor", "good"):
        evaluate(config, name, [], None if name == "floor" else ["good"], tmp_path / f"{name}.json")
    paths = [tmp_path / "floor.json", tmp_path / "good.json"]
    rows = collect(config, paths)
    own = {(r["observable"], r["metric"], r["selection"]): r for r in rows if r["sample"] == "floor_of_good"}
    mine = [r for r in rows if r["sample"] == "good" and r["selection"] == "all"]
    assert mine and all(r["n"] == 40 for r in mine)
    assert all(r["floor"] == own[r["observable"], r["metric"], r["selection"]]["value"] for r in mine)
    assert "floor_of_good" not in summarise(rows)["samples"]
    assert read_json(paths[1])["tables"]["notes"] == ["40 showers a side, as many as the sample has"]
    assert "good" in gather(config, paths)["evaluations"]
