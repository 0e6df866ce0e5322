"""What `make study-reliability` says: the slopes it takes, the tests it names, and a share of its long runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from workflow_fixtures import REPOSITORY, Workspace


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))


@pytest.fixture
def long_runs() -> Any:
    """The benchmark's module."""
    import long_runs

    return long_runs


def test_the_error_of_a_slope_covers_how_it_scatters(long_runs: Any) -> None:
    """Over many noisy lines the slopes deviate from the true one by as much as their errors say."""
    rng, at, true = np.random.default_rng(3), np.arange(30.0), 0.25
    found = np.array([long_runs.line(at, true * at + rng.normal(size=30)) for _ in range(400)])
    pull = (found[:, 0] - true) / found[:, 1]
    assert abs(np.median(pull)) < 0.15
    assert 0.55 < np.mean(np.abs(pull) < 1) < 0.8 and np.mean(np.abs(pull) < 3) > 0.93


def test_growth_is_told_from_its_noise(long_runs: Any, tmp_path: Path) -> None:
    looks = long_runs.Looks(tmp_path)
    rng = np.random.default_rng(1)
    steady = {"open files": 7, "threads": 3, "log, kB": 1.0}
    for at in range(0, 6000, 100):
        scatter = {"memory, MB": 300 + rng.normal(), "temporary files": at / 1000}
        looks.seen.append({"at": at, **scatter, **steady})
    flat = {row["what"]: row["flat"] for row in looks.rows("batches", "6000 batches")}
    assert flat == {**dict.fromkeys(steady, True), "memory, MB": True, "temporary files": False}


def test_each_fault_names_tests_that_are_there() -> None:
    from reliability_faults import FAULTS

    for fault, tests in [item for of in FAULTS.values() for item in of.items()]:
        for file, words in tests.items():
            names = re.findall(r"^def (test_\w+)", (REPOSITORY / "tests" / f"{file}.py").read_text(), re.M)
            for word in words:
                end = word.partition("[")[0]
                fine = [name for name in names if (name.endswith(end) if "[" in word else end in name)]
                assert len(fine) == 1, (fault, file, word, fine)


def test_what_became_of_a_fault_is_counted() -> None:
    from reliability import counted, wrong

    suite = ElementTree.fromstring(
        """<s><testcase classname="tests.test_a" name="test_full_disk[1]"/>
        <testcase classname="tests.test_a" name="test_full_disk[2]"><failure/></testcase>
        <testcase classname="tests.test_a" name="test_other"><skipped/></testcase>
        <testcase classname="tests.test_b" name="test_full_disk_too"><error/></testcase></s>"""
    )
    cases = list(suite.iter("testcase"))
    row = counted({"test_a": ("full_disk",)}, cases)
    assert row == {"tests": ["test_a::test_full_disk"], "cases": 2, "skipped": 0, "damaged": 1}
    assert counted({"test_a": ("other",), "test_b": ("full",)}, cases)["skipped"] == 1
    gone = counted({"test_a": ("renamed",)}, cases)
    assert gone["damaged"] == 1 and wrong({"faults": [gone]})


def test_a_table_of_ends_says_at_how_many_operations() -> None:
    from reliability import crash_table

    common = {"stage": "merge", "place": "fresh", "operations": 22, "boundaries": 22, "lost": 0, "code": "a"}
    rows = [
        {**common, "how": "k", "ended": 22, "most": None},
        {**common, "how": "k", "ended": 25, "most": None, "place": "again", "boundaries": 25},
        {**common, "how": "f", "ended": 10, "most": 10, "lost": 1},
        {**common, "how": "t", "ended": 4, "most": 10, "boundaries": 4},
        {**common, "how": "k", "ended": 7, "most": None, "operations": 7, "stage": "freeze", "code": "b"},
    ]
    _, _, merge, freeze, total, _, legend = crash_table(rows).splitlines()
    assert merge == "| merge | 22 | 22 | 25 | – | 10 of 22 | 4 | 1 |"
    assert freeze == "| freeze † | 7 | 7 | – | – | – | – | 0 |"
    assert total == "| **all** |  | **29** | **25** | **0** | **10** | **4** | **1** |"
    assert legend.startswith("†") and "†" not in crash_table(rows[:-1])


def test_every_stage_is_ended() -> None:
    from crash_experiment import STAGES as ENDED

    from pipeline.commands.stage import STAGES

    assert {*STAGES, "simulate"} <= {arguments[0] for arguments, _ in ENDED.values()}


def test_what_is_recorded_of_this_code_is_not_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import crash_matrix

    monkeypatch.setattr(crash_matrix, "RESULTS", tmp_path / "crashes.json")
    for task, row in {
        ("fresh", "k", "merge"): {"most": None},
        ("fresh", "k", "train"): {"most": 30},
        ("again", "k", "merge"): {"most": None, "code": "older"},
        ("again", "k", "train"): {"most": 30},
        ("fresh", "l", "merge"): {"most": 10},
        ("fresh", "t", "merge"): {"most": 30, "lost": 1},
    }.items():
        place, how, stage = task
        crash_matrix.record(task, {"place": place, "how": how, "stage": stage, "code": "this", "lost": 0, **row})
    left = crash_matrix.missing(["merge"], "klft", "this", 10)
    assert left == [("again", "k", "merge"), ("fresh", "f", "merge"), ("fresh", "t", "merge")]
    assert crash_matrix.missing(["train"], "k", "this", 10) == [("fresh", "k", "train")]
    assert ("fresh", "l", "merge") in crash_matrix.missing(["merge"], "klft", "this", None)


def test_an_interrupt_ends_all_walks_at_once_and_keeps_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import crash_matrix
    from crash_server import Server
    from crash_walk import Found

    monkeypatch.setattr(crash_matrix, "RESULTS", tmp_path / "crashes.json")
    places, began = crash_matrix.Workplaces(), threading.Semaphore(0)
    for _ in range(2):
        asleep = subprocess.Popen(
            ["sh", "-c", "sleep 600 & wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        places.add(Server(asleep, tmp_path), Workspace(tmp_path))  # type: ignore[arg-type]

    def one(running: Server, workspace: Workspace, task: Any) -> Found:
        if task[2] == "merge":
            return Found("merge", "k", "fresh", operations=1)
        began.release()
        assert running.process.stdout is not None and not running.process.stdout.read()
        raise crash_matrix.Lost("ended")

    def interrupt() -> None:
        began.acquire()
        began.acquire()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    tasks = [("fresh", "k", stage) for stage in ("merge", "train", "generate", "report")]
    handlers = [signal.getsignal(own) for own in (signal.SIGINT, signal.SIGTERM)]
    crash_matrix.interruptible()
    try:
        with pytest.raises(KeyboardInterrupt):
            crash_matrix.walk_all(tasks, places, one, {"most": None, "code": "this"})
    finally:
        for own, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(own, handler)
    assert [stage for _, _, stage in crash_matrix.rows()] == ["merge"]
    for running in places.servers:
        assert running.process.returncode == -signal.SIGKILL
        running.process.communicate()


@pytest.mark.slow
def test_neither_batches_nor_parts_leave_something_open(long_runs: Any) -> None:
    rows = {(row["case"], row["what"]): row for row in long_runs.long_runs(400, 60)}
    for case in ("batches", "parts"):
        for what in ("open files", "threads", "temporary files"):
            assert rows[case, what]["flat"], rows[case, what]
