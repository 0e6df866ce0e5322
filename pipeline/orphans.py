"""What lies below data/ and results/ that no configuration asks for any more.

In: the plans of all configurations that count. Out: orphans with the reason and the size of each. Raw files are never
among them, nor results of experiments whose configuration was not given; what a lock names is asked for. Nothing is
removed here but by `remove`, manifests first, so that a prune cut short leaves no manifest without its store.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.jobs import jobs
from pipeline.paths import PREPROCESSED, STORE
from pipeline.plan import Plan
from pipeline.provenance import is_leftover
from pipeline.survey import folder_bytes

_NAMED_STAGES = ("merge", "generate", "ingest", "predict", "evaluate", "examine", "probe", "figures")


@dataclass(frozen=True)
class Orphan:
    """Files and folders that belong together, and why nothing asks for them."""

    paths: tuple[Path, ...]
    reason: str

    @property
    def n_bytes(self) -> int:
        """What removing it sets free."""
        return sum(folder_bytes(path) for path in self.paths)

    def remove(self) -> None:
        """Remove it, manifests first."""
        for path in sorted(self.paths, key=lambda p: p.suffix != ".json"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def orphans(plans: Sequence[Plan]) -> list[Orphan]:
    """All orphans, by folder."""
    found = [*_of_store(plans), *_of_preprocessed(plans)]
    for plan in plans:
        found += [*_of_results(plan), *_checkpoints(plan), *_plans(plan)]
    tops = [STORE, PREPROCESSED, *(plan.paths.results for plan in plans)]
    taken = {path for orphan in found for path in orphan.paths}
    found += [
        Orphan((path,), "left behind by a process that is dead")
        for path in _leftovers(tops)
        if not any(parent in taken for parent in (path, *path.parents))
    ]
    return found


# --------------------------------------------------------------------------------- below data/


def _of_store(plans: Sequence[Plan]) -> Iterator[Orphan]:
    used: dict[Path, set[str]] = {}
    for plan in plans:
        for dataset in plan.files:
            used.setdefault(plan.paths.part(dataset, "x").parent, set()).update(plan.parts(dataset))
    for folder in _folders(STORE):
        if folder in used:
            yield from _parts(folder, used[folder])
        else:
            yield Orphan((folder,), "no configuration has such a data set, or reads it this way")


def _of_preprocessed(plans: Sequence[Plan]) -> Iterator[Orphan]:
    used: dict[Path, set[str]] = {}
    recipes = {plan.paths.recipe_folder(recipe) for plan in plans for recipe in plan.config.preprocessing}
    for plan in plans:
        for recipe in plan.config.preprocessing:
            for dataset in plan.config.datasets:
                folder = plan.paths.prefix(recipe, dataset, "x").parent
                used.setdefault(folder, set()).update(plan.parts(dataset))
    for recipe_folder in _folders(PREPROCESSED):
        if recipe_folder not in recipes:
            yield Orphan((recipe_folder,), "no configuration has this recipe")
            continue
        for folder in _folders(recipe_folder):
            if folder in used:
                yield from _parts(folder, used[folder])
            else:
                yield Orphan((folder,), "no configuration has such a data set, or reads it this way")


def _parts(folder: Path, used: set[str]) -> Iterator[Orphan]:
    """Parts without a raw file, and stores without a manifest."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and path.suffix in (".json", ".zarr", ".npz"):
            found.setdefault(path.stem, []).append(path)
    for part, paths in found.items():
        if part not in used:
            yield Orphan(tuple(paths), "its raw file is gone")
        elif not (folder / f"{part}.json").exists():
            yield Orphan(tuple(paths), "a store without its manifest: its job was killed")


# ------------------------------------------------------------------------------ below results/


def _of_results(plan: Plan) -> Iterator[Orphan]:
    """Files of runs, samples, subjects, figures and recipes that the configuration does not name any more."""
    results = plan.paths.results
    used = {_bare(job.output) for job in jobs(plan)}
    for stage in _NAMED_STAGES:
        found: dict[Path, list[Path]] = {}
        for path in sorted((results / stage).glob("*/*" if stage == "merge" else "*")):
            if not path.name.startswith("."):
                found.setdefault(_bare(path), []).append(path)
        for name, paths in found.items():
            if name not in used:
                yield Orphan(tuple(paths), f"the configuration '{plan.config.experiment}' does not name it any more")
    for folder in _folders(results / "train"):
        if folder.name not in plan.config.runs:
            yield Orphan((folder,), f"the configuration '{plan.config.experiment}' has no such run any more")


def _bare(path: Path) -> Path:
    return path.with_name(path.name.partition(".")[0])


def _checkpoints(plan: Plan) -> Iterator[Orphan]:
    """Resume checkpoints of all but the last training of each run."""
    for run in plan.config.runs:
        folders = sorted(_folders(plan.paths.run_folder(run) / "checkpoints"), key=_newest)
        for folder in folders[:-1]:
            yield Orphan((folder,), "checkpoints of an earlier training of this run")


def _newest(folder: Path) -> int:
    return max((path.stat().st_mtime_ns for path in folder.iterdir()), default=0)


def _plans(plan: Plan) -> Iterator[Orphan]:
    """Saved plans that nothing was made under: neither today's, nor one that a job, a figure or the paper names."""
    used = {plan.save().name} | {Path(job.measured().get("plan", "")).name for job in jobs(plan)}
    figures = sorted((plan.paths.results / "figures").glob("*.json"))
    records = "".join(path.read_text() for path in [*figures, plan.paths.paper] if path.is_file())
    for path in sorted((plan.paths.results / "plans").glob("*.json")):
        if path.name not in used and path.name not in records:
            yield Orphan((path,), "a plan that nothing lying here was made under")


def _leftovers(tops: Sequence[Path]) -> list[Path]:
    return sorted({path for top in tops for path in top.rglob(".*.tmp") if is_leftover(path)})


def _folders(top: Path) -> list[Path]:
    return sorted(path for path in top.iterdir() if path.is_dir()) if top.is_dir() else []


def other_results(plans: Sequence[Plan]) -> list[Path]:
    """Results of experiments that no plan speaks of; they are named and left alone."""
    mine = {plan.paths.results for plan in plans}
    return [folder for folder in _folders(Path("results")) if folder not in mine]
