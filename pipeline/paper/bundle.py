"""One file with all that a paper needs but the showers: it is verified and redrawn from on another machine.

In: a paper that verifies; out: a zip whose bytes depend on the paper and the given date only: members sorted, dated
1980, stored and not compressed (compressors differ between machines). Raw files, stores and large weights stay out;
`bundle.json` says which and why, and holds the digest of every member.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.paper.crate import crate
from pipeline.paper.verify import BUNDLE, leads_out, paper_of, verify
from pipeline.provenance import ProvenanceError, atomic_path, file_digest

Record = dict[str, Any]
_MB = 1_000_000
_EPOCH = (1980, 1, 1, 0, 0, 0)
README = """\
# The paper of experiment '{name}'

Made by Caloforge {version}. Unpack, install that version of Caloforge, and from this folder:

    caloforge verify results/{name}                   # does every file match its record?
    caloforge redraw results/{name} --figure FIGURE   # draw one figure again, and compare it

Figures, tables and HEPData lie in results/{name}/paper/, what each was made from stands in its figures.json.
"""


def bundle(results: Path, output: Path, date: str, largest_model_mb: float = 100, licence: str | None = None) -> Record:
    """Write the paper of `results/<experiment>` as a zip; returns what `bundle.json` holds.

    date: ISO date of publication, for the metadata. Raises ProvenanceError when the paper does not verify.
    """
    verdict = verify(results, data=False)
    if verdict.findings:
        raise ProvenanceError(f"{results}: expected a paper that verifies, got: {verdict.findings[0]}")
    root, record = paper_of(results)
    taken, left_out = _chosen(root, record, largest_model_mb)
    content = {
        "experiment": record["experiment"],
        "files": {path: file_digest(root / path) for path in taken},
        "left_out": left_out,
    }
    readme = README.format(name=record["experiment"], version=record["code"]["version"])
    sizes = {path: (root / path).stat().st_size for path in taken}
    texts = {BUNDLE: _json(content), "README.md": readme}
    texts["ro-crate-metadata.json"] = _json(
        crate(record, sizes | {name: len(text.encode()) for name, text in texts.items()}, date, licence)
    )
    with atomic_path(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted([*taken, *texts]):
            _add(archive, name, texts.get(name), root / name)
    return content


def _json(content: Any) -> str:
    return json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n"


def _add(archive: zipfile.ZipFile, name: str, text: str | None, path: Path) -> None:
    member = zipfile.ZipInfo(name, _EPOCH)
    member.external_attr, member.create_system = 0o644 << 16, 3
    if text is not None:
        archive.writestr(member, text)
        return
    member.file_size = path.stat().st_size
    with open(path, "rb") as source, archive.open(member, "w") as target:
        shutil.copyfileobj(source, target, _MB)


def _chosen(root: Path, record: Record, largest_model_mb: float) -> tuple[list[str], dict[str, str]]:
    """What goes in, and why the rest does not."""
    taken: set[str] = set()
    left_out: dict[str, str] = {}
    for path, entry in record["files"].items():
        if entry["kind"] == "data":
            left_out[path] = "showers"
        elif leads_out(path):
            left_out[path] = "outside of the folder that holds results/"
        elif entry["kind"] == "checkpoint" and (size := (root / path).stat().st_size) > largest_model_mb * _MB:
            left_out[path] = f"{size / _MB:.1f} MB, more than {largest_model_mb:g} MB"
        else:
            taken.add(path)
    taken |= {path.relative_to(root).as_posix() for path in _beside(root, record)}
    return sorted(taken), left_out


def _beside(root: Path, record: Record) -> Iterator[Path]:
    """What no digest of the record covers: the record itself, the report, what was measured."""
    results = root / "results" / record["experiment"]
    yield results / "paper" / "figures.json"
    if (results / "report.html").is_file():
        yield results / "report.html"
    yield from results.rglob("*.measured.*")
