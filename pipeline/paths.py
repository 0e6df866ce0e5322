"""Where every artefact lives, as functions of the names in the configuration.

Data are shared between experiments (`data/`), everything else belongs to one (`results/<experiment>/`). What is shared
carries in its folder's name the digest of all that shapes it: two experiments with one name for different things do
not overwrite each other. A path here is always a small file; the large stores and weights lie beside it, under the
same name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.config import Config, digest_of

DATA = Path("data")
STORE = DATA / "store"
PREPROCESSED = DATA / "preprocessed"
FINGERPRINTS = DATA / "fingerprints.json"


@dataclass(frozen=True)
class Paths:
    """The artefacts of one experiment, relative to the working directory."""

    config: Config

    @property
    def results(self) -> Path:
        """Everything that belongs to this experiment alone."""
        return Path("results") / self.config.experiment

    def raw(self, dataset: str, part: str) -> Path:
        """A raw file that the workflow simulates itself."""
        return DATA / "raw" / dataset / f"{part}.h5"

    def simulation_record(self, dataset: str, part: str) -> Path:
        """What made a simulated raw file."""
        return DATA / "raw" / dataset / f"{part}.h5.json"

    def simulation_cost(self, dataset: str, part: str) -> Path:
        """What the showers of a simulated raw file cost, each by itself."""
        return DATA / "raw" / dataset / f"{part}.h5.measured.json"

    @cached_property
    def reading_keys(self) -> dict[str, str]:
        """All that shapes a data set's parts, given the content of the raw files."""
        return {name: self.config.reading_key(name) for name in [*self.config.datasets, *self.config.file_samples()]}

    @cached_property
    def recipe_keys(self) -> dict[str, str]:
        """All that shapes a preprocessed part, given the part: the recipe and the splits."""
        splits = self.config.splits.digest()
        return {name: digest_of([recipe.digest(), splits]) for name, recipe in self.config.preprocessing.items()}

    def dataset_folder(self, dataset: str) -> str:
        """The folder's name of a data set's parts: its name and how its files are read, `siw-1a2b3c4d`."""
        return f"{dataset}-{self.reading_keys[dataset][:8]}"

    def part(self, dataset: str, part: str) -> Path:
        """Manifest of an ingested part; its store is beside it as `<part>.zarr`."""
        return STORE / self.dataset_folder(dataset) / f"{part}.json"

    def recipe_folder(self, recipe: str) -> Path:
        """Preprocessed parts of a recipe, keyed by the digest of the recipe and of the splits."""
        return PREPROCESSED / f"{recipe}-{self.recipe_keys[recipe][:12]}"

    def prefix(self, recipe: str, dataset: str, part: str) -> Path:
        """Manifest of a preprocessed part; its store and statistics are beside it."""
        return self.recipe_folder(recipe) / self.dataset_folder(dataset) / f"{part}.json"

    def transform(self, recipe: str, dataset: str) -> Path:
        """The recipe fitted on the data set's training split."""
        return self.results / "merge" / recipe / f"{dataset}.json"

    def run_folder(self, run: str) -> Path:
        """Checkpoints, metrics and the model of a run."""
        return self.results / "train" / run

    def model(self, run: str) -> Path:
        """Manifest of a trained model; its weights are beside it as `model.safetensors`."""
        return self.run_folder(run) / "model.json"

    def slice(self, run: str, index: int) -> Path:
        """Manifest of the index-th slice of a long training, 1-based; the last one is the model."""
        last = index == self.config.runs[run].slices
        return self.model(run) if last else self.run_folder(run) / f"slice-{index}.json"

    def sample(self, sample: str) -> Path:
        """Generated showers, a raw file."""
        return self.results / "generate" / f"{sample}.h5"

    def sample_part(self, sample: str) -> Path:
        """Manifest of the ingested generated showers."""
        return self.results / "ingest" / f"{sample}.json"

    def prediction(self, run: str) -> Path:
        """The label predicted by a head for the held-out showers."""
        return self.results / "predict" / f"{run}.json"

    def examination(self, run: str) -> Path:
        """What a run's attention looks at, and what it forgot."""
        return self.results / "examine" / f"{run}.json"

    def evaluation(self, subject: str) -> Path:
        """Rows and tables of a sample, of the floor, or of a head."""
        return self.results / "evaluate" / f"{subject}.json"

    def probe(self, encoder: str) -> Path:
        """Errors of all heads on an encoder of the study, or of its baselines."""
        return self.results / "probe" / f"{encoder}.json"

    @property
    def study(self) -> Path:
        """What the study found, as records; its summary is beside it."""
        return self.results / "study" / "metrics.json"

    @property
    def metrics(self) -> Path:
        """All metric rows of the experiment."""
        return self.results / "metrics.json"

    def figure(self, figure: str) -> Path:
        """A figure; its PNG and its data are beside it."""
        return self.results / "figures" / f"{figure}.pdf"

    @property
    def cost(self) -> Path:
        """What the experiment cost until its report was written."""
        return self.results / "cost.measured.json"

    @property
    def paper(self) -> Path:
        """What links every figure and table of the paper to its data; figures, tables and HEPData are beside it."""
        return self.results / "paper" / "figures.json"

    @property
    def report(self) -> Path:
        """The page one reads first."""
        return self.results / "report.html"
