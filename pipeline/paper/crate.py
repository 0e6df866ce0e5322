"""The metadata of a bundle as RO-Crate 1.1 (https://w3id.org/ro/crate/1.1): files, what made them, and from what.

In: a paper's record and the sizes of the bundle's members; out: the content of `ro-crate-metadata.json`. Each figure
is the result of a CreateAction of Caloforge, whose objects are the tables it was drawn from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

Record = dict[str, Any]
CONTEXT = "https://w3id.org/ro/crate/1.1/context"
SOFTWARE = "#caloforge"
_TYPES = {
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".csv": "text/csv",
    ".tex": "application/x-tex",
    ".yaml": "application/yaml",
    ".html": "text/html",
    ".md": "text/markdown",
}


def crate(record: Record, sizes: Mapping[str, int], date: str, licence: str | None = None) -> Record:
    """The metadata of the bundle's members `sizes` (bytes by path); date: ISO, licence: a URL."""
    root: Record = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Figures and tables of the experiment '{record['experiment']}'",
        "description": "Configuration, tables, figures, models and provenance of a calorimeter-shower study "
        "made with Caloforge; raw showers are named by their digests.",
        "datePublished": date,
        "hasPart": [{"@id": path} for path in sorted(sizes)],
        "mentions": [{"@id": f"#draw-{name}"} for name in record["figures"]],
    }
    if licence:
        root["license"] = {"@id": licence}
    descriptor = {
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        "about": {"@id": "./"},
    }
    software = {
        "@id": SOFTWARE,
        "@type": "SoftwareApplication",
        "name": "Caloforge",
        "version": record["code"]["version"],
        "identifier": record["code"]["digest"],
        "softwareRequirements": ", ".join(f"{name} {number}" for name, number in record["libraries"].items()),
    }
    files = [_file(path, size, record) for path, size in sorted(sizes.items())]
    return {"@context": CONTEXT, "@graph": [descriptor, root, software, *files, *_actions(record, sizes)]}


def _file(path: str, size: int, record: Record) -> Record:
    entry: Record = {"@id": path, "@type": "File", "name": PurePosixPath(path).name, "contentSize": str(size)}
    if kind := _TYPES.get(PurePosixPath(path).suffix):
        entry["encodingFormat"] = kind
    if digest := record["files"].get(path, {}).get("digest"):
        entry["identifier"] = f"blake3-128:{digest}"
    for figure in record["figures"].values():
        if path == figure["file"]:
            entry["description"] = figure["caption"]
    return entry


def _actions(record: Record, sizes: Mapping[str, int]) -> Iterator[Record]:
    for name, figure in record["figures"].items():
        yield {
            "@id": f"#draw-{name}",
            "@type": "CreateAction",
            "name": f"draw {name}",
            "description": figure["redraw"],
            "instrument": {"@id": SOFTWARE},
            "object": [{"@id": path} for path in sorted(figure["inputs"]) if path in sizes],
            "result": [{"@id": figure["file"]}],
        }
