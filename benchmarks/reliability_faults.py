"""Which tests make which fault: kind -> fault -> test file -> words of the names of its tests."""

from __future__ import annotations

Tests = dict[str, tuple[str, ...]]

FAULTS: dict[str, dict[str, Tests]] = {
    "disks, files, clocks, processes": {
        "full disk": {"test_faults": ("full_disk",)},
        "read-only disk": {"test_faults": ("read_only_disk",)},
        "permission denied": {"test_faults": ("folder_without_permission", "file_without_permission")},
        "raw file vanishes while it is read": {"test_faults": ("vanishes",)},
        "raw file replaced under a running job": {"test_faults": ("replaced_under",)},
        "raw file replaced since the run began": {"test_faults": ("replaced_since",)},
        "raw file replaced with its size and date": {"test_faults": ("keeps_size_and_date",)},
        "truncated checkpoint": {"test_training": ("damaged_checkpoint",)},
        "manifest without store, or not its own": {"test_store": ("damage_is_found",)},
        "store without manifest": {"test_store": ("without_manifest",)},
        "store with a missing chunk or file": {"test_faults": ("any_damaged_file_of_a_store_is_found[missing",)},
        "store with a file cut or emptied": {"test_faults": ("store_is_found[cut", "store_is_found[empty")},
        "flipped bytes": {
            "test_faults": ("store_is_found[flipped",),
            "test_store": ("verify_finds_a_changed_byte",),
            "test_training": ("changed_weights",),
        },
        "two Snakemake runs at once; clocks that jump": {"test_faults": ("two_snakemake",)},
        "two jobs on one part at once": {"test_faults": ("two_jobs",)},
        "clock running backwards": {"test_faults": ("runs_backwards",)},
        "interrupted download": {"test_download": ("cut_connections", "killed_download")},
        "job killed by the kernel": {"test_faults": ("job_killed",)},
        "Dask worker killed by the kernel": {"test_faults": ("dask_worker",)},
        "Snakemake killed": {"test_kill": ("killed_snakemake",)},
    },
    "numbers that cannot be": {
        "NaN, Inf, negative energies": {"test_bad_numbers": ("nan_infinite_and_negative",)},
        "GeV taken for MeV, energies divided twice": {
            "test_bad_numbers": ("wrong_units_are_recognised", "low_showers_are_no_wrong_units")
        },
        "empty showers": {"test_bad_numbers": ("some_empty_showers",), "test_fuzz": ("no_showers",)},
        "duplicated showers": {"test_bad_numbers": ("duplicated_showers",)},
        "detector that does not match": {"test_bad_numbers": ("another_detector",)},
        "angle outside its range": {"test_bad_numbers": ("angle_outside",)},
        "recipe without inverse": {
            "test_config": ("recipe_with_an_inverse",),
            "test_transforms": ("inverse_without_its_numbers",),
        },
        "loss that is not finite": {
            "test_training": ("not_finite_stops_before",),
            "test_bad_numbers": ("batch_of_a_loss",),
        },
    },
    "hostile input": {
        "HDF5: links, virtual data sets, bombs, gigantic shapes": {"test_fuzz": ("what_is_not_in_the_file",)},
        "HDF5: object and compound types": {"test_fuzz": ("the_wrong_type",)},
        "HDF5: free list in a circle": {"test_damaged_files": ("runs_in_circles",)},
        "HDF5: bytes flipped at random": {"test_damaged_files": ("flipped_bytes_are_read",)},
        "YAML: tags, bombs, circles": {
            "test_hostile": ("hostile_configuration_is_refused",),
            "test_config": ("yaml_tags",),
        },
        "XML: entities": {"test_hostile": ("hostile_binning",)},
        "records that are none": {"test_hostile": ("hostile_record",)},
        "model of other sizes than its weights": {"test_hostile": ("believed_about_its_size",)},
        "checkpoint with a pickle": {"test_hostile": ("checkpoint_with_a_pickle",)},
        "paths that climb out": {
            "test_faults": ("hostile_names",),
            "test_hostile": ("configuration_is_refused[climbing",),
            "test_download": ("names_that_lead_elsewhere",),
            "test_paper": ("nothing_outside_its_folder",),
        },
        "a share of the drawn input": {"test_hostile": ("what_is_drawn",)},
    },
    "quarantine": {
        "everything made as if the bad file were not there": {"test_quarantine": ("as_if_the_file",)},
        "its reason in status and report": {"test_quarantine": ("reason_is_in_status",)},
        "taken back when replaced": {"test_quarantine": ("taken_back", "takes_it_back")},
        "a good file replaced by a bad one": {"test_quarantine": ("leaves_no_old_part",)},
        "`on_bad_file: stop`": {
            "test_quarantine": ("stop_refuses",),
            "test_refused_files": ("bad_files_are_named",),
        },
        "what is not the file's fault": {"test_quarantine": ("file_s_fault",)},
    },
}
