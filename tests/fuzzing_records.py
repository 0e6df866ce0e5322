"""Records, models and binnings, spoilt: targets of `fuzzing.py`, refused by their readers or read to what is right."""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from fuzzing_draws import Draw, WrongAcceptance, at, mutated, sections
from hypothesis import strategies as st
from raw_files import BINNING, MESH, valid
from workflow_fixtures import REPOSITORY

from pipeline.config import ConfigError, load_config
from pipeline.data.formats import FormatError
from pipeline.data.formats.binning import read_binning
from pipeline.data.ingest import ingest
from pipeline.data.store import Part, StoreError
from pipeline.plan import LOCK_VERSION, PAPER_VERSION, Plan
from pipeline.provenance import ProvenanceError, code_digest, file_digest, read_json, write_json

SIZES = (1000, 10**5, 10**9, 2**31, 2**40, 2**62, 2**63, 10**30)
TOKENS: dict[str, Any] = {"patch": [2, 3, 5], "width": 6, "depth": 1, "heads": 2}
# family -> the network, and by role those that it is built on
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "masked_vit": ({"name": "masked_vit", **TOKENS, "decoder_width": 6}, {}),
    "diffusion": ({"name": "diffusion", **TOKENS, "layer_energies": {"width": 4, "depth": 1}}, {}),
    "autoregressive": (
        {"name": "autoregressive", "tokenizer": "codes", "width": 6, "depth": 1, "heads": 2, "layer_energies": None},
        {"tokenizer": {"name": "vqvae", **TOKENS, "given_layers": False, "codebook": {"kind": "learned", "codes": 4}}},
    ),
}
CONTENT: dict[str, Any] = yaml.safe_load((REPOSITORY / "config" / "test.yaml").read_text())


def told(error: Exception, *names: str) -> str:
    """`refused`, when the message names the file."""
    if not any(name in str(error) for name in names):
        raise WrongAcceptance(f"the message does not name the file: {error}") from None
    return "refused"


def manifest(folder: Path, draw: Draw) -> str:
    """The manifest of a part, spoilt: refused, or the part is read as before."""
    whole = folder / "whole.json"
    if not whole.exists():
        raw = valid("par04_events")
        ingest(raw.write(folder / "whole.h5"), whole, *raw.configured(folder), "siw", 1)
    spoilt = folder / "spoilt.json"
    if not spoilt.with_suffix(".zarr").exists():
        shutil.copytree(whole.with_suffix(".zarr"), spoilt.with_suffix(".zarr"))
    spoilt.write_bytes(mutated(whole.read_bytes(), draw))
    expected = Part.open(whole).read()
    try:
        found = Part.open(spoilt)
        showers, _ = found.read(), (found.digest, found.shower_hash, found.particle)
    except StoreError as error:
        return told(error, "spoilt.json")
    if not (np.array_equal(showers.energy, expected.energy) and np.array_equal(showers.cell, expected.cell)):
        raise WrongAcceptance("other showers")
    return "read"


def saved_plan(folder: Path, draw: Draw) -> str:
    """A saved plan, spoilt: refused, or read."""
    path = folder / "plan.json"
    write_json(path, {"config": CONTENT, "files": {"test_siw": {"test_siw_0001": ["data/raw/a.h5", "k"]}}})
    path.write_bytes(mutated(path.read_bytes(), draw))
    try:
        Plan.load(path)
    except (ConfigError, ProvenanceError) as error:
        return told(error, "plan.json")
    return "read"


