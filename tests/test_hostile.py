"""Hostile input: nothing is executed, nothing outside is read, no memory filled; each is refused by the file's name.

Links, virtual data sets, external storage, object types, huge shapes and chunks that inflate are in `test_fuzz`; here
are the corpus and a share of what `fuzzing.py` draws, all of which `make study-reliability` tries.
"""

from __future__ import annotations

import pickle
import resource
from pathlib import Path
from typing import Any

import pytest
from fuzzing import TARGETS, tried
from fuzzing_draws import at
from fuzzing_records import _Executed, little_memory, save_small_model

from pipeline.config import ConfigError, load_config
from pipeline.data.formats import FormatError
from pipeline.data.formats.binning import read_binning
from pipeline.data.store import Part, StoreError
from pipeline.plan import Plan
from pipeline.provenance import ProvenanceError, read_json, write_json
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


@pytest.mark.parametrize(
    ("family", "place", "value", "message"),
    [
        (
            "masked_vit",
            "model.width",
            6 * 10**6,
            r"'embed.weight' of its shape in .*, \[6, 30\], found \[6000000, 30\]",
        ),
        (
            "masked_vit",
            "model.width",
            6 * 10**9,
            r"architecture: expected the sizes of a network, got Storage size",
        ),
        ("masked_vit", "model.depth", 10**9, r"architecture: expected a network of \d+ tensors, found one of more"),
        ("masked_vit", "model.mlp_ratio", 1e9, r"'encoder.0.perceptron.0.weight' .* found \[6000000000, 6\]"),
        ("masked_vit", "shape", [3000, 3000, 5000], r"positions and masks of the tokens of at most \d+ bytes, got"),
        ("diffusion", "shape", [200, 300, 500], r"'showers.empty' .* found \[1, 200, 300, 500\]"),
        (
            "diffusion",
            "model.layer_energies.width",
            10**6,
            r"'energies.conditions.mix.0.weight' .* found \[1000000, 43\]",
        ),
        ("diffusion", "model.layer_energies.depth", 10**9, r"a network of \d+ tensors, found one of more"),
        (
            "autoregressive",
            "parents.tokenizer.model.codebook.codes",
            10**9,
            r"'showers.frequency' .*, \[4, 4\], found \[4, 1000000000\]",
        ),
        ("autoregressive", "parents.tokenizer.model.grid", [200, 200, 200], "positions and masks of the tokens"),
    ],
)
def test_a_model_is_not_believed_about_its_size(family: str, place: str, value: Any, message: str) -> None:
    """Its record is compared with its weights before anything is built; what these do not tell is small."""
    manifest = Path("foreign.json")
    save_small_model(manifest, family)
    record = read_json(manifest)
    *path, key = place.split(".")
    at(record["architecture"], path)[key] = value
    write_json(manifest, record)
    expected = rf"foreign\.json: expected .*({message}).*delete it and train again"
    with little_memory(), pytest.raises(CheckpointError, match=expected):
        load_model(manifest)


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_drawn_is_refused_or_read_right(target: str) -> None:
    outcomes = tried(target, 25, derandomize=True)
    assert outcomes["refused"] >= 5
    if target in ("data lock", "record of a paper"):  # or their version here is an old one, and nothing else is tried
        assert outcomes["read"]
