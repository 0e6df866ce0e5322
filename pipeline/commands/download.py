"""`caloforge download`: fetch the published raw files of a data set into the folder where its `files` look."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.source import DEFAULT_CONFIG
from pipeline.commands.tables import print_table, size
from pipeline.config import Config, ConfigError, load_config
from pipeline.raw_files import fixed_folder

if TYPE_CHECKING:
    from pipeline.data.download import Remote


def add(commands: Any) -> None:
    """Declare the command."""
    text = "fetch published raw files (datasets.*.download), resuming and verifying"
    parser = commands.add_parser("download", help=text, description=text)
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help="default: all that have `download:`")
    parser.add_argument("--config", default=DEFAULT_CONFIG, help=f"configuration file (default: {DEFAULT_CONFIG})")
    parser.add_argument("--dry-run", action="store_true", help="list what would be fetched, and how much")
    parser.set_defaults(action=_download)


def _download(options: argparse.Namespace) -> None:
    from pipeline.data import download

    config = load_config(options.config)
    open_files: list[tuple[Remote, Path]] = []
    for dataset in _chosen(config, options.datasets):
        spec = config.dataset(dataset)
        assert spec.download is not None and spec.files  # guaranteed by validation
        folder = Path(fixed_folder(spec.files[0]))
        remotes = download.listing(spec.download, folder)
        missing = [remote for remote in remotes if not download.is_finished(remote, folder)]
        state = {remote.name: "to fetch" for remote in missing}
        rows = [[r.name, size(r.n_bytes) if r.n_bytes else "?", state.get(r.name, "there")] for r in remotes]
        print_table(f"{dataset}: into {folder}", ["file", "size", ""], rows)
        open_files += [(remote, folder) for remote in missing]
        if not options.dry_run:
            download.require_space(missing, folder)
    print(f"{len(open_files)} files, {size(sum(remote.n_bytes or 0 for remote, _ in open_files))} to fetch")
    if not options.dry_run:
        for remote, folder in open_files:
            _fetch(remote, folder)


def _chosen(config: Config, names: list[str]) -> list[str]:
    published = [name for name in (*config.datasets, *config.file_samples()) if config.dataset(name).download]
    for name in names or published[:1]:
        if name not in published:
            raise ConfigError(f"expected a data set with `download:`, one of {published}, got '{name}'")
    if not published:
        raise ConfigError("expected a data set with `download:` in the configuration, got none; see docs/data.md")
    return names or published


def _fetch(remote: Remote, folder: Path) -> None:
    """One file, with a bar on a terminal and a line at its end."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from pipeline.data.download import fetch

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress("{task.description}", *columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(remote.name, total=remote.n_bytes)
        print(fetch(remote, folder, advance=lambda n: bar.advance(task, n)))
