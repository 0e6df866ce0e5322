"""Malformed input for every reader, drawn by hypothesis: raw files, configuration, records, checkpoints, models.

`python tests/fuzzing.py [N [TARGET ...]]` tries N inputs (default 10,000), shared among the targets, prints what
became of them and puts it into benchmarks/results/fuzzing.json with the digest of the code; a target of which that many
are recorded of this code is not tried again. A target draws one input and says `refused` (by the
error of its reader, which names the file), `read` (to what is right), or fails: another exception is a traceback, and
something that must not be read a wrong acceptance. Bytes flipped at random in HDF5 are read in a process of their own:
`died` counts the times that the HDF5 library took it along.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from fuzzing_draws import ODD, Draw, WrongAcceptance, at, sections
from fuzzing_records import CONTENT, binning, checkpoint, data_lock, manifest, model, paper, saved_plan
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from raw_files import N, valid
from workflow_fixtures import REPOSITORY

from pipeline.config import ConfigError, load_config
from pipeline.data.formats import READERS, FormatError
from pipeline.data.ingest import ingest
from pipeline.data.store import Part
from pipeline.provenance import code_digest

RESULTS = REPOSITORY / "benchmarks" / "results" / "fuzzing.json"
LAYOUTS = sorted(READERS)
# --------------------------------------------------------------------------------------- raw files


def _values(raw: Any, key: str, draw: Draw) -> Any:
    """A value in a data set that cannot be."""
    values = np.array(raw.content[key])
    if values.dtype.kind == "f":
        bad = draw(st.sampled_from([np.nan, np.inf, -np.inf, -1e9, -1.0]))
        values.flat[draw(st.integers(0, values.size - 1))] = bad if key != "incident_phi" else np.nan
        return values
    values = values.astype("i8")
    values.flat[draw(st.integers(0, values.size - 1))] = draw(st.sampled_from([-1, 2**40, 2**62]))
    return values


def _shape(raw: Any, key: str, draw: Draw) -> Any:
    values = raw.content[key]
    shapes = [values.shape[1:], (*values.shape, 2), (*values.shape[:-1], values.shape[-1] + 1), (*values.shape, 0)]
    shape = draw(st.sampled_from(shapes))
    if shape in ((), (N, 1)):
        shape = (*values.shape, 3)
    if raw.layout == "par04" and shape[1:] == values.shape[1:]:
        shape = (*values.shape, 2)
    if raw.layout == "caloforge" and len(shape) == 1:
        shape = (*values.shape, 2)
    return np.resize(values, shape)


def _type(raw: Any, key: str, draw: Draw) -> Any:
    values = raw.content[key]
    kinds = [
        "c8",
        "S8",
        "bool",
        [("a", "f4")],
        [("a", "i4", (3,))],
        *(["u4", "f2"] if values.dtype.kind == "f" else ["f4"]),
    ]
    kind = draw(st.sampled_from(kinds))
    return np.zeros(values.shape, kind) if isinstance(kind, list) else np.ones(values.shape).astype(kind)


def _link(raw: Any, key: str, draw: Draw) -> Any:
    """Something that leads elsewhere: out of the file, to another place in it, or to nothing."""
    values, kind = (
        raw.content[key],
        draw(st.sampled_from(["external", "soft", "dangling", "virtual", "storage", "group"])),
    )

    def write(handle: h5py.File, name: str) -> None:
        folder = Path(handle.filename).parent
        with h5py.File(folder / "elsewhere.h5", "w") as other:
            other["values"] = values
        if kind == "external":
            handle[name] = h5py.ExternalLink(str(folder / "elsewhere.h5"), "values")
        elif kind == "soft":
            handle.create_group("beside")["values"] = values
            handle[name] = h5py.SoftLink("/beside/values")
        elif kind == "dangling":
            handle[name] = h5py.SoftLink("/nowhere")
        elif kind == "virtual":
            layout = h5py.VirtualLayout(values.shape, values.dtype)
            layout[...] = h5py.VirtualSource(str(folder / "elsewhere.h5"), "values", values.shape)
            handle.create_virtual_dataset(name, layout)
        elif kind == "storage":
            outside = [(str(folder / "elsewhere.h5"), 0, h5py.h5f.UNLIMITED)]
            handle.create_dataset(name, values.shape, values.dtype, external=outside)
        else:
            handle.create_group(name)

    return write


def _huge(raw: Any, key: str, draw: Draw) -> Any:
    """A shape that was never written, beyond all memory."""
    values, n = raw.content[key], draw(st.sampled_from([10**9, 10**12, 2**60]))

    def write(handle: h5py.File, name: str) -> None:
        chunk = (64, *values.shape[1:])
        handle.create_dataset(name, (n, *values.shape[1:]), values.dtype, chunks=chunk, maxshape=(None, *chunk[1:]))

    return write


SPOILING = (_values, _shape, _type, _link, _huge)


def raw_spoilt(folder: Path, draw: Draw) -> str:
    """A raw file in which one thing cannot be: it must be refused, and leave nothing behind."""
    raw = valid(draw(st.sampled_from(LAYOUTS)), draw(st.integers(0, 3)))
    how = draw(st.sampled_from([*SPOILING, "missing", "cut", "attribute"]))
    keys = [k for k in sorted(raw.content) if not (raw.layout == "caloforge" and k.startswith("incident_"))]
    key = draw(st.sampled_from(keys))
    path = folder / "raw.h5"
    if how == "missing":
        del raw.content[key]
        if raw.layout == "par04":
            raw.content["extra"] = np.zeros((1, *raw.mesh.shape), "f4")
    elif how == "attribute":
        name = draw(st.sampled_from(["sampling_fraction", "dr_mm", "detector", "particle", "unit", "cells"]))
        raw.attributes[name] = draw(st.sampled_from([-1.0, float("nan"), "nobody knows", [1, 2], 0.0]))
    elif how != "cut":
        raw.content[key] = how(raw, key, draw)
    raw.write(path)
    if how == "cut":
        content = path.read_bytes()
        path.write_bytes(content[: draw(st.integers(0, len(content) - 1))])
    return _refused(lambda: ingest(path, folder / "part.json", *raw.configured(folder), "siw", 1), folder, path)


def _refused(act: Callable[[], object], folder: Path, path: Path) -> str:
    try:
        act()
    except FormatError as error:
        if path.name not in str(error) and "binning.xml" not in str(error):
            raise WrongAcceptance(f"the message does not name the file: {error}") from None
        if left := [p.name for p in folder.iterdir() if "part" in p.name]:
            raise WrongAcceptance(f"left behind: {left}") from None
        return "refused"
    raise WrongAcceptance("a spoilt raw file became a part")


def raw_flipped(folder: Path, draw: Draw) -> str:
    """A raw file with bytes flipped at random, read by a child process: refused, or read to showers that can be."""
    raw = valid(draw(st.sampled_from(LAYOUTS)))
    path = raw.write(folder / "raw.h5", compression="gzip")
    content = bytearray(path.read_bytes())
    for _ in range(draw(st.integers(1, 8))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    path.write_bytes(content)
    configured = raw.configured(folder)
    return _in_child(lambda: _read_or_refused(path, folder / "part.json", configured))


def _read_or_refused(path: Path, manifest: Path, configured: Any) -> str:
    try:
        ingest(path, manifest, *configured, "siw", 1)
    except FormatError as error:
        return "refused" if path.name in str(error) else f"the message does not name the file: {error}"
    showers = Part.open(manifest).read()
    fine = np.isfinite(showers.energy).all() and (showers.energy > 0).all() and (showers.incident_energy > 0).all()
    return "read" if fine else "read to showers that cannot be"


def _in_child(act: Callable[[], str]) -> str:
    """The answer of the function in a fork with little memory and time; `died` when there is none."""
    import resource

    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(read)
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))  # a child that is stopped for a while is none that hangs
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        try:
            answer = act()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(write, answer.encode()[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    if answer not in ("read", "refused", ""):
        raise WrongAcceptance(answer)
    return answer or "died"


# ------------------------------------------------------------------------------------ configuration


PLACES = sections(CONTENT)
# names, and steps of recipes, are the keys of these: a new one is no unknown key
NAMED = {(), ("datasets",), ("preprocessing",), ("runs",), ("samples",), ("detectors",)}


def configuration_spoilt(folder: Path, draw: Draw) -> str:
    """A configuration with an unknown key, a section in a value's place, a foreign tag or broken text: refused."""
    content, how = copy.deepcopy(CONTENT), draw(st.sampled_from(["unknown", "section", "tag", "text", "nan"]))
    path = draw(st.sampled_from(PLACES))
    text = ""
    if how == "unknown":
        dictionaries = [p for p in [(), *PLACES] if isinstance(at(content, p), dict) and p not in NAMED - {()}]
        section = draw(st.sampled_from(dictionaries))
        at(content, section)["x" + draw(st.text("abcdefgh_", max_size=8))] = draw(ODD)
    elif how == "section":
        leaves = [p for p in PLACES if not isinstance(at(content, p), dict | list)]
        path = draw(st.sampled_from(leaves))
        at(content, path[:-1])[path[-1]] = {"a": draw(st.integers())}
    elif how == "nan":
        numbers = [
            p for p in PLACES if isinstance(at(content, p), int | float) and not isinstance(at(content, p), bool)
        ]
        path = draw(st.sampled_from(numbers))
        at(content, path[:-1])[path[-1]] = draw(st.sampled_from([float("nan"), float("inf"), "many", []]))
    elif how == "tag":
        at(content, path[:-1])[path[-1]] = "TAGGED"
        call = draw(
            st.sampled_from(["object/apply:os.system [touch executed]", "name:os.system", "module:os", "tuple [1]"])
        )
        text = yaml.safe_dump(content).replace("TAGGED", f"!!python/{call}")
    else:
        whole = yaml.safe_dump(content)
        cut = draw(st.integers(0, len(whole) - 1))
        text = (
            whole[:cut]
            + draw(st.sampled_from(["\x00", "{", "[", "\t- :", "&a *a", "'", "%YAML 9\n---"]))
            + whole[cut + 3 :]
        )
    file = folder / "experiment.yaml"
    file.write_text(text or yaml.safe_dump(content))
    try:
        load_config(file)
    except ConfigError as error:
        if "experiment.yaml" not in str(error):
            raise WrongAcceptance(f"the message does not name the file: {error}") from None
        return "refused"
    finally:
        if Path("executed").exists() or (folder / "executed").exists():
            raise WrongAcceptance("a tag was executed")
    if how in ("text", "tag"):  # three characters less may leave the same meaning, or fall into a name
        return "read"
    raise WrongAcceptance(f"{how} at {path}")


