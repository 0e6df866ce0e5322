"""The plan: which raw files it finds, and which changes change which keys."""

from __future__ import annotations

import inspect
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.config import ConfigError, load_config
from pipeline.jobs import jobs
from pipeline.plan import Plan, freeze
from pipeline.provenance import fingerprint, write_json
from pipeline.raw_files import part_name
from pipeline.wildcards import of_wildcards


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


def test_one_name_for_different_things_keeps_apart(raw_folder, test_config) -> None:
    mine = Plan.discover(load_config(test_config)).paths
    test_config["datasets"]["test_siw"]["particle"] = "gamma"
    theirs = Plan.discover(load_config(test_config)).paths
    assert mine.part("test_siw", "a") != theirs.part("test_siw", "a")
    assert mine.prefix("log", "test_siw", "a") != theirs.prefix("log", "test_siw", "a")


def test_where_files_come_from_does_not_move_their_parts(raw_folder, test_config) -> None:
    before = Plan.discover(load_config(test_config)).paths.part("test_siw", "a")
    test_config["datasets"]["test_siw"]["files"] = "data/raw/*/*.h5"
    assert Plan.discover(load_config(test_config)).paths.part("test_siw", "a") == before


def test_no_file_at_all_is_an_error(raw_folder, test_config) -> None:
    test_config["datasets"]["test_siw"]["files"] = "nowhere/*.h5"
    with pytest.raises(ConfigError, match=r"expected files matching 'nowhere/\*.h5', found none"):
        keys(test_config)


def testpart_names_follow_the_wildcards() -> None:
    assert part_name("data/raw/*.h5", "data/raw/x.h5") == "x"
    assert part_name("data/*/showers.hdf5", "data/run 1/showers.hdf5") == "run_1--showers"
    assert part_name("/abs/x.y.h5", "/abs/x.y.h5") == "x.y"


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


def test_the_order_of_samples_shapes_no_job(raw_folder, test_config) -> None:
    test_config["samples"]["a_baseline"] = {"baseline": "nearest_energy"}
    plan = Plan.discover(load_config(test_config))
    turned = Plan.discover(load_config({**test_config, "samples": dict(reversed(test_config["samples"].items()))}))
    loaded = Plan.load(turned.save())
    assert list(loaded.config.samples) == list(reversed(plan.config.samples))
    assert {(j.stage, j.name): j.key for j in jobs(plan)} == {(j.stage, j.name): j.key for j in jobs(loaded)}


def test_smoke_touches_nothing_of_the_real_experiment(raw_folder, test_config) -> None:
    real = Plan.discover(load_config(test_config))
    smoke = Plan.discover(load_config({**test_config, "smoke": True}))
    assert set(smoke.files) == {"test_siw_smoke"} and len(smoke.files["test_siw_smoke"]) == 1
    assert smoke.paths.results != real.paths.results
    assert not set(smoke.part_manifests("test_siw_smoke")) & set(real.part_manifests("test_siw"))


def test_smoke_simulates_files_of_its_own(tmp_path, monkeypatch, test_config) -> None:
    monkeypatch.chdir(tmp_path)
    smoke = Plan.discover(load_config({**test_config, "smoke": True}))
    assert set(smoke.simulated) == {f"test_siw_smoke/test_siw_smoke_000{i}" for i in (1, 2)}


def simulated(raw: Path, content: bytes) -> None:
    """A raw file with the record that the simulation writes beside it."""
    raw.parent.mkdir(parents=True, exist_ok=True)
    raw.write_bytes(content)
    write_json(f"{raw}.json", {"fingerprint": fingerprint(raw)})


def test_files_simulated_for_more_than_is_asked_now_are_not_the_users(tmp_path, monkeypatch, test_config) -> None:
    monkeypatch.chdir(tmp_path)
    for i in (1, 2, 3, 4):
        simulated(Path(f"data/raw/test_siw/test_siw_000{i}.h5"), bytes([i]))
    assert list(keys(test_config)) == ["test_siw_0001", "test_siw_0002", "test_siw_0003"]


def test_simulated_files_are_any_data_sets_that_names_them_and_simulates_nothing(raw_folder, test_config) -> None:
    for name in ("a", "b"):
        write_json(raw_folder / f"{name}.h5.json", {"fingerprint": fingerprint(raw_folder / f"{name}.h5")})
    assert Plan.discover(load_config(test_config)).parts("test_siw") == ["a", "b"]


def test_a_file_put_in_the_place_of_a_simulated_one_is_never_simulated_over(tmp_path, monkeypatch, test_config) -> None:
    monkeypatch.chdir(tmp_path)
    raw = Path("data/raw/test_siw/test_siw_0001.h5")
    simulated(raw, b"made here")
    raw.write_bytes(b"put here")
    plan = Plan.discover(load_config(test_config))
    assert "test_siw/test_siw_0001" not in plan.simulated and "test_siw_0001" in plan.files["test_siw"]
    assert plan.simulation_record("test_siw", "test_siw_0001") == []


def test_a_missing_or_foreign_lock_is_explained(raw_folder, test_config) -> None:
    test_config["data_lock"] = "lock.json"
    with pytest.raises(ConfigError, match="make it with `caloforge freeze test`"):
        keys(test_config)
    write_json("lock.json", [])
    with pytest.raises(ConfigError, match="expected a lock written by"):
        keys(test_config)
    write_json("lock.json", {"version": 1, "experiment": "test", "datasets": {}})
    with pytest.raises(ConfigError, match=r"lock\.json: version: expected 2, found 1; freeze again"):
        keys(test_config)


def test_functions_of_wildcards_say_so_at_once() -> None:
    function = of_wildcards(lambda w: w.part * 2)
    assert list(inspect.signature(function).parameters) == ["wildcards"]
    assert function(SimpleNamespace(part="a")) == "aa"
