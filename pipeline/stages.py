"""One function per rule of the workflow: it takes the plan and the rule's wildcards and writes the rule's outputs.

Heavy imports stay inside the functions, so that `caloforge --help` and the Snakefile start at once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import ConfigError, DatasetSpec, FilesSampleSpec, SampleSpec, digest_of
from pipeline.plan import Plan
from pipeline.provenance import atomic_path, code_digest, file_digest, fingerprint, read_json, write_json
from pipeline.quarantine import accepted, pass_on, quarantined, write_refusal

if TYPE_CHECKING:
    from pipeline.config import DetectorSpec, SimulateSpec

log = logging.getLogger(__name__)


def simulate(plan: Plan, file: str) -> Path:
    """Make the raw file `<dataset>/<part>` of the plan, and the record of what made it."""
    dataset, index = plan.simulated_file(file)
    spec = plan.config.datasets[dataset]
    assert spec.simulate is not None
    part = file.partition("/")[2]
    output = plan.paths.raw(dataset, part)
    record = plan.paths.simulation_record(dataset, part)
    seed = int(digest_of([spec.simulate.seed, dataset, index]), 16) >> 2 | 1
    cost = simulate_file(output, spec.simulate, spec.detector, plan.config.detector(spec.detector), seed)
    write_json(plan.paths.simulation_cost(dataset, part), cost)
    write_json(
        record,
        {
            "key": plan.simulate_key(dataset, index),
            "fingerprint": fingerprint(output),
            "digest": file_digest(output),
            "seed": seed,
            "physics_data": physics_data(spec.simulate),
            "simulate": spec.simulate.model_dump(mode="json"),
        },
    )
    return output


def simulate_file(
    output: Path, spec: SimulateSpec, name: str, detector: DetectorSpec, seed: int
) -> dict[str, list[float]]:
    """Simulate `spec.showers` showers of one detector into one raw HDF5 file.

    Returns what they cost: incident energies in MeV and CPU milliseconds, none where the engine measures none.
    """
    from pipeline.data.formats import WRITERS
    from pipeline.simulation import ENGINES

    cpu_ms: list[float] = []
    showers = ENGINES[spec.engine](spec, name, detector, seed, cpu_ms)
    WRITERS[spec.layout].write(
        output,
        [showers],
        sampling_fraction=detector.sampling_fraction,
        sampling_corrected=False,
        threshold_mev=spec.threshold_mev,
        attributes={"engine": spec.engine, "seed": seed, "physics_data": physics_data(spec)},
    )
    return {"incident_energy_mev": showers.incident_energy.tolist() if cpu_ms else [], "cpu_ms": cpu_ms}


def physics_data(spec: SimulateSpec) -> str:
    """Which physics tables a simulation reads: Geant4's official data where the user has them, else the stand-in."""
    if spec.engine != "geant4":
        return "none"
    return "official" if os.environ.get("G4LEDATA") or os.environ.get("GEANT4_DATA_DIR") else "stand-in"


def ingest(plan: Plan, dataset: str, part: str, threads: int | None = None) -> Path:
    """Turn one raw file into an immutable part; where bad files are quarantined, one that is refused into a record."""
    from pipeline.data.formats import FormatError
    from pipeline.data.ingest import ingest as ingest_file

    spec = plan.config.dataset(dataset)
    manifest = plan.paths.part(dataset, part)
    raw, detector = Path(plan.raw_file(dataset, part)), plan.config.detector(spec.detector)
    found = None if f"{dataset}/{part}" in plan.simulated else plan.files[dataset][part].key
    try:
        ingest_file(raw, manifest, spec, detector, dataset, threads, found)
    except FormatError as error:
        if plan.config.on_bad_file == "stop" or not raw.is_file():
            raise
        write_refusal(manifest, raw, dataset, str(error))
        log.warning("%s; it is in quarantine, see `caloforge status`", error)
    return manifest


def ingest_sample(plan: Plan, sample: str, threads: int | None = None) -> Path:
    """Turn generated showers into a part, by the same code as Geant4's."""
    from pipeline.data.ingest import ingest as ingest_file

    assert plan.config.evaluation is not None
    reference = plan.config.datasets[plan.config.evaluation.reference]
    spec = DatasetSpec(format="calochallenge", files=("*",), detector=reference.detector, particle=reference.particle)
    manifest = plan.paths.sample_part(sample)
    ingest_file(plan.paths.sample(sample), manifest, spec, plan.config.detector(spec.detector), sample, threads)
    return manifest