def configuration_odd(folder: Path, draw: Draw) -> str:
    """A configuration with odd values at some places: refused, or one that can be saved and read again."""
    content = copy.deepcopy(CONTENT)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(PLACES))
        try:
            at(content, path[:-1])[path[-1]] = draw(ODD)
        except (KeyError, IndexError, TypeError):  # its place went with an earlier one
            continue
    try:
        config = load_config(content)
    except ConfigError:
        return "refused"
    if load_config(config.model_dump(mode="json", exclude_unset=True)) != config:
        raise WrongAcceptance("read, but another one when saved")
    return "read"


TARGETS: dict[str, tuple[float, Callable[[Path, Draw], str]]] = {
    "raw file, one thing impossible": (0.4, raw_spoilt),
    "raw file, bytes changed": (0.1, raw_flipped),
    "configuration, wrong": (0.1, configuration_spoilt),
    "configuration, odd values": (0.15, configuration_odd),
    "manifest of a part": (0.1, manifest),
    "saved plan": (0.05, saved_plan),
    "binning XML": (0.05, binning),
    "checkpoint": (0.05, checkpoint),
    "model": (0.05, model),
    "data lock": (0.05, data_lock),
    "record of a paper": (0.05, paper),
}


def tried(name: str, n: int, derandomize: bool = False) -> Counter[str]:
    """What became of about n inputs; raises on the first wrong one, reduced to what matters."""
    outcomes: Counter[str] = Counter()
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="fuzzing-") as folder:
        os.chdir(folder)

        @seed(20250101)
        @settings(
            max_examples=n,
            deadline=None,
            database=None,
            derandomize=derandomize,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def one(data: Any) -> None:
            outcomes[TARGETS[name][1](Path(folder), data.draw)] += 1

        try:
            one()
        finally:
            os.chdir(before)
    return outcomes


def recorded() -> dict[str, dict[str, Any]]:
    """The rows that are recorded, by target."""
    return {row["target"]: row for row in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}


def record(name: str, outcomes: Counter[str], code: str) -> None:
    """Put a target's outcomes among the recorded ones."""
    ends = {end: outcomes[end] for end in ("refused", "read", "died")}
    stamp = {"code": code, "date": date.today().isoformat()}
    rows = {**recorded(), name: {"target": name, "inputs": sum(outcomes.values()), **ends, **stamp}}
    RESULTS.write_text(json.dumps([rows[target] for target in TARGETS if target in rows], indent=1) + "\n")


def main() -> int:
    """Try all targets, or those that are named, print, record; exit status 1 when one was wrong."""
    import logging

    logging.disable(logging.WARNING)
    os.fsync = lambda _: None  # type: ignore[assignment]
    n, chosen, wrong = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, sys.argv[2:] or list(TARGETS), 0
    code, known = code_digest()[:12], recorded()
    for name in chosen:
        started, wanted = time.monotonic(), round(TARGETS[name][0] * n) + 1
        if name in known and known[name].get("code") == code and known[name]["inputs"] >= wanted:
            continue
        try:
            outcomes = tried(name, wanted)
        except Exception as error:
            wrong += 1
            print(f"{name}: {type(error).__name__}: {error}")
            continue
        record(name, outcomes, code)
        print(f"{name:32} {dict(outcomes)}  {time.monotonic() - started:.0f} s", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
