"""`caloforge doctor` against fakes of sinfo, sacct, scontrol and nvidia-smi: every line has its remedy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from workflow_fixtures import REPOSITORY

from pipeline.cli import main
from pipeline.commands.doctor import examine, read_profile
from pipeline.config import ConfigError
from pipeline.site import checkup
from pipeline.site.findings import Finding
from pipeline.site.slurm import check_slurm, evaluated, minutes_of, parse_partitions

SINFO = """\
cpu|up|1-00:00:00|32|64000|(null)
gpu|up|2-00:00:00|16+|128000+|gpu:a100:4(S:0-1)
gpu|up|2-00:00:00|64|256000|gpu:h100:8,nvme:1
old|down|infinite|8|16000|(null)"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a fake program on PATH that prints a text, and hides the real ones; `None`: it fails."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def put(name: str, text: str | None) -> None:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\nexit 1\n" if text is None else f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
        path.chmod(0o755)

    for name in ("sinfo", "sacct", "scontrol", "nvidia-smi"):
        put(name, None)
    return put


@pytest.fixture
def profile() -> dict:
    return read_profile(str(REPOSITORY / "profiles" / "slurm"))


def finding(found: list[Finding], what: str) -> Finding:
    (one,) = [f for f in found if f.what == what]
    return one


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [("30", 30), ("10:30", 10.5), ("2:00:00", 120), ("1-00:00:00", 1440), ("7-12", 10800), ("1-2:30", 1590)],
)
def test_slurms_times(limit: str, minutes: float) -> None:
    assert minutes_of(limit) == minutes


@pytest.mark.parametrize(
    ("value", "number"),
    [(30, 30), ("16000 * attempt", 32000), ("2h", 120), ("1d12h", 2160), ("60 + 940 * (attempt - 1)", 1000)],
)
def test_requests_at_the_second_attempt(value: object, number: float) -> None:
    assert evaluated(value, 2) == number
    assert evaluated("max(2 * input.size_mb, 1000)", 2) is None


def test_the_largest_node_of_a_partition_counts() -> None:
    gpu = parse_partitions(SINFO)["gpu"]
    assert (gpu.cpus, gpu.mem_mb, gpu.gpus, gpu.minutes, gpu.up) == (64, 256000, 8, 2880, True)
    assert parse_partitions(SINFO)["old"].minutes is None


def test_our_profile_on_a_cluster_that_has_what_it_asks_for(program, profile) -> None:
    program("sinfo", SINFO)
    program("scontrol", "MinJobAge               = 300 sec")
    found = check_slurm(profile)
    assert {f.level for f in found} == {"ok"}
    assert finding(found, "slurm, train").text == "16000 MB, 480 min, 1 GPU in gpu"
    assert finding(found, "slurm accounting").text == "none; squeue is asked instead"


@pytest.mark.parametrize(
    ("change", "level", "text"),
    [
        ({"slurm_partition": "gpus"}, "fail", "partition gpus: there is none of that name; name one of cpu, gpu, old"),
        ({"slurm_partition": "old"}, "fail", "partition old is down; name another"),
        ({"slurm_partition": "cpu"}, "fail", "1 GPU(s) asked for, its nodes have 0; lower it in the profile"),
        ({"gpu": 9}, "fail", "9 GPU(s) asked for, its nodes have 8"),
        ({"mem_mb": 300000}, "fail", "300000 MB asked for, its largest node has 256000"),
        ({"runtime": "3d"}, "fail", "4320 min asked for, its limit is 2880"),
        ({"runtime": "1000 * attempt"}, "warn", "the last attempt would be refused: 3000 min asked for"),
        ({"slurm_partition": None}, "warn", "no partition named; Slurm takes its default; set slurm_partition"),
    ],
)
def test_what_a_rule_asks_for_and_the_cluster_has_not(program, profile, change, level, text) -> None:
    program("sinfo", SINFO)
    profile["set-resources"]["train"] |= change
    found = finding(check_slurm(profile), "slurm, train")
    assert found.level == level
    assert text in str(found)


def test_accounting_and_a_cluster_that_forgets(program, profile) -> None:
    program("sinfo", SINFO)
    program("scontrol", "MinJobAge = 60 sec")
    assert "jobs are forgotten 60 s after their end; ask the" in str(finding(check_slurm(profile), "slurm accounting"))
    failed = finding(check_slurm(profile | {"slurm-efficiency-report": True}), "slurm accounting")
    assert failed.level == "fail" and failed.remedy == "comment out slurm-efficiency-report in the profile"
    failed = finding(check_slurm({**profile, "slurm-status-command": "sacct"}), "slurm accounting")
    assert failed.level == "fail" and failed.remedy == "set slurm-status-command: squeue in the profile"
    program("sacct", "")
    assert finding(check_slurm(profile), "slurm accounting").level == "ok"


def test_no_slurm_at_all(program, profile) -> None:
    (found,) = check_slurm(profile)
    assert str(found) == "fail  slurm: sinfo does not answer; run this on a login node of the cluster"