def binning(folder: Path, draw: Draw) -> str:
    """The challenge's XML with bytes changed: refused, or read as layers that can be."""
    content = bytearray(BINNING.encode())
    for _ in range(draw(st.integers(1, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    path = folder / "binning.xml"
    path.write_bytes(content)
    try:
        _, layers = read_binning(path, "gamma")
    except FormatError as error:
        return told(error, "binning.xml")
    if not all(layer.n_voxels > 0 and layer.r_edges_mm[0] >= 0 for layer in layers):
        raise WrongAcceptance(f"{layers}")
    return "read"


class _Executed:
    """What a pickle may do when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch executed",))


def checkpoint(folder: Path, draw: Draw) -> str:
    """A resume checkpoint: a pickle that acts, cut, or with bytes changed; the sound one before it is taken instead."""
    import torch

    from pipeline.training.checkpoint import load_checkpoint

    warnings.simplefilter("ignore")
    torch.save({"samples": 8, "rows": "[]"}, folder / f"{8:012d}.pt")
    path = folder / f"{16:012d}.pt"
    how = draw(st.sampled_from(["pickle", "torch pickle", "cut", "bytes"]))
    if how == "pickle":
        path.write_bytes(pickle.dumps({"samples": _Executed()}, protocol=draw(st.integers(0, 5))))
    elif how == "torch pickle":
        torch.save({"samples": 16, "more": _Executed()}, path)
    else:
        torch.save({"samples": 16, "rows": "[]", "network": {"w": torch.ones(4)}}, path)
        content = bytearray(path.read_bytes())
        if how == "cut":
            content = content[: draw(st.integers(0, len(content) - 1))]
        else:
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        path.write_bytes(content)
    found = load_checkpoint(folder, 100)
    if Path("executed").exists():
        raise WrongAcceptance("a checkpoint was executed")
    if found is None or found[0] not in ((8, 16) if how == "bytes" else (8,)):
        raise WrongAcceptance(f"{how}: {found and found[0]}")
    return "refused" if found[0] == 8 else "read"


def model(folder: Path, draw: Draw) -> str:
    """A trained model with its manifest or its weights spoilt: refused, or the same weights."""
    import torch

    from pipeline.training.checkpoint import CheckpointError, load_model

    family = draw(st.sampled_from(list(MODELS)))
    whole, spoilt = folder / f"{family}.json", folder / "spoilt.json"
    if not whole.exists():
        save_small_model(whole, family)
    weights, record = whole.with_suffix(".safetensors").read_bytes(), read_json(whole)
    how = draw(st.sampled_from(["record", "architecture", "size", "weights", "weights and digest"]))
    if how == "architecture":
        place = draw(st.sampled_from(sections(record["architecture"])))
        at(record["architecture"], place[:-1])[place[-1]] = draw(
            st.sampled_from([None, -1, 0, 1, 7, 0.5, "x", "", [], {}, [1, 2], True])
        )
    elif how == "size":
        sizes = [p for p in sections(record) if p[0] in ("architecture", "transforms") and _is_number(at(record, p))]
        place = draw(st.sampled_from(sizes))
        at(record, place[:-1])[place[-1]] = draw(st.sampled_from(SIZES))
    elif how != "record":
        weights = _bytes_changed(weights, draw)
    spoilt.with_suffix(".safetensors").write_bytes(weights)
    if how == "weights and digest":
        record["weights_digest"] = file_digest(spoilt.with_suffix(".safetensors"))
    spoilt.write_text(json.dumps(record))
    if how == "record":
        spoilt.write_bytes(mutated(whole.read_bytes(), draw, ("architecture",)))
    try:
        with little_memory():
            found = load_model(spoilt)
    except CheckpointError as error:
        if re.search("can't allocate|Unable to allocate|bad_alloc|MemoryError", str(error)):
            raise WrongAcceptance(f"{family}, {how}: asked for much memory: {error}") from None
        return told(error, "spoilt.json", "spoilt.safetensors")
    expected = load_model(whole).network.state_dict()
    same = all(torch.equal(value, expected[name]) for name, value in found.network.state_dict().items())
    if how != "weights and digest" and not same:
        raise WrongAcceptance(f"{how}: other weights")
    return "read"


def _bytes_changed(content: bytes, draw: Draw) -> bytes:
    """Cut, or with one byte changed; small files mostly in their header."""
    if draw(st.booleans()):
        return content[: draw(st.integers(0, len(content) - 1))]
    changed = bytearray(content)
    changed[draw(st.integers(0, min(len(content), 400) - 1))] ^= draw(st.integers(1, 255))
    return bytes(changed)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@contextmanager
def little_memory() -> Iterator[None]:
    """One GiB more than there is in use: what asks for more fails with an error that says so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def save_small_model(manifest: Path, family: str) -> None:
    """An untrained model of a family of `MODELS`."""
    from pydantic import TypeAdapter

    from pipeline.config import RecipeSpec
    from pipeline.config.runs import Model
    from pipeline.data.transforms import Transform
    from pipeline.models import Architecture, build_network
    from pipeline.training.checkpoint import save_model

    def architecture(spec: dict[str, Any], **parents: Architecture) -> Architecture:
        model = TypeAdapter[Any](Model).validate_python(spec)
        return Architecture(model, None, MESH.shape, (("a", "SiW"),), ("SiW",), 0.015, parents)

    spec, built_on = MODELS[family]
    own = architecture(spec, **{role: architecture(parent) for role, parent in built_on.items()})
    recipe = Transform.from_recipe(RecipeSpec.model_validate(["log1p"]), MESH)
    save_model(manifest, build_network(own).state_dict(), own, {"a": recipe}, {"run": "ssl", "spec": {}, "lineage": {}})


def data_lock(folder: Path, draw: Draw) -> str:
    """The lock of an experiment, spoilt: refused, or the raw files that it locked."""
    raw, lock = folder / "raw", folder / "lock.json"
    raw.mkdir(exist_ok=True)
    for name in ("a", "b"):
        (raw / f"{name}.h5").write_bytes(name.encode())
    siw = {"format": "calochallenge", "files": str(raw / "*.h5"), "detector": "SiW"}
    content = {"experiment": "locked", "datasets": {"siw": siw}}
    free = Plan.discover(load_config(content)).files["siw"]
    parts = {part: {"path": file.path, "key": file.key, "digest": "0" * 32} for part, file in free.items()}
    write_json(lock, {"version": LOCK_VERSION, "experiment": "locked", "datasets": {"siw": parts}})
    lock.write_bytes(mutated(lock.read_bytes(), draw))
    try:
        found = Plan.discover(load_config({**content, "data_lock": str(lock)})).files["siw"]
    except (ConfigError, ProvenanceError) as error:
        return told(error, "lock.json")
    if any(free.get(part) != file for part, file in found.items()):
        raise WrongAcceptance(f"{found}")
    return "read"


def paper(folder: Path, draw: Draw) -> str:
    """The records of a bundle from somebody, spoilt: refused, told as a finding, or what its folder holds."""
    from pipeline.paper.verify import verify

    results, outside = folder / "bundle" / "results" / "toy", folder / "outside.json"
    (results / "paper").mkdir(parents=True, exist_ok=True)
    outside.write_text("[]")
    link = folder / "bundle" / "results" / "link"
    if not link.is_symlink():
        link.symlink_to(outside)
    record_file, bundle_file = results / "paper" / "figures.json", folder / "bundle" / "bundle.json"
    record, listed = _paper(folder / "bundle")
    how = draw(st.sampled_from(["record", "bundle", "path", "plan"]))
    ways_out = ("../outside.json", str(outside), "results/../../outside.json", "results/link", "/dev/zero", "/")
    way_out = draw(st.sampled_from(ways_out))
    if how == "path":
        kind, place = draw(st.sampled_from(["data", "record", "table"])), draw(st.sampled_from([record, listed]))
        digest = file_digest(outside)
        place["files"][way_out] = {"kind": kind, "digest": digest} if place is record else digest
    elif how == "plan":
        record["plan"] = way_out
    write_json(record_file, record)
    write_json(bundle_file, listed)
    if how in ("record", "bundle"):
        spoilt = record_file if how == "record" else bundle_file
        spoilt.write_bytes(mutated(spoilt.read_bytes(), draw))
    try:
        verdict = verify(results)
    except (ConfigError, ProvenanceError, OSError) as error:
        return told(error, "figures.json", "bundle.json", "plan.json", "lock.json", "name too long")
    if verdict.findings:
        return "refused"
    if how in ("path", "plan"):
        raise WrongAcceptance(f"{how}: {way_out}")
    return "read"


def _paper(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record of a small paper that stands, and the list of its bundle; the files are written."""
    plan, table, figure = (f"results/toy/{name}" for name in ("plan.json", "metrics.json", "paper/hits.pdf"))
    write_json(root / plan, {"config": CONTENT, "files": {}})
    write_json(root / table, [1, 2, 3])
    (root / figure).write_text("a figure")
    kinds = {plan: "record", table: "table", figure: "figure"}
    files = {path: {"kind": kind, "digest": file_digest(root / path)} for path, kind in kinds.items()}
    drawn = {"file": figure, "digest": files[figure]["digest"], "inputs": {table: files[table]["digest"]}}
    record = {
        "version": PAPER_VERSION,
        "experiment": "toy",
        "plan": plan,
        "configuration": Plan.load(root / plan).report_key(),
        "code": {"version": "1", "digest": _code()},
        "lock": None,
        "figures": {"hits": drawn},
        "files": files,
    }
    return record, {"files": {path: entry["digest"] for path, entry in files.items()}, "left_out": {}}


@cache
def _code() -> str:
    return code_digest()
