"""The plan: which raw files it finds, and which changes change which keys."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pipeline.config import ConfigError, load_config
from pipeline.plan import Plan, _part_name, freeze
from pipeline.provenance import write_json


@pytest.fixture
def raw_folder(tmp_path, monkeypatch, test_config):
    """A working directory with two raw files (any content) and a configuration that finds them."""
    monkeypatch.chdir(tmp_path)
    folder = Path("data/raw/test_siw")
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        (folder / f"{name}.h5").write_bytes(name.encode() * 1000)
    del test_config["datasets"]["test_siw"]["simulate"]
    return folder


def keys(config) -> dict[str, str]:
    plan = Plan.discover(load_config(config))
    return {part: plan.ingest_key("test_siw", part) for part in plan.parts("test_siw")}


def test_touched_or_recopied_file_keeps_its_key(raw_folder, test_config) -> None:
    before = keys(test_config)
    os.utime(raw_folder / "a.h5", (1, 1))
    shutil.copy(raw_folder / "b.h5", raw_folder / "c.tmp")
    os.replace(raw_folder / "c.tmp", raw_folder / "b.h5")
    assert keys(test_config) == before


def test_changed_file_changes_its_key_only(raw_folder, test_config) -> None:
    before = keys(test_config)
    (raw_folder / "a.h5").write_bytes(b"x" * 1000)
    after = keys(test_config)
    assert after["a"] != before["a"] and after["b"] == before["b"]


def test_new_file_is_a_new_part(raw_folder, test_config) -> None:
    (raw_folder / "new.h5").write_bytes(b"n")
    assert list(keys(test_config)) == ["a", "b", "new"]


def test_locked_experiment_ignores_newer_files_and_refuses_changed_ones(raw_folder, test_config) -> None:
    plan = Plan.discover(load_config(test_config))
    for part in plan.parts("test_siw"):
        write_json(plan.paths.part("test_siw", part), {"source": {"digest": "0"}})
    freeze(plan, Path("lock.json"))
    test_config["data_lock"] = "lock.json"
    (raw_folder / "new.h5").write_bytes(b"n")
    assert list(keys(test_config)) == ["a", "b"]
    (raw_folder / "b.h5").write_bytes(b"other")
    with pytest.raises(ConfigError, match=r"b.h5: expected the content that lock.json recorded"):
        keys(test_config)
    (raw_folder / "b.h5").unlink()
    with pytest.raises(ConfigError, match=r"expected raw file .*b.h5, found none"):
        keys(test_config)


def test_no_file_at_all_is_an_error(raw_folder, test_config) -> None:
    test_config["datasets"]["test_siw"]["files"] = "nowhere/*.h5"
    with pytest.raises(ConfigError, match=r"expected files matching 'nowhere/\*.h5', found none"):
        keys(test_config)


def test_part_names_follow_the_wildcards() -> None:
    assert _part_name("data/raw/*.h5", "data/raw/x.h5") == "x"
    assert _part_name("data/*/showers.hdf5", "data/run 1/showers.hdf5") == "run_1--showers"
    assert _part_name("/abs/x.y.h5", "/abs/x.y.h5") == "x.y"


def test_two_files_for_one_part_are_refused(raw_folder, test_config) -> None:
    (raw_folder.parent / "other").mkdir()
    (raw_folder.parent / "other" / "a.h5").write_bytes(b"z")
    test_config["datasets"]["test_siw"]["files"] = ["data/raw/test_siw/*.h5", "data/raw/other/*.h5"]
    with pytest.raises(ConfigError, match="expected one file for part 'a'"):
        keys(test_config)


def test_more_simulated_files_leave_the_others_alone(tmp_path, monkeypatch, test_config) -> None:
    monkeypatch.chdir(tmp_path)
    before = keys(test_config)
    test_config["datasets"]["test_siw"]["simulate"]["files"] += 1
    after = keys(test_config)
    assert len(after) == len(before) + 1 and before.items() <= after.items()


def test_number_of_slices_does_not_change_a_run(tmp_path, monkeypatch, test_config) -> None:
    monkeypatch.chdir(tmp_path)
    before = Plan.discover(load_config(test_config)).run_key("generator")
    test_config["runs"]["generator"]["slices"] = 5
    assert Plan.discover(load_config(test_config)).run_key("generator") == before


def test_saved_plan_is_the_same_plan(raw_folder, test_config) -> None:
    plan = Plan.discover(load_config(test_config))
    assert Plan.load(plan.save()) == plan
