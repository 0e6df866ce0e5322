"""The plan of an experiment: its configuration, the raw files found for it, and the key of each job.

The Snakefile discovers the plan once; every job of that run reads the same saved plan, so a file that
arrives while the run goes on waits for the next one. A job's key travels in the rule's `params`: it is a
digest of all that shapes the output and is no input file, and a change of it re-runs the job.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.config import BaselineSampleSpec, Config, ConfigError, FilesSampleSpec, SampleSpec, digest_of, load_config
from pipeline.config.study import SUBJECT_OF_BASELINES
from pipeline.paths import FINGERPRINTS, Paths
from pipeline.provenance import FingerprintCache, ProvenanceError, file_digest, read_json, write_json
from pipeline.raw_files import RawFile, find_raw_files, simulate_key, simulated_parts

LOCK_VERSION = 2
PAPER_VERSION = 2  # of `results/<experiment>/paper/`; bumped when what the stage writes changes


@dataclass(frozen=True)
class Plan:
    """An experiment with its raw files, as `files[dataset][part]`."""

    config: Config
    files: Mapping[str, Mapping[str, RawFile]]
    paths: Paths = field(init=False)
    _manifests: dict[str, list[Path]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", Paths(self.config))

    # ------------------------------------------------------------------------ find, save, load

    @classmethod
    def discover(cls, config: Config) -> Plan:
        """The plan for the raw files that exist now, or that the lock names, or that will be simulated.

        Raises ConfigError when a pattern matches nothing, two files claim one part, or a locked file changed.
        """
        cache = FingerprintCache(FINGERPRINTS)
        files = {name: find_raw_files(config, name, cache) for name in [*config.datasets, *config.file_samples()]}
        if config.data_lock:
            files = _locked(config, files)
        cache.save()
        return cls(config, files)

    def save(self) -> Path:
        """Write the plan under its own digest (never changed afterwards) and return the path.

        Keys stay in the order of the configuration, in which a study shows its points.
        """
        content = self._content()
        path = self.paths.results / "plans" / f"{digest_of(json.dumps(content))}.json"
        if not path.exists():
            write_json(path, content, sort_keys=False)
        return path

    def _content(self) -> dict[str, Any]:
        files = {d: {p: [f.path, f.key] for p, f in parts.items()} for d, parts in self.files.items()}
        return {"config": self.config.model_dump(mode="json", exclude_unset=True), "files": files}

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """A saved plan; ProvenanceError when it is none."""
        content = read_json(path)
        try:
            files = {d: {p: RawFile(*f) for p, f in parts.items()} for d, parts in content["files"].items()}
            return cls(Config.model_validate(content["config"]), files)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            found = " ".join(str(error).split())
            raise ProvenanceError(f"{path}: expected a saved plan, found: {found}; delete it and run again") from None

    @classmethod
    def of_workflow(cls, content: dict[str, Any]) -> Plan:
        """The plan of this Snakemake run: the one its first process saved, else a new one.

        Jobs find the plan in the environment (CALOFORGE_PLAN), as do the processes that Snakemake starts for
        single jobs on a cluster; and they find the `caloforge` beside this Python, activated or not.
        """
        config = load_config(content)
        folder = os.path.dirname(sys.executable)
        if os.environ.get("PATH", "").split(os.pathsep)[0] != folder:
            os.environ["PATH"] = folder + os.pathsep + os.environ.get("PATH", "")
        saved = os.environ.get("CALOFORGE_PLAN", "")
        if saved and Path(saved).exists():
            plan = cls.load(saved)
            if plan.config == config:
                return plan
        plan = cls.discover(config)
        os.environ["CALOFORGE_PLAN"] = str(plan.save())
        return plan

    # ------------------------------------------------------------------------------ what to do

    @cached_property
    def simulated(self) -> dict[str, tuple[str, int]]:
        """`<dataset>/<part>` of the files that the workflow makes, with data set and 1-based index.

        A file that somebody put in the place of a simulated one is not among them: no rule may overwrite it.
        """
        return {
            f"{dataset}/{part}": (dataset, index)
            for dataset in self.config.datasets
            for index, part in enumerate(simulated_parts(dataset, self.config.datasets[dataset]), 1)
            if part in self.files[dataset] and self.files[dataset][part].key == self.simulate_key(dataset, index)
        }

    def simulated_file(self, file: str) -> tuple[str, int]:
        """Data set and 1-based index of the simulated file `<dataset>/<part>`; ConfigError when it is none."""
        if file not in self.simulated:
            raise ConfigError(f"--file {file}: expected one of {sorted(self.simulated)}; see datasets.*.simulate")
        return self.simulated[file]

    def parts(self, dataset: str) -> list[str]:
        """Names of the data set's parts, sorted."""
        return sorted(self.files[dataset])

    def raw_file(self, dataset: str, part: str) -> str:
        """The raw file behind a part; ConfigError when there is none."""
        if part not in self.files.get(dataset, {}):
            raise ConfigError(
                f"{self.paths.part(dataset, part)}: expected a raw file of data set '{dataset}' "
                "behind it, found none; see datasets.*.files and samples.*.files"
            )
        return self.files[dataset][part].path

    def simulation_record(self, dataset: str, part: str) -> list[Path]:
        """The record beside a simulated raw file, none for a user's own.

        With it a part depends on its simulation by something that is not `ancient()`: Snakemake forgets what lies
        below a job that must run again when all that leads there is ancient.
        """
        simulated = f"{dataset}/{part}" in self.simulated
        return [self.paths.simulation_record(dataset, part)] if simulated else []

    def part_manifests(self, dataset: str) -> list[Path]:
        """Manifests of all ingested parts of a data set."""
        if dataset not in self._manifests:
            self._manifests[dataset] = [self.paths.part(dataset, part) for part in self.parts(dataset)]
        return self._manifests[dataset]

    def prefix_manifests(self, recipe: str, dataset: str) -> list[Path]:
        """Manifests of all preprocessed parts of a data set."""
        known = f"{recipe}/{dataset}"
        if known not in self._manifests:
            self._manifests[known] = [self.paths.prefix(recipe, dataset, part) for part in self.parts(dataset)]
        return self._manifests[known]

    def train_inputs(self, run: str, index: int | None = None) -> dict[str, Any]:
        """What a run, or its slice `index` (1-based; default: the last), is made from."""
        spec, paths = self.config.runs[run], self.paths
        index = spec.slices if index is None else index
        inputs: dict[str, Any] = {
            "parts": [m for d in spec.data for m in self.part_manifests(d)],
            "prefix": [m for d in spec.data for m in self.prefix_manifests(spec.recipe, d)],
            "transforms": [paths.transform(spec.recipe, d) for d in spec.data],
        }
        if spec.start_from:
            inputs["parent"] = paths.model(spec.start_from)
        inputs |= {role: paths.model(parent) for role, parent in self.config.model_of(run).parents.items()}
        if index > 1:
            inputs["previous"] = paths.slice(run, index - 1)
        return inputs

    def train_threads(self, run: str) -> int:
        """Threads of all processes of a run, as far as the configuration knows."""
        spec = self.config.runs[run].training
        return spec.threads * (1 if spec.parallel.processes == "gpus" else spec.parallel.processes)

    def sample_parts(self, sample: str) -> list[Path]:
        """Parts of a sample: one that is made here, or one for each of somebody's files."""
        files = isinstance(self.config.samples[sample], FilesSampleSpec)
        return self.part_manifests(sample) if files else [self.paths.sample_part(sample)]

    def generate_inputs(self, sample: str) -> dict[str, Any]:
        """What a sample is made from: the held-out showers' parts and, but for baselines, a model."""
        spec = self.config.samples.get(sample)
        inputs: dict[str, Any] = {"parts": self.reference_parts()}
        if isinstance(spec, SampleSpec):
            inputs["model"] = self.paths.model(spec.run)
        if isinstance(spec, BaselineSampleSpec) and spec.data:
            inputs["others"] = self.part_manifests(spec.data)
        return inputs

    def reference_parts(self) -> list[Path]:
        """Parts of the data set that everything is compared with."""
        return self.part_manifests(self.config.evaluation.reference) if self.config.evaluation else []

    def predict_inputs(self, run: str) -> dict[str, Any]:
        """What a head's predictions are made from."""
        parts = [manifest for dataset in self.config.predicted_data(run) for manifest in self.part_manifests(dataset)]
        return {"model": self.paths.model(run), "parts": parts}

    def evaluate_inputs(self, subject: str) -> dict[str, Any]:
        """What a sample, the floor or a head is evaluated from."""
        inputs: dict[str, Any] = {"parts": self.reference_parts()}
        if subject in self.config.samples:
            inputs["sample"] = self.sample_parts(subject)
        elif subject in self.config.runs:
            inputs["prediction"] = self.paths.prediction(subject)
        return inputs

    def examine_inputs(self, run: str) -> dict[str, Any]:
        """What a run is looked into with: its model, those before it and held-out showers of their data sets."""
        models, data = self.examine_models(run), self.examine_data(run)
        return {
            "models": [self.paths.model(name) for name in models],
            "parts": [manifest for name in data for manifest in self.part_manifests(name)],
        }

    def examine_models(self, run: str) -> list[str]:
        """The run, and those whose data sets it is asked about."""
        return list(dict.fromkeys([run, *self._old_data(run).values()]))

    def examine_data(self, run: str) -> list[str]:
        """Data sets whose held-out showers the run is shown."""
        shown = [self.config.shown_data(run)] if run in self.config.attended() else []
        return list(dict.fromkeys([*shown, *self._old_data(run)]))

    def _old_data(self, run: str) -> dict[str, str]:
        asked = self.config.evaluation is not None and self.config.evaluation.forgetting
        return self.config.old_data(run) if asked else {}

    def evaluations(self) -> list[Path]:
        """All files of metric rows and tables."""
        evaluated = [self.paths.evaluation(subject) for subject in self.subjects()]
        return evaluated + [self.paths.examination(run) for run in self.config.examined()]

    def tables(self) -> list[Path]:
        """All that figures are drawn from."""
        models = [self.paths.model(run) for run in self.config.runs]
        evaluations = self.evaluations()
        study = [self.paths.study] if self.has_study else []
        return [*models, *evaluations, *([self.paths.metrics] if evaluations else []), *study]

    @property
    def has_study(self) -> bool:
        """Whether the experiment ends in a study's page: of encoders, or of generators."""
        return bool(self.config.study or self.config.generator_study)

    def study_inputs(self) -> list[Path]:
        """What a study is judged from: tables of errors; or metric rows, and the models beside which losses lie."""
        if self.config.generator_study:
            return [self.paths.metrics, *(self.paths.model(run) for run in self.config.generator_study.trained())]
        return [self.paths.probe(encoder) for encoder in self.probed()]

    def probed(self) -> list[str]:
        """What a study reads: its encoders, and the baselines."""
        return [*self.config.study.encoders(), SUBJECT_OF_BASELINES] if self.config.study else []

    def probed_recipe(self, encoder: str) -> str:
        """The recipe that an encoder reads showers through; baselines take that of the encoder whose name is first."""
        study = self.config.study
        assert study is not None
        return self.config.runs[encoder if encoder in study.encoders() else min(study.encoders())].recipe

    def probe_inputs(self, encoder: str) -> dict[str, Any]:
        """What an encoder is probed with: labelled showers, its recipe fitted to them, and, but for baselines, it."""
        study = self.config.study
        assert study is not None
        recipe = self.probed_recipe(encoder)
        inputs: dict[str, Any] = {
            "parts": [manifest for data in study.labelled_data for manifest in self.part_manifests(data)],
            "transforms": [self.paths.transform(recipe, data) for data in study.labelled_data],
        }
        return inputs | ({"model": self.paths.model(encoder)} if encoder in study.encoders() else {})

    def subjects(self) -> list[str]:
        """What is evaluated: the Geant4 floor, known faults of it, every sample, every head.

        In the order of their names, as a saved plan has them: the order in the configuration shapes nothing.
        """
        if self.config.evaluation is None:
            return []
        faults = ["sensitivity"] if self.config.evaluation.sensitivity else []
        return ["floor", *faults, *sorted(self.config.samples), *sorted(self.config.head_runs())]

    def figures(self) -> list[str]:
        """The figures that this experiment can draw."""
        config = self.config
        study = ["study"] if self.has_study else []
        if config.evaluation is None:
            return [*study, *(f for f in config.figures.draw if f == "training_curves" and config.runs)]
        skip = set() if config.head_runs() else {"energy_prediction", "pulls"}
        skip |= set() if config.runs else {"training_curves"}
        skip |= set() if config.attended() else {"attention"}
        skip |= set() if any(self._old_data(run) for run in config.runs) else {"forgetting"}
        skip |= set() if config.samples else {"shower_images", "shower_unrolled", "shower_space", "average_showers"}
        return [*study, *(f for f in config.figures.draw if f not in skip and f != "study")]

    def targets(self) -> list[Path]:
        """The final files of the workflow."""
        models = [self.paths.model(run) for run in self.config.runs]
        if not models and self.config.evaluation is None:
            return [m for dataset in self.config.datasets for m in self.part_manifests(dataset)]
        study = [self.paths.study] if self.has_study else []
        return [*models, *study, *([self.paths.metrics] if self.config.evaluation else []), self.paths.report]

    # ------------------------------------------------------------------------------ keys of jobs

    def simulate_key(self, dataset: str, index: int) -> str:
        """All that shapes a simulated file."""
        return simulate_key(self.config, dataset, index)

    def ingest_key(self, dataset: str, part: str) -> str:
        """All that shapes a part: the raw file's content and how it is read."""
        binning = self.config.dataset(dataset).binning
        content = [self.paths.reading_keys[dataset], self.files[dataset][part].key]
        return digest_of(content + ([file_digest(binning)] if binning else []))

    def recipe_key(self, recipe: str) -> str:
        """All that shapes a preprocessed part, given the part."""
        return self.paths.recipe_keys[recipe]

    def run_key(self, run: str) -> str:
        """All that shapes a model, given its data and its parent; slices, processes and kept checkpoints do not."""
        spec = self.config.runs[run]
        detectors = [self.config.detector(self.config.datasets[d].detector).digest() for d in spec.data]
        return digest_of([spec.training_digest(), self.config.splits.digest(), self.config.seed, detectors])

    def conditions_key(self) -> str:
        """Which held-out showers are compared: the conditions of generation and prediction."""
        spec = self.config.evaluation
        assert spec is not None
        return digest_of([spec.reference, spec.showers, self.config.splits.digest()])

    def examine_key(self, run: str) -> str:
        """All that shapes a look into a run, given the models and the data."""
        attended = run in self.config.attended()
        shower = [self.config.shown_data(run), self.config.figures.attention_quantile] if attended else []
        return digest_of([self.conditions_key(), self.config.seed, shower, self._old_data(run)])

    def sample_key(self, sample: str) -> str:
        """All that shapes a sample, given the model and the data."""
        spec, evaluation = self.config.samples[sample], self.config.evaluation
        assert evaluation is not None
        known: list[Any] = [spec.digest(), self.conditions_key(), self.config.seed]
        if not isinstance(spec, SampleSpec):  # made on the evaluation's mesh, not on a network's
            mesh, name = self.config.raw_mesh(evaluation.reference), self.config.datasets[evaluation.reference].detector
            known += [evaluation.rebin, evaluation.threshold_mev, mesh.digest(), self.config.detector(name).digest()]
        return digest_of(known)

    def evaluation_key(self) -> str:
        """All that shapes an evaluation, given the samples and the data."""
        assert self.config.evaluation is not None
        spec = self.config.evaluation.digest(exclude={"sensitivity", "published", "forgetting"})
        return digest_of([spec, self.config.splits.digest(), self.config.seed])

    def probe_key(self, encoder: str) -> str:
        """All that shapes a table of errors, given the encoder, the recipe and the showers."""
        study = self.config.study
        assert study is not None
        place = study.encoders().get(encoder, ())
        return digest_of(
            [study.probe_content(), place, len(study.seeds), self.config.splits.digest(), self.config.seed]
        )

    def study_key(self) -> str:
        """All that shapes what a study says, given the tables of errors."""
        study, generators = self.config.study, self.config.generator_study
        if generators:
            return digest_of([generators.digest(), self.config.experiment])
        return digest_of([study.digest(), self.config.experiment, self.probed()]) if study else ""

    def figures_key(self) -> str:
        """All that shapes the figures, given the tables."""
        return self.config.figures.digest()

    def report_key(self) -> str:
        """All that shapes the report, given figures and metrics."""
        return self.config.digest(exclude={"data_lock", "compute", "cost", "on_bad_file"})

    def paper_key(self) -> str:
        """All that shapes the paper's folder, given figures and tables; the lock is copied into it."""
        lock = file_digest(self.config.data_lock) if self.config.data_lock else None
        return digest_of([PAPER_VERSION, self.report_key(), lock])

    def paper_inputs(self) -> dict[str, list[Path]]:
        """What the paper's folder is made from; more than that has to be there (`paper_record`)."""
        return {"figures": [self.paths.figure(figure) for figure in self.figures()], "tables": self.tables()}


