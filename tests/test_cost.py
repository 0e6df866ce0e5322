"""Energy of the machine's counters, and what an experiment's records add up to."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import pipeline.energy as energy
from pipeline.commands.cost import shown
from pipeline.config import CostSpec, load_config
from pipeline.cost import Cost, cost_of, cost_table, parsed_sacct
from pipeline.figures.page import cost_page
from pipeline.jobs import JOBS, recorded
from pipeline.plan import Plan
from pipeline.provenance import read_json, write_json

SPEC = CostSpec(watts_per_core=10, watts_per_gpu=400)
HOUR = {"wall_seconds": 3600.0, "cpu_seconds": 7200.0, "peak_mb": 1.0}


# -------------------------------------------------------------------------------------- counters


class FakeNvml:
    """The C functions of NVML for two GPUs; the counter of the second runs on by 5 kJ at each reading."""

    readings = 0

    def nvmlInit_v2(self):
        return 0

    def nvmlShutdown(self):
        FakeNvml.readings += 1
        return 0

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, device):
        device._obj.value = index + 1
        return 0

    def nvmlDeviceGetUUID(self, device, name, length):
        name.value = f"GPU-{device.value}".encode()
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device, millijoules):
        millijoules._obj.value = 1_000_000 + (device.value == 2) * 5_000_000 * self.readings
        return 0


def test_a_jobs_gpu_energy_is_the_difference_of_its_own_counter(monkeypatch, tmp_path):
    monkeypatch.setattr(energy, "_nvml", FakeNvml)
    monkeypatch.setattr(FakeNvml, "readings", 0)
    meter = energy.EnergyMeter(tmp_path)
    assert meter.stop(["GPU-2"], 1.0) == {"gpu_joules": 5000.0}
    assert energy.EnergyMeter(tmp_path).stop(["GPU-7"], 1.0) == {}


def test_without_a_driver_there_is_no_gpu_energy(monkeypatch):
    def missing():
        return ctypes.CDLL("libnone-of-this-name.so")

    monkeypatch.setattr(energy, "_nvml", missing)
    assert energy.gpu_joules() == {}


def test_a_processors_energy_is_shared_by_busy_time_and_its_counter_starts_anew(monkeypatch, tmp_path):
    for name in ("intel-rapl:0", "intel-rapl:0:0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text("9000000\n")
        (tmp_path / name / "max_energy_range_uj").write_text("10000000\n")
    busy = iter([100.0, 108.0])
    monkeypatch.setattr(energy, "_busy_seconds", lambda: next(busy))
    meter = energy.EnergyMeter(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("5000000\n")
    assert meter.stop([], cpu_seconds=2.0) == {"cpu_joules": pytest.approx(6.0 * 2 / 8)}


def test_a_counter_that_may_not_be_read_is_none(tmp_path):
    (tmp_path / "intel-rapl:0").mkdir()
    assert energy.EnergyMeter(tmp_path).stop([], 1.0) == {}


# ------------------------------------------------------------------------------------ arithmetic


def test_without_counters_energy_is_an_estimate_of_configured_watts():
    cost = cost_of({**HOUR, "gpus": 2}, SPEC)
    assert (cost.core_hours, cost.gpu_hours) == (2.0, 2.0)
    assert cost.kwh == pytest.approx(2 * 0.010 + 2 * 0.400)
    assert cost.sources == {"estimate"}


def test_measured_energy_is_taken_and_the_rest_estimated():
    cost = cost_of({**HOUR, "gpus": 1, "gpu_joules": 3.6e6}, SPEC)
    assert cost.kwh == pytest.approx(1.0 + 0.020) and cost.sources == {"NVML", "estimate"}
    both = {**HOUR, "gpus": 1, "gpu_joules": 3.6e6, "cpu_joules": 7.2e6}
    assert cost_of(both, SPEC.model_copy(update={"overhead": 1.5})).kwh == pytest.approx(4.5)
    assert cost_of(both, SPEC, sacct_joules=1.0).sources == {"NVML", "RAPL"}
    assert cost_of(HOUR, SPEC, sacct_joules=3.6e6) == Cost(1, 0, 2.0, 0.0, 1.0, frozenset({"sacct"}))


def test_failed_attempts_are_paid_for():
    cost = cost_of({**HOUR, "failed_attempts": [HOUR, HOUR]}, SPEC)
    assert (cost.jobs, cost.failed_attempts, cost.core_hours) == (1, 2, 6.0)


def test_sacct_lines_without_a_measurement_are_left_out():
    assert parsed_sacct("12|3600\n13|0\n14|\n\n15|no\n") == {"12": 3600.0}


# ----------------------------------------------------------------------------- a whole experiment


@pytest.fixture
def plan(test_config, tmp_path, monkeypatch) -> Plan:
    monkeypatch.chdir(tmp_path)
    test_config["cost"] = {"watts_per_core": 10, "grid_g_per_kwh": 300}
    for dataset in test_config["datasets"].values():
        dataset["simulate"]["engine"] = "geant4"
    return Plan.discover(load_config(test_config))


def test_the_table_adds_up_and_compares_with_geant4(plan):
    files = list(plan.simulated)
    for file in files:
        write_json(JOBS["simulate"](plan, file).record("measured"), HOUR)
    for name in ("representation", "generator"):
        write_json(JOBS["train"](plan, name).record("measured"), HOUR)
    job = JOBS["generate"](plan, "generator")
    write_json(job.record("measured"), {**HOUR, "cpu_seconds": 36.0, "slurm_job": "7"})
    write_json(job.output.with_suffix(".measured.json"), {"showers": 1000})
    table = cost_table(plan, {"7": 360.0})
    rows = {row["of"]: row for row in table["rows"]}
    assert rows["all"]["core_hours"] == pytest.approx(2 * (len(files) + 2) + 0.01)
    assert rows["all"]["kwh"] == pytest.approx(sum(row["kwh"] for of, row in rows.items() if of != "all"))
    assert rows["train generator"]["co2_g"] == pytest.approx(0.020 * 300)
    assert rows["generate generator"]["energy_from"] == "sacct"
    assert rows["all"]["energy_from"] == "estimate + sacct"
    *simulated, made = table["showers"]
    showers = next(iter(plan.config.datasets.values())).simulate.showers
    assert simulated[0]["showers_per_kwh"] == pytest.approx(showers / 0.020)
    assert made["showers_per_kwh"] == pytest.approx(1000 / 1e-4)
    assert made["times_geant4"] == pytest.approx(made["showers_per_kwh"] / simulated[0]["showers_per_kwh"])
    assert made["repaid_after"] == round(0.020 / (0.020 / showers - 1e-7))
    page = cost_page(table)
    assert [t["title"] for t in page["tables"]] == ["Cost", "Showers per kWh"]
    assert any("sacct" in note for note in page["notes"])


def test_an_experiment_without_records_has_cost_nothing(plan):
    table = cost_table(plan)
    assert [row["of"] for row in table["rows"]] == ["all"] and table["showers"] == []
    assert table["notes"] == ["no job has left a record of its cost beside its log here; run the workflow first"]


def test_assumptions_change_no_key(test_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = []
    for watts in (10, 20):
        test_config["cost"] = {"watts_per_core": watts}
        plan = Plan.discover(load_config(test_config))
        keys.append([plan.report_key(), plan.run_key("generator"), plan.figures_key()])
    assert keys[0] == keys[1]


def test_an_attempt_that_fails_is_recorded_and_carried_on(plan, monkeypatch):
    job = JOBS["train"](plan, "generator")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="stopped"), recorded(plan, job):
            raise RuntimeError("stopped")
    with recorded(plan, job):
        pass
    assert len(job.measured()["failed_attempts"]) == 2
    assert {"wall_seconds", "cpu_seconds"} <= job.measured()["failed_attempts"][0].keys()


def test_a_job_on_a_gpu_says_which(plan, monkeypatch):
    properties = SimpleNamespace(uuid="1-2-3")
    cuda = SimpleNamespace(
        is_initialized=lambda: True, current_device=lambda: 0, get_device_properties=lambda _: properties
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(energy, "_nvml", FakeNvml)
    with recorded(plan, job := JOBS["generate"](plan, "generator")):
        pass
    assert job.measured()["gpus"] == 1
    training = JOBS["train"](plan, "generator")
    with recorded(plan, training):
        write_json(Path(training.output).parent / "training.measured.json", {"gpu_uuids": ["GPU-1", "GPU-2"]})
    found = read_json(training.record("measured"))
    assert found["gpus"] == 2 and found["gpu_joules"] > 0


def test_cells_are_short():
    assert [shown(value) for value in (None, 1.23456, 7, "x")] == ["", "1.23", "7", "x"]
