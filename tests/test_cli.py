"""The command line: help is instant, errors are one clear line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.commands.stage import STAGES


@pytest.mark.parametrize("command", [*STAGES, "simulate", "config", "freeze", "unlock"])
def test_every_command_explains_itself(command, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "usage: caloforge" in capsys.readouterr().out


def test_foreseen_errors_are_one_line_without_traceback(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "train", "--config", "nowhere.yaml", "--run", "x"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("caloforge train: nowhere.yaml: expected a configuration file, found none")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--run", "nobody"], r"--run: expected one of .*, got 'nobody'"),
        (["train"], "expected --run, got none"),
        (["simulate"], "expected --output FILE"),
        (["simulate", "--output", "x.h5", "--detector", "LHC"], "--detector: expected one of"),
        (["simulate", "--output", "x.h5", "--energy-gev", "4", "1"], "expected .low, high. with low < high"),
        (["simulate", "--file", "siw/none"], "expected one of"),
        (["train", "--config", "config/test.yaml", "--run", "energy", "--slice", "9"], "--slice: expected 1 to 1"),
        (["evaluate", "--config", "config/test.yaml", "--subject", "nobody"], "--subject: expected one of"),
        (["figures", "--config", "config/test.yaml", "--figure", "nothing"], "--figure: expected one of"),
        (["freeze", "nobody"], "expected a configuration file or the name of an experiment"),
    ],
)
def test_wrong_arguments_say_what_is_expected(arguments, message, capsys) -> None:
    import re

    assert main(arguments) == 1
    assert re.search(message, capsys.readouterr().err)


def test_a_detector_comes_as_the_readme_writes_it(tmp_path, capsys) -> None:
    import re

    readme = (Path(__file__).parent.parent / "README.md").read_text()
    block = re.search(r"```yaml\n(detectors:.*?)```", readme, re.S)[1]
    (tmp_path / "mine.yaml").write_text(block)
    output = tmp_path / "x.h5"
    arguments = ["simulate", "--engine", "parametric", "--showers", "3", "--detector", str(tmp_path / "mine.yaml")]
    assert main([*arguments, "--output", str(output)]) == 0
    import h5py

    assert h5py.File(output).attrs["detector"] == "MyCalo"


def test_config_check_counts_what_it_found(capsys) -> None:
    assert main(["config", "check", "config/test.yaml"]) == 0
    assert "3 runs, 3 samples: correct" in capsys.readouterr().out