# ---------------------------------------------------------------------------------- data lock


def _locked(config: Config, files: dict[str, dict[str, RawFile]]) -> dict[str, dict[str, RawFile]]:
    """Only the files that the lock names; ConfigError when one of them is gone or has other content."""
    assert config.data_lock is not None
    if not Path(config.data_lock).is_file():
        raise ConfigError(
            f"data_lock: expected the file {config.data_lock}, found none; "
            f"make it with `caloforge freeze {config.experiment}`"
        )
    content = read_json(config.data_lock)
    lock = content.get("datasets") if isinstance(content, dict) else None
    if not (isinstance(lock, dict) and all(isinstance(parts, dict) for parts in lock.values())):
        raise ConfigError(
            f"{config.data_lock}: expected a lock written by `caloforge freeze`, got other JSON; freeze again"
        )
    if content.get("version") != LOCK_VERSION:
        raise ConfigError(
            f"{config.data_lock}: version: expected {LOCK_VERSION}, found {content.get('version')!r}; freeze again"
        )
    kept: dict[str, dict[str, RawFile]] = {}
    for dataset, found in files.items():
        if dataset not in lock:
            raise ConfigError(f"{config.data_lock}: expected data set '{dataset}', found {sorted(lock)}; freeze again")
        for part, entry in lock[dataset].items():
            if not (isinstance(entry, dict) and {"path", "key"} <= set(entry)):
                raise ConfigError(
                    f"{config.data_lock}: expected path and key of {dataset}/{part}, got {entry!r}; freeze again"
                )
            if part not in found:
                raise ConfigError(
                    f"{config.data_lock}: expected raw file {entry['path']}, found none; put it back, or freeze again"
                )
            if found[part].key != entry["key"]:
                raise ConfigError(
                    f"{found[part].path}: expected the content that {config.data_lock} recorded "
                    f"(key {entry['key']}), got {found[part].key}; put it back, or freeze again"
                )
        kept[dataset] = {part: found[part] for part in lock[dataset]}
    return kept


def freeze(plan: Plan, output: Path) -> dict[str, Any]:
    """Write the lock of the plan's raw files: path, key and the full digest that ingest recorded.

    A refused file (see `quarantine`) is left out. Raises ProvenanceError when a part is not ingested yet.
    """
    datasets: dict[str, dict[str, Any]] = {}
    for dataset, parts in plan.files.items():
        sources = {part: read_json(plan.paths.part(dataset, part))["source"] for part in sorted(parts)}
        datasets[dataset] = {
            part: {"path": parts[part].path, "key": parts[part].key, "digest": source["digest"]}
            for part, source in sources.items()
            if "digest" in source
        }
    lock = {"version": LOCK_VERSION, "experiment": plan.config.experiment, "datasets": datasets}
    write_json(output, lock)
    return lock
