"""Does a paper still stand? Every file behind it is read whole and held against what was recorded.

In: the folder `results/<experiment>` with its `paper/figures.json`, here or unpacked from a bundle; out: findings, each
with the file, what was recorded, what is there, and what to do. Nothing is changed. Paths in the record are relative
to the folder that holds `results/`; what a bundle left out is counted, not looked for. A bundle may come from anybody:
nothing outside its folder is opened for it, and a record that is none is refused.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import ConfigError
from pipeline.plan import PAPER_VERSION, Plan
from pipeline.provenance import ProvenanceError, code_digest, file_digest, read_json, tree_digest

BUNDLE = "bundle.json"
Record = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing that does not match: where, what was recorded, what is there, what to do."""

    path: str
    kind: str
    expected: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, found {self.found}; {self.remedy}"


@dataclass
class Verdict:
    """Findings, how many files of each kind match, how many were not looked at, and what is only worth knowing."""

    findings: list[Finding] = field(default_factory=list)
    matching: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def paper_of(results: Path) -> tuple[Path, Record]:
    """The folder that the record's paths are relative to, and the record; ProvenanceError when there is none."""
    results = Path(results).absolute()  # not resolved: results/ may be a link to another disk
    record = read_json(results / "paper" / "figures.json")
    if not isinstance(record, dict) or record.get("version") != PAPER_VERSION:
        found = record.get("version") if isinstance(record, dict) else "another file"
        raise ProvenanceError(
            f"{results / 'paper' / 'figures.json'}: expected a paper's record of version {PAPER_VERSION}, "
            f"found {found}; run `snakemake paper`, or verify with the version of Caloforge that made it"
        )
    return results.parent.parent, record


def verify(results: Path, data: bool = True) -> Verdict:
    """Hash all files behind the paper of `results/<experiment>`; `data` False leaves raw files and stores out.

    Raises ProvenanceError when there is no paper, or its record is damaged.
    """
    root, record = paper_of(results)
    with reading(results):
        return _verified(root, record, data)


@contextmanager
def reading(results: Path) -> Iterator[None]:
    """Turns what a damaged record of a paper leads to into one ProvenanceError that names it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ProvenanceError(
            f"{results / 'paper' / 'figures.json'}: expected a paper's record, found {' '.join(repr(error).split())}; "
            "run `snakemake paper`, or unpack the bundle again"
        ) from None


def _verified(root: Path, record: Record, data: bool) -> Verdict:
    is_bundle = (root / BUNDLE).is_file()
    bundle = read_json(root / BUNDLE) if is_bundle else {"files": {}, "left_out": {}}
    verdict = Verdict()
    for path, entry in record["files"].items():
        if path in bundle["left_out"] or (entry["kind"] == "data" and not data):
            verdict.skipped[entry["kind"]] += 1
            continue
        finding = _compare(root, path, entry, is_bundle)
        if finding is None:
            verdict.matching[entry["kind"]] += 1
        else:
            verdict.findings.append(finding)
    for path, digest in bundle["files"].items():
        if path not in record["files"]:
            finding = _compare(root, path, {"kind": "bundle", "digest": digest}, is_bundle)
            verdict.findings += [finding] if finding else []
            verdict.matching["bundle"] += finding is None
    verdict.findings += [*_stale(record), *_configuration(root, record, is_bundle), *_lock(root, record, is_bundle)]
    if (now := code_digest()) != record["code"]["digest"]:
        verdict.notes.append(
            f"made by Caloforge {record['code']['version']}, code {record['code']['digest']}; "
            f"this is code {now}: figures redrawn by it may differ"
        )
    return verdict


def leads_out(path: str) -> bool:
    """Whether a recorded path is not below the folder that it is relative to."""
    return Path(path).is_absolute() or ".." in Path(path).parts


def _is_outside(root: Path, path: str, is_bundle: bool) -> bool:
    """Whether a path leads out; of a bundle also through a link, which may be there of one's own purpose otherwise."""
    if not is_bundle or leads_out(path):
        return leads_out(path)
    return not Path(os.path.realpath(root / path)).is_relative_to(os.path.realpath(root))


def _compare(root: Path, path: str, entry: Mapping[str, Any], is_bundle: bool) -> Finding | None:
    place = root / path
    own_disk = not is_bundle and (place.is_file() or not place.exists())  # raw files may lie anywhere here
    if not own_disk and _is_outside(root, path, is_bundle):
        remedy = "trust nothing of it" if is_bundle else "run `snakemake paper`"
        return Finding(path, entry["kind"], "a file below the folder that holds results/", "a path out of it", remedy)
    if not place.exists():
        return Finding(path, entry["kind"], f"digest {entry['digest']}", "no file", _remedy(path, entry, gone=True))
    found = tree_digest(place) if place.is_dir() else file_digest(place)
    if found == entry["digest"]:
        return None
    return Finding(path, entry["kind"], f"digest {entry['digest']}", found, _remedy(path, entry, gone=False))


def _remedy(path: str, entry: Mapping[str, Any], gone: bool) -> str:
    again = "run `snakemake paper`"
    if "/paper/" in path:
        return "run `snakemake --forcerun paper -- paper`"
    if ".measured." in path and entry["kind"] != "bundle":
        return f"put it back, or draw what shows it again: {again[:-1]} --forcerun figures -- paper`"
    if entry["kind"] == "bundle":
        return "unpack the bundle again"
    if "delete" in entry and not (gone and entry["delete"] == path):
        return f"put it back, or delete {entry['delete']} and {again}"
    if entry["kind"] == "data" and not gone:
        return f"put it back, or accept what is there now: {again}"
    return f"put it back, or {again}" if gone else f"put it back, or delete it and {again}"


def _stale(record: Record) -> Iterator[Finding]:
    """Figures whose tables were made again after they were drawn."""
    for name, figure in record["figures"].items():
        for path, digest in figure["inputs"].items():
            now = record["files"][path]["digest"]
            if now != digest:
                remedy = "run `snakemake paper`"
                yield Finding(figure["file"], "figure", f"{path} of digest {digest} behind '{name}'", now, remedy)


def _configuration(root: Path, record: Record, is_bundle: bool) -> Iterator[Finding]:
    """Whether the configuration still means what it meant."""
    path = record["plan"]
    if _is_outside(root, path, is_bundle):
        yield Finding(
            path,
            "configuration",
            "a plan below the folder that holds results/",
            "a path out of it",
            "run `snakemake paper`",
        )
        return
    if not (root / path).is_file():
        return
    remedy = "put it back, or verify with the version of Caloforge that made the paper"
    try:
        found = Plan.load(root / path).report_key()
    except (ConfigError, ValueError) as error:
        found = " ".join(str(error).split())
    if found != record["configuration"]:
        yield Finding(path, "configuration", f"a configuration of digest {record['configuration']}", found, remedy)


def _lock(root: Path, record: Record, is_bundle: bool) -> Iterator[Finding]:
    """Whether the lock's raw files are the paper's."""
    if record["lock"] is None:
        return
    path = f"results/{record['experiment']}/paper/lock.json"
    if _is_outside(root, path, is_bundle) or not (root / path).is_file():
        return
    for parts in read_json(root / path)["datasets"].values():
        for raw in parts.values():
            known = record["files"].get(raw["path"], {}).get("digest")
            if known is not None and known != raw["digest"]:
                remedy = "freeze again and run `snakemake paper`"
                yield Finding(raw["path"], "data", f"digest {raw['digest']} as in the lock", known, remedy)
