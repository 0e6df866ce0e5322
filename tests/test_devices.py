"""GPUs of a workstation: each job its own, the next one waits, a killed one gives back; nvidia-smi is a fake."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from workflow_fixtures import REPOSITORY, environment

from pipeline.cli import main
from pipeline.site.devices import DevicesError, acquire, visible_devices

SHOW = "import os, sys, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"


def fake_smi(folder: Path, *devices: str) -> dict[str, str]:
    """An environment whose nvidia-smi lists these devices, and whose locks lie in the folder."""
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir(exist_ok=True)
    program.write_text("#!/bin/sh\nprintf '%s\\n' " + " ".join(devices) + "\n")
    program.chmod(0o755)
    known = {k: v for k, v in environment().items() if k != "CUDA_VISIBLE_DEVICES" and not k.startswith("SLURM")}
    return {**known, "PATH": f"{program.parent}{os.pathsep}{known['PATH']}", "TMPDIR": str(folder)}


def job(n: int, env: dict[str, str]) -> subprocess.Popen[str]:
    """A job that prints its devices and ends when its input does."""
    words = [sys.executable, "-m", "pipeline", "devices", str(n), sys.executable, "-c", SHOW]
    return subprocess.Popen(words, env=env, cwd=REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def devices_of(running: subprocess.Popen[str]) -> list[str]:
    return running.stdout.readline().strip().split(",")


def test_two_jobs_have_their_own_and_a_third_waits_until_one_is_killed(tmp_path: Path) -> None:
    env = fake_smi(tmp_path, "0", "1")
    first, second = job(1, env), job(1, env)
    held = {devices_of(first)[0]: first, devices_of(second)[0]: second}
    assert set(held) == {"0", "1"}
    third = job(1, env)
    assert not select.select([third.stdout], [], [], 1.0)[0]
    held["1"].kill()
    assert devices_of(third) == ["1"]
    for running in (first, second, third):
        running.communicate("")


def test_all_that_a_job_asks_for_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three = {"CUDA_VISIBLE_DEVICES": "0,1,2"}
    assert acquire(2, three, tmp_path) == ["0", "1"]
    slept: list[float] = []

    def wait(seconds: float) -> None:
        slept.append(seconds)
        raise TimeoutError

    monkeypatch.setattr("pipeline.site.devices.time.sleep", wait)
    with pytest.raises(TimeoutError):
        acquire(2, three, tmp_path)
    assert slept and acquire(1, three, tmp_path) == ["2"]


def test_the_devices_that_a_user_or_slurm_gave(tmp_path: Path) -> None:
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "3,GPU-5a"}) == ["3", "GPU-5a"]
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "-1"}) == []
    given = {"CUDA_VISIBLE_DEVICES": "0", "SLURM_JOB_ID": "7"}  # in its own cgroup every job's device is 0
    assert acquire(1, given, tmp_path) == acquire(1, given, tmp_path) == ["0"]
    assert acquire(1, {"CUDA_VISIBLE_DEVICES": "4,5", "SLURM_JOB_ID": "7"}, tmp_path) == ["4"]
    assert acquire(1, {"CUDA_VISIBLE_DEVICES": "4,5", "SLURM_JOB_ID": "7"}, tmp_path) == ["5"]


def test_more_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(DevicesError, match=r"devices: expected 2 GPU\(s\), found 0; lower `gpu` in the profile"):
        acquire(2, {"CUDA_VISIBLE_DEVICES": "0"}, tmp_path)
    with pytest.raises(DevicesError, match=r"expected 1 GPU\(s\), found none"):
        acquire(1, {"CUDA_VISIBLE_DEVICES": ""}, tmp_path)


def test_none_asked_for_runs_the_command_as_it_is(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pipeline", "devices", "0", "--", "sh", "-c", "exit 7"]
    assert subprocess.run(words, env=fake_smi(tmp_path), cwd=REPOSITORY, check=False).returncode == 7


def test_a_command_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "1"]) == 1
    assert "devices: expected N >= 0 and a command, got none" in capsys.readouterr().err