def preprocess(plan: Plan, dataset: str, part: str, recipe: str, threads: int = 2) -> Path:
    """Materialise the recipe's per-shower steps for one part, with its statistics."""
    from pipeline.data.preprocess import preprocess_part

    manifest, config, source = plan.paths.prefix(recipe, dataset, part), plan.config, plan.paths.part(dataset, part)
    if not pass_on(source, manifest):
        preprocess_part(source, manifest, config.preprocessing[recipe], config.splits, threads, config.compute)
    return manifest


def merge(plan: Plan, recipe: str, dataset: str, threads: int = 2) -> Path:
    """Merge the parts' statistics and fit the rest of the recipe."""
    from pipeline.calorimeter import CylinderMesh
    from pipeline.data.merge import merge as merge_parts

    output = plan.paths.transform(recipe, dataset)
    mesh = CylinderMesh.from_spec(plan.config.raw_mesh(dataset))
    parts, config = accepted(plan.prefix_manifests(recipe, dataset)), plan.config
    state = merge_parts(parts, config.preprocessing[recipe], mesh, config.splits, threads, config.compute)
    write_json(output, state)
    return output


def train(plan: Plan, run: str, slice_index: int | None = None) -> Path:
    """Train a run, or one slice of it, in as many processes as its configuration asks for."""
    from pipeline.training.launch import launch, processes_of, telling_parent
    from pipeline.training.request import TrainRequest
    from pipeline.training.trainer import train as train_run

    spec, paths = plan.config.runs[run], plan.paths
    index = spec.slices if slice_index is None else slice_index
    if not 1 <= index <= spec.slices:
        raise ConfigError(f"--slice: expected 1 to {spec.slices} as in runs.{run}.slices, got {index}")
    request = TrainRequest(
        run=run,
        config=plan.config,
        parts={d: accepted(plan.part_manifests(d)) for d in spec.data},
        prefix={d: accepted(plan.prefix_manifests(spec.recipe, d)) for d in spec.data},
        transforms={d: paths.transform(spec.recipe, d) for d in spec.data},
        parent=paths.model(spec.start_from) if spec.start_from else None,
        model_parents={role: paths.model(r) for role, r in plan.config.model_of(run).parents.items()},
        manifest=paths.slice(run, index),
        folder=paths.run_folder(run),
        slice_index=index,
        n_slices=spec.slices,
    )
    if "TORCHELASTIC_RUN_ID" not in os.environ and (processes := processes_of(spec.training)) > 1:
        launch(run, processes, ["train", "--plan", plan.save().as_posix(), "--run", run, "--slice", str(index)])
    else:
        with telling_parent():
            train_run(request)
    return paths.slice(run, index)


def generate(plan: Plan, sample: str) -> Path:
    """Make a sample at the held-out conditions, with a trained model or without any."""
    spec, output = plan.config.samples[sample], plan.paths.sample(sample)
    if isinstance(spec, FilesSampleSpec):
        raise ConfigError(f"--sample {sample}: expected a sample that is made here, got one of files; nothing to do")
    if isinstance(spec, SampleSpec):
        from pipeline.generation.generate import generate as generate_sample

        generate_sample(plan.config, sample, plan.paths.model(spec.run), _reference_parts(plan), output)
    else:
        from pipeline.generation.baselines import generate_untrained

        others = accepted(plan.generate_inputs(sample).get("others", []))
        generate_untrained(plan.config, sample, _reference_parts(plan), output, others)
    return output


def predict(plan: Plan, run: str) -> Path:
    """Predict a label for the held-out showers."""
    from pipeline.generation.predict import predict as predict_run

    output = plan.paths.prediction(run)
    parts = {name: accepted(plan.part_manifests(name)) for name in plan.config.predicted_data(run)}
    predict_run(plan.config, run, plan.paths.model(run), parts, output)
    return output


