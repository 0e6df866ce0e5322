"""Hostile input: nothing is executed, nothing outside is read, no memory filled; each is refused by the file's name.

Links, virtual data sets, external storage, object types, huge shapes and chunks that inflate are in `test_fuzz`; here
are the corpus and a share of what `fuzzing.py` draws, all of which `make study-reliability` tries.
"""

from __future__ import annotations

import pickle
import resource
from pathlib import Path

import pytest
from fuzzing import TARGETS, tried
from fuzzing_records import _Executed

from pipeline.config import ConfigError, load_config
from pipeline.data.formats import FormatError
from pipeline.data.formats.binning import read_binning
from pipeline.data.store import Part, StoreError
from pipeline.plan import Plan
from pipeline.provenance import ProvenanceError
from pipeline.training.checkpoint import CheckpointError, load_checkpoint, load_model

CORPUS = Path(__file__).parent / "corpus"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_hostile_configuration_is_refused(path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError, match=path.name):
        load_config(path)
    assert not Path("executed").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.xml")), ids=lambda path: path.stem)
def test_a_hostile_binning_is_refused(path: Path) -> None:
    with pytest.raises(FormatError, match=path.name):
        read_binning(path, "gamma")


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.json")), ids=lambda path: path.stem)
def test_a_hostile_record_is_refused(path: Path) -> None:
    with pytest.raises(StoreError, match=path.name):
        Part.open(path)
    with pytest.raises(ProvenanceError, match=path.name):
        Plan.load(path)
    with pytest.raises(CheckpointError, match=path.name):
        load_model(path)


def test_a_checkpoint_with_a_pickle_is_not_executed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / f"{8:012d}.pt").write_bytes(pickle.dumps(_Executed()))
    assert load_checkpoint(tmp_path, 100) is None
    assert "found a damaged file" in caplog.text and not Path("executed").exists()


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_drawn_is_refused_or_read_right(target: str) -> None:
    outcomes = tried(target, 25, derandomize=True)
    assert outcomes["refused"] >= 5