@pytest.mark.parametrize(
    ("driver", "built", "available", "gpus", "level", "text"),
    [
        (None, None, False, 0, "ok", "no NVIDIA driver here"),
        (None, None, False, 2, "fail", "the profile hands out 2, there is no driver"),
        ("12.8", None, False, 1, "fail", "was built without CUDA, the driver has CUDA 12.8; install the torch build"),
        ("12.8", "13.0", False, 1, "fail", "built for CUDA 13.0, the driver has CUDA 12.8; update the driver"),
        ("12.2", "12.8", False, 1, "fail", "nvidia-smi lists 0, 1, torch sees none; look at CUDA_VISIBLE_DEVICES"),
        ("12.8", "12.6", True, 1, "warn", "the profile hands out 1 of 2"),
        ("12.8", "12.6", True, 3, "fail", "the profile hands out 3, there are 2; lower `gpu`"),
        ("12.8", "12.6", True, 2, "ok", "2 of H200"),
    ],
)
def test_torch_driver_and_gpus(program, monkeypatch, driver, built, available, gpus, level, text) -> None:
    import torch

    if driver:
        program("nvidia-smi", f"case $1 in *query*) printf '0\\n1\\n';; *) echo 'CUDA Version: {driver}';; esac")
        smi = Path(os.environ["PATH"].split(os.pathsep)[0]) / "nvidia-smi"
        smi.write_text("#!/bin/sh\n" + smi.read_text().splitlines()[2] + "\n")
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H200")
    last = checkup.check_gpu({"resources": [f"gpu={gpus}"]} if gpus else {})[-1]
    assert last.level == level
    assert text in str(last)


def test_a_missing_plugin_is_named(monkeypatch) -> None:
    assert checkup.check_software({"executor": "slurm"})[1].level == "ok"
    found = checkup.check_software({"executor": "lsf"})[1]
    assert str(found) == "fail  snakemake-executor-plugin-lsf: not installed; pip install snakemake-executor-plugin-lsf"
    monkeypatch.setattr(checkup, "version", lambda _: "8.30.1")
    assert "expected 9.5 or later, found 8.30.1" in checkup.check_software({})[0].text


def test_geant4s_data(tmp_path, monkeypatch, test_config) -> None:
    for name in checkup.GEANT4_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert checkup.check_geant4(None) == []
    test_config["datasets"]["test_siw"]["simulate"]["engine"] = "geant4"
    Path("mine.yaml").write_text(yaml.safe_dump(test_config))
    assert finding(examine("mine.yaml", {}), "geant4").level == "warn"
    monkeypatch.setenv("G4LEDATA", str(tmp_path / "none"))
    assert "G4LEDATA: expected a folder, found none at" in finding(examine("mine.yaml", {}), "geant4").text
    monkeypatch.setenv("G4LEDATA", str(tmp_path))
    assert finding(examine("mine.yaml", {}), "geant4").level == "ok"


def test_memory_against_the_largest_part_and_space_against_what_is_not_ingested(
    tmp_path, monkeypatch, test_config
) -> None:
    from pipeline.config import load_config
    from pipeline.plan import Plan

    monkeypatch.chdir(tmp_path)
    del test_config["datasets"]["test_siw"]["simulate"]
    Path("data/raw/test_siw").mkdir(parents=True)
    with open("data/raw/test_siw/a.h5", "wb") as handle:
        handle.truncate(10**13)
    monkeypatch.setattr("pipeline.raw_files.FingerprintCache.__call__", lambda *_: "0", raising=True)
    plan = Plan.discover(load_config(test_config))
    assert "up to 1e+04 GB may be written; free some" in str(checkup.check_scratch(plan)[0])
    manifest = plan.paths.part("test_siw", "a")
    manifest.parent.mkdir(parents=True)
    given = {"set-resources": {"train": {"mem_mb": "1000 * attempt"}}}
    assert "no part is ingested yet; the profile gives train 1000 MB" in str(checkup.check_memory(plan, given)[0])
    for n_hits, level in ((1e6, "ok"), (1e9, "fail")):
        manifest.write_text(f'{{"n_hits": {n_hits}}}')
        found = checkup.check_memory(plan, given)
        assert found[0].level == level
    assert str(found[0]).startswith("fail  memory: the largest part takes 6000 MB, the profile gives train 1000")
    (manifest.parent / "b.json").write_text('{"n_hits": 7e7}')
    manifest.write_text('{"n_hits": 7e7}')
    (Path("data/raw/test_siw") / "b.h5").write_bytes(b"")
    found = checkup.check_memory(Plan.discover(load_config(test_config)), given)
    assert finding(found, "memory, generator").level == "warn" and "it will stream" in found[1].remedy


def test_lines_and_exit_status(tmp_path, monkeypatch, capsys, program) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", str(REPOSITORY / "config" / "test.yaml"), "--profile", str(REPOSITORY / "slurm")]) == 1
    printed = capsys.readouterr().out
    assert "fail  slurm: sinfo does not answer; run this on a login node of the cluster\n" in printed
    assert printed.splitlines()[-1].startswith("1 failed, ")
    Path("wrong.yaml").write_text("experiment: x\nrunz: {}\n")
    assert main(["doctor", "wrong.yaml"]) == 1
    assert "fail  configuration: " in capsys.readouterr().out


def test_a_profile_that_is_not_there(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"--profile: expected a folder with config.yaml, found none at pbs"):
        read_profile("pbs")
