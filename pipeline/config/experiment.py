"""One experiment = one YAML file = one `Config`, validated as a whole before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from pipeline.config.autoencoders import AutoregressiveSpec, VQVAESpec
from pipeline.config.compute import ComputeSpec
from pipeline.config.cost import CostSpec
from pipeline.config.data import DatasetSpec, SplitSpec
from pipeline.config.detectors import BUILT_IN_DETECTORS, DetectorSpec, MeshSpec
from pipeline.config.evaluation import EvaluationSpec, FiguresSpec
from pipeline.config.generator_study import GeneratorStudy, GeneratorStudySpec
from pipeline.config.generators import DiffusionSpec, GeneratorSpec
from pipeline.config.pretraining import MaskedViTSpec
from pipeline.config.recipes import RecipeSpec
from pipeline.config.runs import Model, RunSpec
from pipeline.config.samples import BaselineSampleSpec, FilesSampleSpec, Sample, SampleSpec
from pipeline.config.spec import Spec, digest_of
from pipeline.config.study import LABEL, SUBJECT_OF_BASELINES, Study, StudySpec

RESERVED = ("reference", "floor", "sensitivity")
_WITH_ATTENTION = (MaskedViTSpec, DiffusionSpec)
NAME = r"^[A-Za-z0-9][A-Za-z0-9_]*$"


class ConfigError(ValueError):
    """The configuration is refused; the message lists every error with its key."""


class Config(Spec):
    """A whole experiment."""

    experiment: str = Field(pattern=NAME)
    seed: int = 1
    smoke: bool = Field(False, description="run the whole DAG with 64 showers and 20 steps")
    data_lock: str | None = Field(None, description="file written by `caloforge freeze`; newer files are ignored")
    on_bad_file: Literal["stop", "quarantine"] = Field(
        "stop",
        description="a raw file that is refused fails its job and all that needs it, or is put on record and left out",
    )
    detectors: dict[str, DetectorSpec] = {}
    datasets: dict[str, DatasetSpec] = Field(min_length=1)
    splits: SplitSpec = SplitSpec()
    preprocessing: dict[str, RecipeSpec] = {}
    runs: dict[str, RunSpec] = {}
    samples: dict[str, Sample] = {}
    evaluation: EvaluationSpec | None = None
    figures: FiguresSpec = FiguresSpec()
    study: Study = None
    generator_study: GeneratorStudy = None
    compute: ComputeSpec = ComputeSpec()
    cost: CostSpec = CostSpec()

    def digest(self, exclude: set[str] | None = None) -> str:
        """Of the content; a section that was added later and is left out moves nothing."""
        return super().digest((exclude or set()) | (set() if self.generator_study else {"generator_study"}))

    # ------------------------------------------------------------------------------- look-ups

    def detector(self, name: str) -> DetectorSpec:
        """The detector of that name: the configuration's, else a built-in one."""
        return self.detectors.get(name) or BUILT_IN_DETECTORS[name]

    def raw_mesh(self, dataset: str) -> MeshSpec:
        """The mesh on which the data set's raw showers are stored."""
        spec = self.dataset(dataset)
        simulated = spec.simulate.mesh if spec.simulate else None
        return spec.mesh or simulated or self.detector(spec.detector).mesh

    def dataset(self, name: str) -> DatasetSpec:
        """The data set of that name, or a sample's own files as one; what these leave out is the reference's."""
        if name in self.datasets:
            return self.datasets[name]
        sample = self.samples[name]
        assert isinstance(sample, FilesSampleSpec) and self.evaluation is not None  # guaranteed by validation
        reference = self.datasets[self.evaluation.reference]
        inherited = {"detector": reference.detector, "mesh": self.raw_mesh(self.evaluation.reference)}
        angle = reference.angle_deg or (reference.simulate.angle_deg if reference.simulate else None)
        inherited |= {"angle_deg": angle} if angle else {}
        inherited |= {"particle": reference.particle} if "particle" in reference.model_fields_set else {}
        return DatasetSpec.model_validate({**inherited, **sample.model_dump(exclude_unset=True)})

    def particle(self, dataset: str) -> str:
        """What the data set's showers are of: as simulated, else as its files are said to be."""
        spec = self.dataset(dataset)
        return spec.simulate.particle if spec.simulate else spec.particle

    def file_samples(self) -> list[str]:
        """Samples that are somebody's raw files: ingested as data sets are."""
        return [name for name, sample in self.samples.items() if isinstance(sample, FilesSampleSpec)]

    def reading_key(self, dataset: str) -> str:
        """Digest of how a data set's raw files are read: with a file's content it is all that shapes a part."""
        spec = self.dataset(dataset)
        detector = self.detector(spec.detector)
        return digest_of([spec.reading_digest(), self.raw_mesh(dataset).digest(), detector.digest()])

    def lineage(self, run: str) -> list[str]:
        """The run and the runs that it starts from, youngest first."""
        chain = [run]
        while (parent := self.runs[chain[-1]].start_from) is not None:
            chain.append(parent)
        return chain

    def model_of(self, run: str) -> Model:
        """The network of a run, inherited through `start_from`."""
        model = next((self.runs[r].model for r in self.lineage(run) if self.runs[r].model), None)
        assert model is not None  # guaranteed by validation
        return model

    def needed_by(self, run: str) -> list[str]:
        """The runs that must be trained before: the one it continues, and those its network is built on."""
        start = self.runs[run].start_from
        return [*([start] if start else []), *self.model_of(run).parents.values()]

    def generation_of(self, run: str) -> int:
        """How many runs lie behind a run, along the longest way."""
        return max((1 + self.generation_of(parent) for parent in self.needed_by(run)), default=0)

    def replayed(self, run: str) -> list[str]:
        """Data sets of a run with `replay` that a run before it was trained on."""
        spec, before = self.runs[run], {d for r in self.lineage(run)[1:] for d in self.runs[r].data}
        return [d for d in spec.data if d in before] if spec.replay else []

    def head_runs(self) -> list[str]:
        """Runs that predict a label."""
        return [name for name, run in self.runs.items() if run.head]

    def attended(self) -> list[str]:
        """Runs whose attention is looked at: of masked ViTs without a head, and of diffusions."""
        if self.evaluation is None or "attention" not in self.figures.draw:
            return []
        return [n for n, r in self.runs.items() if not r.head and isinstance(self.model_of(n), _WITH_ATTENTION)]

    def shown_data(self, run: str) -> str:
        """The data set whose held-out showers a run is shown: the evaluation's, else its first."""
        data, reference = self.runs[run].data, self.evaluation.reference if self.evaluation else ""
        return reference if reference in data else data[0]

    def old_data(self, run: str) -> dict[str, str]:
        """Data sets that runs before were trained on, replayed ones among them, and which run that was, the nearest.

        Only runs of the same network and head are asked, down to the first that changed its patches.
        """
        own, found = set(self.runs[run].data) - set(self.replayed(run)), dict[str, str]()
        for child, parent in pairwise(self.lineage(run)):
            head = self.runs[child].head
            if self.runs[parent].head != head or (head and head.predict in ("particle", "detector")):
                break
            if self.runs[child].adapt.patch_embedder != "keep":
                break
            for dataset in self.runs[parent].data:
                if dataset not in own:
                    found.setdefault(dataset, parent)
        return found

    def examined(self) -> list[str]:
        """Runs that are looked into: for their attention, or for what they forgot."""
        attended, asked = self.attended(), self.evaluation is not None and self.evaluation.forgetting
        return [run for run in self.runs if run in attended or (asked and self.old_data(run))]

    def predicted_data(self, run: str) -> list[str]:
        """Data sets whose held-out showers a head predicts: the reference, or all it tells apart."""
        head = self.runs[run].head
        if head and head.predict in ("particle", "detector"):
            return list(self.runs[run].data)
        return [self.evaluation.reference] if self.evaluation else []

    # ------------------------------------------------------------------------------ validation

    @model_validator(mode="before")
    @classmethod
    def _with_runs_of_study(cls, content: Any) -> Any:
        """The runs and samples that studies write, beside those given; one of the same name is kept as it is given."""
        if not isinstance(content, dict):
            return content
        runs, samples = dict[str, Any](), dict[str, Any]()
        try:
            if content.get("study"):
                runs |= StudySpec.model_validate(content["study"]).runs()
            if content.get("generator_study"):
                generators = GeneratorStudySpec.model_validate(content["generator_study"])
                runs, samples = {**runs, **generators.runs()}, generators.samples()
        except ValidationError:
            return content  # told, with its key, when the field itself is read
        written = {"runs": runs, "samples": samples}
        return {**content, **{key: {**own, **(content.get(key) or {})} for key, own in written.items() if own}}

    @model_validator(mode="after")
    def _whole(self) -> Config:
        errors = [*self._names(), *self._references()]
        if not errors:
            errors = [*self._run_errors(), *self._sample_errors(), *self._study_errors()]
            errors += self._generator_study_errors()
        if errors:
            raise ValueError("\n".join(errors))
        return self

    def _names(self) -> list[str]:
        import re

        groups: dict[str, dict[str, Any]] = {
            "datasets": self.datasets,
            "preprocessing": self.preprocessing,
            "runs": self.runs,
            "samples": self.samples,
        }
        return (
            [
                f"{group}.{name}: expected a name of letters, digits and _, got '{name}'"
                for group, members in groups.items()
                for name in members
                if not re.match(NAME, name)
            ]
            + [
                f"samples.{name}: the name is taken by the evaluation or a head; choose another"
                for name in self.samples
                if name in (*RESERVED, *self.head_runs()) or name.startswith(("floor_of_", "fault_"))
            ]
            + [
                f"samples.{name}: the name is taken by a data set; choose another"
                for name in self.samples
                if name in self.datasets
            ]
            + [
                f"runs.{name}: the name is taken by the evaluation; choose another"
                for name in self.head_runs()
                if name in RESERVED
            ]
        )

    def _references(self) -> list[str]:
        errors = []
        known = sorted({*self.detectors, *BUILT_IN_DETECTORS})
        for name, dataset in self.datasets.items():
            if dataset.detector not in known:
                errors.append(_unknown(f"datasets.{name}.detector", dataset.detector, known))
            if not dataset.files and dataset.simulate is None:
                errors.append(f"datasets.{name}: expected 'files' or 'simulate', got neither; name the raw files")
            if dataset.simulate and dataset.simulate.layout != dataset.format:
                errors.append(
                    f"datasets.{name}.simulate.layout: expected '{dataset.format}' as in 'format', "
                    f"got '{dataset.simulate.layout}'"
                )
        for name, run in self.runs.items():
            if run.recipe not in self.preprocessing:
                errors.append(_unknown(f"runs.{name}.recipe", run.recipe, self.preprocessing))
            errors += [_unknown(f"runs.{name}.data", d, self.datasets) for d in run.data if d not in self.datasets]
            if run.start_from is None and run.model is None:
                errors.append(f"runs.{name}: expected 'model' or 'start_from', got neither")
            if run.start_from is not None and run.start_from not in self.runs:
                errors.append(_unknown(f"runs.{name}.start_from", run.start_from, self.runs))
            elif self._cycle(name, lambda of: [self.runs[of].start_from] if of in self.runs else []):
                errors.append(f"runs.{name}.start_from: expected a chain that ends, got a circle")
            for role, parent in (run.model.parents if run.model else {}).items():
                if parent not in self.runs:
                    errors.append(_unknown(f"runs.{name}.model.{role}", parent, self.runs))
        for name, sample in self.samples.items():
            if isinstance(sample, FilesSampleSpec) and not sample.files:
                errors.append(f"samples.{name}.files: expected a pattern of raw files, got none")
            if isinstance(sample, FilesSampleSpec) and sample.detector not in ("", *known):
                errors.append(_unknown(f"samples.{name}.detector", sample.detector, known))
            if isinstance(sample, BaselineSampleSpec) and sample.data and sample.data not in self.datasets:
                errors.append(_unknown(f"samples.{name}.data", sample.data, self.datasets))
            if isinstance(sample, SampleSpec) and sample.run not in self.runs:
                errors.append(_unknown(f"samples.{name}.run", sample.run, self.runs))
        drawn = self.figures.samples
        errors += [_unknown("figures.samples", n, self.samples) for n in drawn if n not in self.samples]
        if self.evaluation and self.evaluation.reference not in self.datasets:
            errors.append(_unknown("evaluation.reference", self.evaluation.reference, self.datasets))
        if self.study:
            keys = zip(("study.data", "study.zero_shot.data"), self.study.labelled_data, strict=False)
            errors += [_unknown(key, name, self.datasets) for key, name in keys if name not in self.datasets]
        if self.study and self.generator_study:
            errors.append("generator_study: expected one study in an experiment, got 'study' as well; make two")
        if self.generator_study:
            named = {"old": self.generator_study.old, "new": self.generator_study.new}
            errors += [
                _unknown(f"generator_study.{key}", name, self.datasets)
                for key, name in named.items()
                if name not in self.datasets
            ]
        if SUBJECT_OF_BASELINES in self.runs and self.study:
            errors.append(f"runs.{SUBJECT_OF_BASELINES}: the name is taken by the study; choose another")
        if self.samples and not self.evaluation:
            errors.append("samples: expected an 'evaluation' section that names the conditions, got none")
        return errors

    def _cycle(self, run: str, parents: Callable[[str], Sequence[str | None]]) -> bool:
        """Whether the way from a run to its parents, and on to theirs, leads back to it."""
        seen: set[str] = set()
        ahead = [parent for parent in parents(run) if parent]
        while ahead:
            current = ahead.pop()
            if current == run:
                return True
            if current not in seen:
                seen.add(current)
                ahead += [parent for parent in parents(current) if parent]
        return False

    def _run_errors(self) -> list[str]:
        errors = []
        for name, run in self.runs.items():
            if self._cycle(name, self.needed_by):
                errors.append(f"runs.{name}.model: expected parents that do not need the run itself, got a circle")
                continue
            meshes = set()
            for dataset in run.data:
                try:
                    meshes.add(self.preprocessing[run.recipe].mesh_after(self.raw_mesh(dataset)).cells)
                except ValueError as error:
                    errors.append(f"runs.{name}: recipe '{run.recipe}' on data set '{dataset}': {error}")
                augment = run.training.augment
                spec = self.datasets[dataset]
                angle = spec.angle_deg or (spec.simulate.angle_deg if spec.simulate else None)
                if augment.rotate_phi and angle != 90:
                    errors.append(
                        f"runs.{name}.training.augment.rotate_phi: expected data at 90 degrees, got "
                        f"'{dataset}' at {angle}; rotation is exact at 90 degrees only"
                    )
            if len(meshes) > 1:
                errors.append(f"runs.{name}: expected one mesh behind recipe '{run.recipe}', got {sorted(meshes)}")
            model = self.model_of(name)
            for cells in meshes:
                wrong = model.errors_on(cells)
                if isinstance(model, MaskedViTSpec) and not run.head and not wrong:
                    wrong = model.task_errors(cells, self.preprocessing[run.recipe])
                errors += [f"runs.{name}.model.{error}" for error in wrong]
            for role, parent in model.parents.items():
                if (found := self.model_of(parent).name) not in model.parent_models[role]:
                    errors.append(
                        f"runs.{name}.model.{role}: expected a run of a {' or a '.join(model.parent_models[role])}, "
                        f"got '{parent}' of a {found}"
                    )
            if model.name == "consistency" and run.training.parallel.strategy == "fsdp":
                errors.append(
                    f"runs.{name}.training.parallel.strategy: expected ddp for a consistency model, which compares "
                    "with the average of its weights, got fsdp"
                )
            errors += self._replay_errors(name, run)
            if isinstance(model, AutoregressiveSpec):
                errors += self._tokenizer_errors(name, model)
            if run.head:
                errors += [*self._leaks(name, run.head.label), *self._class_errors(name, run)]
        return errors

    def _replay_errors(self, name: str, run: RunSpec) -> list[str]:
        """Replay needs data sets that a run before was trained on, and new ones among which they are replayed."""
        old = self.replayed(name)
        if run.replay is None or 0 < len(old) < len(run.data):
            return []
        before = sorted({d for r in self.lineage(name)[1:] for d in self.runs[r].data})
        return [
            f"runs.{name}.replay: expected in data both new data sets and some of {before}, which the runs it starts "
            f"from were trained on, got {list(run.data)}; see start_from and data"
        ]

    def _tokenizer_errors(self, name: str, prior: AutoregressiveSpec) -> list[str]:
        """Codes need a tokenizer on the same data, and layer energies where it reads them."""
        tokenizer, key, errors = self.model_of(prior.tokenizer), f"runs.{name}.model", []
        own, other = self.runs[name], self.runs[prior.tokenizer]
        if (own.data, own.recipe) != (other.data, other.recipe):
            errors.append(
                f"{key}.tokenizer: expected data {list(own.data)} and recipe '{own.recipe}' as the run has, got "
                f"{list(other.data)} and '{other.recipe}' of '{prior.tokenizer}'"
            )
        if isinstance(tokenizer, VQVAESpec) and tokenizer.given_layers and prior.layer_energies is None:
            errors.append(
                f"{key}.layer_energies: expected an energy network, since '{prior.tokenizer}' reads layer energies, "
                f"got null; or set runs.{prior.tokenizer}.model.given_layers: false"
            )
        return errors

    def _leaks(self, run: str, label: str) -> list[str]:
        """A head that predicts a label may not see it: not in a recipe, not in a condition, nor its parents."""
        errors = []
        for name in self.lineage(run):
            recipe = self.runs[name].recipe
            if label in self.preprocessing[recipe].reads:
                steps = [s.name for s in self.preprocessing[recipe].steps if label in s.reads]
                errors.append(
                    f"runs.{run}: predicts '{label}', but recipe '{recipe}' of run '{name}' reads it "
                    f"({', '.join(steps)}); use a recipe without it"
                )
            model = self.runs[name].model
            if isinstance(model, GeneratorSpec) and label in model.conditions:
                errors.append(
                    f"runs.{run}: predicts '{label}', but run '{name}' is conditioned on it; "
                    f"take it out of runs.{name}.model.conditions"
                )
            if isinstance(model, MaskedViTSpec) and model.detector_embedding and label == "detector":
                errors.append(
                    f"runs.{run}: predicts 'detector', but run '{name}' is told it; "
                    f"take detector_embedding out of runs.{name}.model"
                )
        return errors

    def _class_errors(self, name: str, run: RunSpec) -> list[str]:
        """A head that tells data sets apart needs two kinds of them, and may not see which is which."""
        if run.head is None or run.head.predict not in ("particle", "detector"):
            return []
        tells_particles = run.head.predict == "particle"
        kinds = {self.particle(d) if tells_particles else self.datasets[d].detector for d in run.data}
        errors = []
        model, detectors = self.model_of(name), {self.datasets[d].detector for d in run.data}
        if tells_particles and isinstance(model, MaskedViTSpec) and model.detector_embedding and len(detectors) > 1:
            errors.append(
                f"runs.{name}: predicts 'particle', but its network is told the detector, which tells the data set; "
                "take out detector_embedding, or use data sets of one detector"
            )
        if len(kinds) < 2:
            errors.append(
                f"runs.{name}.data: expected data sets of several kinds of {run.head.predict}, got {sorted(kinds)}"
            )
        steps = [step.name for step in self.preprocessing[run.recipe].steps if step.fitted]
        if steps:
            errors.append(
                f"runs.{name}: predicts '{run.head.predict}', but recipe '{run.recipe}' is fitted for each data set "
                f"({', '.join(steps)}) and so tells it; use a recipe without fitted steps"
            )
        return errors

    def _sample_errors(self) -> list[str]:
        errors = []
        for name, sample in self.samples.items():
            reference = self.datasets[self.evaluation.reference].detector if self.evaluation else ""
            if isinstance(sample, FilesSampleSpec) and sample.detector not in ("", reference):
                errors.append(
                    f"samples.{name}.detector: expected that of evaluation.reference, '{reference}', "
                    f"got '{sample.detector}'; compare it with its own detector's data"
                )
            if isinstance(sample, BaselineSampleSpec) and sample.data and self.evaluation:
                ours, theirs = (self.raw_mesh(d).cells for d in (self.evaluation.reference, sample.data))
                if ours != theirs:
                    errors.append(
                        f"samples.{name}.data: expected as many cells as evaluation.reference has, {list(ours)}, got "
                        f"{list(theirs)} of '{sample.data}'; take a data set on the same mesh"
                    )
            if not isinstance(sample, SampleSpec):
                continue
            if not isinstance(self.model_of(sample.run), GeneratorSpec) or self.runs[sample.run].head:
                errors.append(f"samples.{name}.run: expected a run of a generative model, got '{sample.run}'")
            elif sample.given_layers and not isinstance(self.model_of(sample.run), AutoregressiveSpec):
                errors.append(
                    f"samples.{name}.given_layers: expected a run of an autoregressive model, got '{sample.run}'"
                )
            errors += self._inverse_errors(name, sample.run)
            if sample.guidance != 1 and not getattr(self.model_of(sample.run), "condition_dropout", 0):
                errors.append(
                    f"samples.{name}.guidance: expected 1 for a run without condition_dropout, got "
                    f"{sample.guidance:g}; train with runs.{sample.run}.model.condition_dropout"
                )
            if self.evaluation and self.evaluation.reference not in self.runs[sample.run].data:
                errors.append(
                    f"samples.{name}.run: expected a run trained on evaluation.reference "
                    f"'{self.evaluation.reference}', got '{sample.run}' on {list(self.runs[sample.run].data)}"
                )
        if self.evaluation:
            cells = self.raw_mesh(self.evaluation.reference).cells
            if any(c % f for c, f in zip(cells, self.evaluation.rebin, strict=True)):
                errors.append(
                    f"evaluation.rebin: expected divisors of the mesh {list(cells)}, got {list(self.evaluation.rebin)}"
                )
        return errors

    def _inverse_errors(self, sample: str, run: str) -> list[str]:
        """Before days of training: a recipe whose inverse the run's model could not give its numbers."""
        model, recipe = self.model_of(run), self.runs[run].recipe
        if not isinstance(model, GeneratorSpec) or model.layer_energies is not None:
            return []
        if not any(step.name == "layer_fractions" for step in self.preprocessing[recipe].steps):
            return []
        return [
            f"samples.{sample}.run: expected a recipe with an inverse, got '{recipe}' of run '{run}', whose "
            "layer_fractions need layer energies that the model does not make; give the model layer_energies"
        ]

    def _generator_study_errors(self) -> list[str]:
        """Generators are compared with the new detector's held-out showers, in what the evaluation measures."""
        study, evaluation = self.generator_study, self.evaluation
        if study is None:
            return []
        if evaluation is None or evaluation.reference != study.new:
            got = f"'{evaluation.reference}'" if evaluation else "no evaluation"
            return [f"evaluation.reference: expected '{study.new}' as in generator_study.new, got {got}"]
        metrics = [score.partition("/")[2] for score in study.scores]
        measured = {*evaluation.metrics, *(f"auc_{name}" for name in evaluation.classifiers)}
        return [
            f"generator_study.scores: expected metrics that the evaluation measures, {sorted(measured)}, got '{metric}'"
            for metric in metrics
            if metric not in measured
        ]

    def _study_errors(self) -> list[str]:
        """Encoders are masked ViTs that see no label, on one mesh, which every task fits."""
        if self.study is None:
            return []
        errors, meshes = [], set()
        for name in self.study.encoders():
            run, model = self.runs[name], self.model_of(name)
            if not isinstance(model, MaskedViTSpec) or run.head:
                errors.append(f"study.pretraining.model: expected a masked_vit without a head, got {model.name}")
                continue
            if LABEL in self.preprocessing[run.recipe].reads:
                errors.append(
                    f"runs.{name}: the study predicts '{LABEL}', but recipe '{run.recipe}' reads it; "
                    "use a recipe without it"
                )
            for data in self.study.labelled_data:
                mesh = self.preprocessing[run.recipe].mesh_after(self.raw_mesh(data)).cells
                meshes.add(mesh)
                errors += model.errors_on(mesh)
        errors += [
            f"study.tasks.{name}.{text}"
            for mesh in sorted(meshes)
            for name, task in self.study.tasks.items()
            for text in task.errors_on(mesh)
        ]
        if len(meshes) > 1:
            errors.append(f"study: expected one mesh behind the recipes of all points, got {sorted(meshes)}")
        return list(dict.fromkeys(errors))

    # ----------------------------------------------------------------------------------- smoke

    def smoked(self) -> Config:
        """The same DAG at 64 showers and 20 steps when `smoke: true`, else the configuration itself."""
        if not self.smoke:
            return self
        content = self.model_dump(mode="json", exclude_unset=True)
        content["experiment"] = f"{self.experiment}_smoke"
        content["datasets"] = {f"{name}_smoke": _smoked(spec) for name, spec in content["datasets"].items()}
        for run in content.get("runs", {}).values():
            run["data"] = [f"{name}_smoke" for name in run["data"]]
        content["splits"] = {"train": 0.4, "validation": 0.1, "test": 0.5}
        for name, run in content.get("runs", {}).items():
            parts = self.runs[name].training.parallel.parts
            batch = max(1, min(16, run["training"].get("batch_size", 16)) // parts) * parts
            run |= {"showers": min(run["showers"], 12)} if run.get("showers") else {}
            run["training"] |= {
                "samples": 20 * batch,
                "batch_size": batch,
                "warmup_samples": 2 * batch,
                "validate_every": 10 * batch,
                "checkpoint_every": 10 * batch,
            }
        if content.get("evaluation"):
            content["evaluation"] |= {"showers": 8, "bootstrap": 5, "classifier_seeds": 1}
            content["evaluation"]["reference"] += "_smoke"
        if content.get("study"):
            content["study"] = _small_study(content["study"])
        if content.get("generator_study"):
            content["generator_study"] = _small_generator_study(content["generator_study"])
        for sample in content.get("samples", {}).values():
            sample |= {"first_file_only": True} if "files" in sample else {}
            sample |= {"showers": min(sample["showers"], 12)} if sample.get("showers") else {}
            sample |= {"data": f"{sample['data']}_smoke"} if sample.get("data") else {}
        return Config.model_validate(content)


def _smoked(dataset: dict[str, Any]) -> dict[str, Any]:
    """A data set of its own: 64 parametric showers, or the first of the user's files."""
    if dataset.get("simulate"):
        small = dataset["simulate"] | {"files": 2, "showers": 32, "engine": "parametric"}
        return dataset | {"simulate": small, "files": []}
    return dataset | {"first_file_only": True}


def _small_study(study: dict[str, Any]) -> dict[str, Any]:
    """The same arms, tasks, points and claims on a handful of labelled showers; its runs stand under `runs`."""
    few: dict[str, Any] = {"labels": [4, 8], "pool": 12, "validation": 2, "test": 8, "subsets": 2}
    if study.get("from_labels"):
        few |= {"from_labels": study["from_labels"] | {"labels": [8], "steps": 4, "checks": 2}}
    if study.get("zero_shot"):
        few |= {"zero_shot": {"data": f"{study['zero_shot']['data']}_smoke", "labels": 8}}
    claims = [claim | {"labels": [8]} for claim in study.get("claims", ())]
    return study | few | {"data": f"{study['data']}_smoke", "claims": claims}


def _small_generator_study(study: dict[str, Any]) -> dict[str, Any]:
    """The same arms and numbers of showers; its runs and samples, which are small, stand under their own keys."""
    return study | {key: f"{study[key]}_smoke" for key in ("old", "new")}


def load_config(source: str | Path | dict[str, Any]) -> Config:
    """A validated configuration from a YAML file or Snakemake's `config` dictionary.

    Raises `ConfigError` that names the file and lists every error at once.
    """
    where = str(source) if not isinstance(source, dict) else "configuration"
    if isinstance(source, dict):
        content: Any = source
    else:
        try:
            content = yaml.safe_load(Path(source).read_text())
        except (FileNotFoundError, IsADirectoryError):
            raise ConfigError(
                f"{where}: expected a configuration file, found none; see config/config.yaml for an example"
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"{where}: expected YAML, got: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: expected a mapping of keys, got {type(content).__name__}")
    try:
        return Config.model_validate(content).smoked()
    except ValidationError as error:
        raise ConfigError(_explained(where, error)) from None


def _explained(where: str, error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "(whole)"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key; check its spelling with `caloforge config explain`"
        elif not isinstance(item.get("input"), dict | list):
            message += f", got {item.get('input')!r}"
        lines += (
            [f"  {key}: {part}" if key != "(whole)" else f"  {part}" for part in message.split("\n")]
            if key == "(whole)"
            else [f"  {key}: {message}"]
        )
    plural = "errors" if len(lines) > 1 else "error"
    return f"{where}: {len(lines)} {plural}\n" + "\n".join(lines)


def _unknown(key: str, got: str, known: Any) -> str:
    return f"{key}: expected one of {sorted(known)}, got '{got}'"