def evaluate(plan: Plan, subject: str, threads: int = 1) -> Path:
    """Compare a sample, the floor, its known faults or a head with the held-out showers."""
    from pipeline.evaluation.evaluate import evaluate as evaluate_sample
    from pipeline.evaluation.evaluate import evaluate_sensitivity
    from pipeline.evaluation.predictions import evaluate_predictions

    output = plan.paths.evaluation(subject)
    if subject == "sensitivity":
        evaluate_sensitivity(plan.config, _reference_parts(plan), output, threads)
    elif subject in plan.config.head_runs():
        predictions = plan.paths.prediction(subject)
        evaluate_predictions(plan.config, subject, predictions, _reference_parts(plan), output, threads)
    else:
        part = accepted(plan.sample_parts(subject)) if subject in plan.config.samples else None
        evaluate_sample(plan.config, subject, plan.reference_parts(), part, output, threads)
    return output


def examine(plan: Plan, run: str) -> Path:
    """Look into a trained run: its attention, and what it forgot of its parents' data."""
    from pipeline.generation.examine import examine as examine_run

    output = plan.paths.examination(run)
    models = {name: plan.paths.model(name) for name in plan.examine_models(run)}
    parts = {name: accepted(plan.part_manifests(name)) for name in plan.examine_data(run)}
    examine_run(plan.config, run, models, parts, output)
    return output


def metrics(plan: Plan) -> Path:
    """Collect the rows of all evaluations, each with its floor."""
    from pipeline.evaluation.summary import collect

    write_json(plan.paths.metrics, collect(plan.config, plan.evaluations()))
    return plan.paths.metrics


def probe(plan: Plan, encoder: str) -> Path:
    """Measure the errors of all heads on an encoder of the study, or of its baselines."""
    from pipeline.studies.probe import probe as probe_encoder

    if plan.config.study is None:
        raise ConfigError("expected a 'study' section, got none; see config/experiments/")
    output, inputs = plan.paths.probe(encoder), plan.probe_inputs(encoder)
    parts = [accepted(plan.part_manifests(data)) for data in plan.config.study.labelled_data]
    probe_encoder(plan.config, encoder, inputs.get("model"), inputs["transforms"], parts, output)
    return output


def study(plan: Plan) -> Path:
    """Judge the study: its records, and beside them the page that says what was found."""
    found, page = _judged_generators(plan) if plan.config.generator_study else _judged_encoders(plan)
    with atomic_path(plan.paths.study.with_name("summary.md")) as temporary:
        temporary.write_text(page, encoding="utf-8")
    write_json(plan.paths.study, found)
    return plan.paths.study


def _judged_encoders(plan: Plan) -> tuple[dict[str, Any], str]:
    from pipeline.studies.summary import summary
    from pipeline.studies.verdicts import metrics_of

    if plan.config.study is None:
        raise ConfigError("expected a 'study' section, got none; see config/experiments/")
    rows = [row for encoder in plan.probed() for row in read_json(plan.paths.probe(encoder))["rows"]]
    found = metrics_of(plan.config.study, rows)
    return found, summary(plan.config, found)


def _judged_generators(plan: Plan) -> tuple[dict[str, Any], str]:
    from pipeline.evaluation.summary import read_lines
    from pipeline.studies.generators import judged
    from pipeline.studies.generators_summary import summary

    assert plan.config.generator_study is not None  # the caller's condition
    curves = {run: read_lines(_curves(plan)[run]) for run in plan.config.generator_study.trained()}
    found = judged(plan.config.generator_study, read_json(plan.paths.metrics), curves)
    return found, summary(plan.config, found)


def figures(plan: Plan, figure: str) -> Path:
    """Draw one figure from the tables."""
    from pipeline.figures import draw

    output = plan.paths.figure(figure)
    draw(figure, _tables(plan), output, _provenance(plan, figure))
    return output


def report(plan: Plan) -> Path:
    """Write the page that gathers summary, figures, configuration and lineage."""
    from pipeline.cost import cost_table
    from pipeline.figures.report import write_report

    cost = cost_table(plan)
    write_json(plan.paths.cost, cost)
    write_report(plan.paths.report, cost=cost, **_report_content(plan))
    return plan.paths.report


def paper(plan: Plan) -> Path:
    """Gather figures, tables and HEPData, with the links from each to what it was made from."""
    from pipeline.paper import write_paper

    return write_paper(plan)


def redraw(plan: Plan, figure: str, folder: Path) -> Path:
    """Draw one figure from the tables into another folder; no rule does, `caloforge redraw` does."""
    from pipeline.figures import draw

    output = folder / f"{figure}.pdf"
    draw(figure, _tables(plan), output, _provenance(plan, figure))
    return output


