"""Raw files that ingest refused, kept out and on record, so that an experiment goes on with the others.

With `on_bad_file: quarantine` the manifest of such a file is a refusal: the reason, no showers, no store. Preprocess
passes it on, and whoever reads parts takes the `accepted` ones. Everything below is made as if the file were not
there, to the byte. A replaced file has another fingerprint, hence another key, and is ingested again; to try the same
one again, delete the manifest. What failed for another reason than its content (a full disk, a killed process) is no
refusal.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import ConfigError
from pipeline.plan import Plan
from pipeline.provenance import ProvenanceError, fingerprint, read_json, write_json

REFUSED = "refused"
_REFUSED = f'"{REFUSED}"'.encode()


def write_refusal(manifest: Path, raw: Path, dataset: str, reason: str) -> None:
    """Put the raw file on record as refused, in place of a part. OSError when the file cannot be read at all."""
    source = {"name": raw.name, "size": raw.stat().st_size, "fingerprint": fingerprint(raw)}
    _write(manifest, {"dataset": dataset, "source": source, "reason": " ".join(reason.split())})


def pass_on(manifest_in: Path, manifest_out: Path) -> bool:
    """Write the refusal of a part as that of what is made from it; False, and nothing, where it is none."""
    content = _content(manifest_in)
    if content.get("kind") != REFUSED:
        return False
    _write(manifest_out, {key: content[key] for key in ("dataset", "source", "reason")})
    return True


def _write(manifest: Path, content: Mapping[str, Any]) -> None:
    """The record, after what an accepted file of that name left beside it."""
    manifest.unlink(missing_ok=True)
    shutil.rmtree(manifest.with_suffix(".zarr"), ignore_errors=True)
    manifest.with_suffix(".npz").unlink(missing_ok=True)
    write_json(manifest, {"kind": REFUSED, "n_showers": 0, **content})


def refusal(manifest: Path) -> str | None:
    """Why the raw file behind the manifest was refused; None when it was not."""
    try:
        if _REFUSED not in manifest.read_bytes():  # thousands are asked before each run, and nearly none is one
            return None
    except OSError:
        return None
    content = _content(manifest)
    return str(content["reason"]) if content.get("kind") == REFUSED else None


def accepted(manifests: Iterable[Path]) -> list[Path]:
    """The manifests without refusals; one that is missing is kept, for whoever needs it to complain."""
    return [path for path in manifests if refusal(path) is None]


def quarantined(plan: Plan) -> list[dict[str, str]]:
    """The plan's refused raw files: data set, path, reason and manifest, in the plan's order."""
    found = []
    for dataset in plan.files:
        for part in plan.parts(dataset):
            manifest = plan.paths.part(dataset, part)
            if (reason := refusal(manifest)) is not None:
                raw = plan.raw_file(dataset, part)
                found.append({"dataset": dataset, "path": raw, "reason": reason, "manifest": manifest.as_posix()})
    return found


def check_quarantine(plan: Plan) -> None:
    """Raise ConfigError when the plan wants no refused files and there are some from an earlier run."""
    if plan.config.on_bad_file == "quarantine" or not (found := quarantined(plan)):
        return
    lines = "".join(f"\n  {file['reason']}; or delete {file['manifest']} to try it again" for file in found)
    raise ConfigError(
        f"on_bad_file: expected no raw file in quarantine with 'stop', found {len(found)}; replace each, take it "
        f"out of `files:`, or set on_bad_file: quarantine{lines}"
    )


def _content(manifest: Path) -> dict[str, Any]:
    try:
        content = read_json(manifest)
    except (ProvenanceError, OSError):
        return {}
    return content if isinstance(content, dict) else {}
