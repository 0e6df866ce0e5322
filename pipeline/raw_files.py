"""The raw files of a data set: those that its patterns find, and those that the workflow simulates.

Each gets the name of its part and a key that changes when its content does, not when it is touched. Nothing is opened
but for the fingerprint of files that changed since the last look.
"""

from __future__ import annotations

import glob
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath

from pipeline.config import Config, ConfigError, DatasetSpec, digest_of
from pipeline.paths import Paths
from pipeline.provenance import FingerprintCache

_MAGIC = "*?["


@dataclass(frozen=True)
class RawFile:
    """A raw file of a data set; `key` changes when its content does, not when it is touched."""

    path: str
    key: str


def simulated_parts(dataset: str, spec: DatasetSpec) -> list[str]:
    """Names of the parts that the workflow simulates, in the order of their 1-based index."""
    return [f"{dataset}_{i:04d}" for i in range(1, spec.simulate.files + 1)] if spec.simulate else []


def simulate_key(config: Config, dataset: str, index: int) -> str:
    """All that shapes the index-th simulated file of a data set."""
    spec = config.datasets[dataset]
    assert spec.simulate is not None
    detector = config.detector(spec.detector).digest()
    return digest_of([spec.simulate.digest(exclude={"files"}), spec.detector, detector, index])


def find_raw_files(config: Config, dataset: str, cache: FingerprintCache) -> dict[str, RawFile]:
    """The data set's raw files by part; ConfigError when a pattern matches nothing or two files claim one part."""
    spec, paths = config.dataset(dataset), Paths(config)
    section = "datasets" if dataset in config.datasets else "samples"
    if spec.binning and not os.path.isfile(spec.binning):
        raise ConfigError(
            f"{section}.{dataset}.binning: expected the file {spec.binning}, found none; it comes with the "
            "challenge's code"
        )
    found: dict[str, RawFile] = {}
    for index, part in enumerate(simulated_parts(dataset, spec), 1):
        path = paths.raw(dataset, part)
        key = simulate_key(config, dataset, index)
        found[part] = RawFile(str(path), _own_or_replaced(path, paths.simulation_record(dataset, part), key, cache))
    own = {os.path.abspath(f.path) for f in found.values()}
    for pattern in spec.files:
        pattern = os.path.expanduser(pattern)
        matches = [p for p in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(p)]
        matches = matches[:1] if spec.first_file_only else matches
        if not matches and not found:
            by_hand = "correct the pattern or put the files there"
            remedy = f"run `caloforge download {dataset}`" if spec.download else by_hand
            raise ConfigError(
                f"{section}.{dataset}.files: expected files matching '{pattern}', found none "
                f"below {os.getcwd()}; {remedy}"
            )
        for match in matches:
            if os.path.abspath(match) in own or (spec.simulate and _simulated_before(match, cache)):
                continue
            part = part_name(pattern, match)
            if part in found:
                raise ConfigError(
                    f"{section}.{dataset}.files: expected one file for part '{part}', got "
                    f"{found[part].path} and {match}; rename one of them"
                )
            found[part] = RawFile(match, cache(match))
    return found


def _simulated_before(path: str, cache: FingerprintCache) -> bool:
    """Whether the workflow made the file for a configuration that asked for more files than this one."""
    record = f"{path}.json"
    try:
        return os.path.exists(record) and bool(json.loads(Path(record).read_text())["fingerprint"] == cache(path))
    except (OSError, ValueError, KeyError):
        return False


def _own_or_replaced(path: Path, record: Path, key: str, cache: FingerprintCache) -> str:
    """The simulation's key, unless somebody put another file in the place of the simulated one."""
    try:
        made = json.loads(record.read_text())["fingerprint"]
        actual = cache(path)
    except (OSError, ValueError, KeyError):
        return key
    return key if actual == made else actual


@lru_cache(maxsize=1024)
def fixed_folder(pattern: str) -> str:
    """The folder of a pattern in front of its first wildcard."""
    fixed = PurePath()
    for piece in PurePath(os.path.expanduser(pattern)).parts[:-1]:
        if any(c in piece for c in _MAGIC):
            break
        fixed /= piece
    return str(fixed)


def part_name(pattern: str, path: str) -> str:
    """The part's name: the path below the pattern's fixed folders, without its ending."""
    folder = fixed_folder(pattern)
    below = PurePath(path).relative_to(folder) if folder != "." else PurePath(path)
    name = "--".join(below.with_suffix("").parts).strip("/")
    return "".join(c if c.isascii() and (c.isalnum() or c in "._+-") else "_" for c in name)