# ------------------------------------------------------------------------------- what they share


def _reference_parts(plan: Plan) -> list[Path]:
    """Parts of the data set that everything is compared with, without refused files."""
    return accepted(plan.reference_parts())


def _tables(plan: Plan) -> dict[str, Any]:
    """Everything that figures draw."""
    from pipeline.evaluation.summary import gather

    study = {"study": read_json(plan.paths.study)} if plan.has_study else {}
    return {**gather(plan.config, plan.evaluations(), _curves(plan), _costs(plan)), **study}


def _curves(plan: Plan) -> dict[str, Path]:
    """How each run learned; the files lie beside the models."""
    return {run: plan.paths.run_folder(run) / "metrics.jsonl" for run in plan.config.runs}


def _costs(plan: Plan) -> dict[str, Any]:
    """What showers cost, as it was measured when they were made."""
    from pipeline.evaluation.cost import costs

    return costs(plan.config, *_measured(plan))


def _measured(plan: Plan) -> tuple[list[Path], dict[str, Path]]:
    """The measured records of the reference's simulation, and of each sample; some may not be there."""
    reference = plan.config.evaluation.reference if plan.config.evaluation else ""
    files = [file.partition("/")[2] for file, (dataset, _) in plan.simulated.items() if dataset == reference]
    simulated = [plan.paths.simulation_cost(reference, part) for part in files]
    return simulated, {name: plan.paths.sample(name).with_suffix(".measured.json") for name in plan.config.samples}


def _provenance(plan: Plan, figure: str) -> dict[str, Any]:
    """What a figure was made from, and the command that redraws it alone."""
    from pipeline import __version__

    return {
        "experiment": plan.config.experiment,
        "figure": figure,
        "configuration": plan.config.digest(exclude={"compute", "cost", "on_bad_file"}),
        "inputs": {path.as_posix(): file_digest(path) for path in _drawn_from(plan, figure)},
        "code_version": __version__,
        "code_digest": code_digest(),
        "redraw": f"caloforge figures --figure {figure} --plan {plan.save().as_posix()}",
    }


def _drawn_from(plan: Plan, figure: str) -> list[Path]:
    """The files behind a figure: tables, how runs learned, and measured records where it shows them."""
    from pipeline.figures import MEASURED

    simulated, samples = _measured(plan)
    measured = [path for path in (*simulated, *samples.values()) if path.is_file()] if figure in MEASURED else []
    return [*plan.tables(), *_curves(plan).values(), *measured]


def _report_content(plan: Plan) -> dict[str, Any]:
    """The page's content: rows and summary, figures, configuration, what each model came from, measured times."""
    import yaml

    from pipeline.evaluation.published import published_table
    from pipeline.evaluation.summary import notes, summarise
    from pipeline.figures.showers import in_space

    paths = plan.paths
    rows = read_json(paths.metrics) if plan.config.evaluation else []
    models = {run: read_json(paths.model(run)) for run in plan.config.runs}
    kept = ("architecture", "lineage", "samples", "weights_digest")
    names = [plan.config.evaluation.reference] if plan.config.evaluation else []
    data = dict.fromkeys([*names, *(name for run in plan.config.runs.values() for name in run.data)])
    return {
        "title": plan.config.experiment,
        "rows": rows,
        "figures": {figure: paths.figure(figure) for figure in plan.figures()},
        "summary": summarise(rows),
        "notes": notes([paths.evaluation(subject) for subject in plan.subjects()]),
        "published": published_table(plan.config, rows),
        "configuration": yaml.safe_dump(plan.config.model_dump(mode="json", exclude_defaults=True), sort_keys=False),
        "models": {run: {k: model[k] for k in kept if k in model} for run, model in models.items()},
        "data": {name: _manifests(plan.part_manifests(name)) for name in data},
        "samples": {name: _manifests(plan.sample_parts(name)) for name in plan.config.samples},
        "showers": in_space(_tables(plan)) if plan.config.evaluation else {},
        "quarantined": [{key: file[key] for key in ("dataset", "path", "reason")} for file in quarantined(plan)],
        "measured": {
            path.relative_to(paths.results).as_posix(): read_json(path)
            for path in sorted(paths.results.rglob("*.measured.json"))
            if path != paths.cost
        },
    }


def _manifests(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """What ingest recorded of the parts that were not refused."""
    return [read_json(path) for path in accepted(paths)]
