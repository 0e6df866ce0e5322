"""torchrun: a training in two processes by one command, asked to stop, and with one of them killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from test_distributed import check_same, rows, sections
from training_fixtures import CONTENT, toy_showers

from pipeline.config import TrainingSpec
from pipeline.data.formats import write_calochallenge
from pipeline.provenance import read_json
from pipeline.training.launch import command, processes_of
from pipeline.training.request import TrainingError

REPOSITORY = Path(__file__).resolve().parent.parent


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    spec = TrainingSpec.model_validate({"samples": 64, "parallel": {"processes": 4}})
    with pytest.raises(TrainingError, match=r"processes: expected at most the 2 GPUs that this job sees, got 4; ask"):
        processes_of(spec)
    assert processes_of(spec.model_copy(update={"device": "cpu"})) == 4
    assert processes_of(TrainingSpec.model_validate({"samples": 64, "parallel": {"processes": "gpus"}})) == 2


def test_as_many_processes_as_gpus_is_one_without_any(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert processes_of(TrainingSpec.model_validate({"samples": 64, "parallel": {"processes": "gpus"}})) == 1


def test_torchrun_takes_no_option_of_ours_for_its_own():
    from torch.distributed.run import get_args_parser

    arguments = ["train", "--run", "generator", "--plan", "results/x.json", "--slice", "2"]
    understood = get_args_parser().parse_args(command(3, arguments)[3:])
    assert (understood.training_script, understood.training_script_args) == ("pipeline", arguments)
    assert understood.module and understood.nproc_per_node == "3"


class Workdir:
    """A working directory with the toy experiment up to `merge`; its one run takes as many processes as asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        self.environment = {k: v for k, v in environment.items() if k != "CALOFORGE_PLAN"}
        for i in range(2):
            showers = toy_showers(80, i)
            write_calochallenge(
                folder / f"raw{i}.h5", [showers], sampling_fraction=0.1, sampling_corrected=False, threshold_mev=5e-4
            )

    def configure(self, processes: int, steps: int) -> None:
        """Write the experiment's file."""
        content = {**CONTENT, **sections("generator", steps, {"processes": processes})}
        content = {key: value for key, value in content.items() if key != "evaluation"}
        content["datasets"]["toy"]["files"] = str(self.folder / "raw*.h5")
        (self.folder / "toy.yaml").write_text(yaml.safe_dump(content))

    def forget(self) -> None:
        """Remove the run's model, metrics and checkpoints."""
        folder = self.folder / "results/toy/train/generator"
        for path in [*folder.rglob("*.pt"), *folder.glob("m*")]:
            path.unlink()

    def command(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `caloforge <arguments>`."""
        command = [sys.executable, "-m", "pipeline", *arguments, "--config", "toy.yaml"]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, text=True, **streams)

    def run(self, *arguments: str) -> str:
        """The output of a command that must end well."""
        process = self.command(*arguments)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        return output


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Workdir:
    made = Workdir(tmp_path_factory.mktemp("launch"))
    made.configure(1, 4)
    for part in ("raw0", "raw1"):
        made.run("ingest", "--dataset", "toy", "--part", part)
        made.run("preprocess", "--recipe", "coarse", "--dataset", "toy", "--part", part)
    made.run("merge", "--recipe", "coarse", "--dataset", "toy")
    return made


def started(workdir: Workdir) -> subprocess.Popen[str]:
    """A training of two processes that is past the steps of which no speed is measured."""
    metrics = workdir.folder / "results/toy/train/generator/metrics.jsonl"
    metrics.unlink(missing_ok=True)
    process = workdir.command("train", "--run", "generator")
    until = time.monotonic() + 240
    while not (metrics.exists() and metrics.read_text().count("\n") >= 6):
        assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
        time.sleep(0.2)
    return process


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    (torchrun,) = psutil.Process(process.pid).children()
    return [child for child in torchrun.children() if "pipeline" in child.cmdline()]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_two_processes_asked_to_stop_leave_a_checkpoint_and_go_on(workdir, number):
    workdir.configure(2, 3000)
    workdir.forget()
    process = started(workdir)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    last = output.strip().splitlines()[-1]
    assert last.startswith(f"caloforge train: runs.generator: stopped by {number.name} after ")
    samples = int(last.split(" after ")[1].split()[0])
    folder = workdir.folder / "results/toy/train/generator"
    assert (max(folder.rglob("*.pt"))).stem == f"{samples:012d}"
    measured = read_json(folder / "training.measured.json")
    assert measured["processes"] == 2 and measured["samples_per_second"] > 0
    process = started(workdir)
    assert max(folder.rglob("*.pt")).stem >= f"{samples:012d}"
    process.terminate()
    assert f"going on after {samples} showers" in process.communicate(timeout=120)[0]


@pytest.mark.slow
def test_one_process_killed_ends_the_training_at_once(workdir):
    workdir.configure(2, 3000)
    process = started(workdir)
    before = workers(process)
    assert len(before) == 2
    before[1].kill()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "runs.generator: expected 2 processes that end well, got exit status 1 of torchrun" in output
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in before)


@pytest.mark.slow
def test_two_processes_by_one_command_give_the_model_of_one(workdir):
    found = {}
    for processes in (1, 2):
        workdir.configure(processes, 20)
        workdir.forget()
        workdir.run("train", "--run", "generator")
        found[processes] = rows(workdir.folder / "results/toy/train", "generator")
        measured = read_json(workdir.folder / "results/toy/train/generator/training.measured.json")
        assert measured["processes"] == processes
    check_same(found[2], found[1])
    record = json.loads((workdir.folder / "logs/toy/train/generator/model.measured.json").read_text())
    assert record["cpu_seconds"] > 0


# ------------------------------------------------------------------------------------- benchmark


@pytest.mark.slow
def test_the_gpu_benchmark_runs_small_and_says_what_it_needs():
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "gpu_train.py")]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    refused = subprocess.run(command, capture_output=True, text=True, env=hidden)
    assert refused.returncode == 1 and "expected a CUDA GPU, found none; run it on one" in refused.stderr
    done = subprocess.run([*command, "--tiny", "--steps", "3"], capture_output=True, text=True, env=hidden)
    assert done.returncode == 0, done.stderr
    found = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines()}
    assert found["samples_per_second"] > 0 and found["mfu"] > 0 and 0 <= found["waiting_for_data"] <= 1
