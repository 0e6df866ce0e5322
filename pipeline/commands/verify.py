"""`caloforge verify`: hash everything behind a paper and say what no longer matches its record."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.commands.tables import print_table


def add(commands: Any) -> None:
    """Declare the command."""
    text = "hash data, models, tables and figures behind a paper, and say what no longer matches its record"
    parser = commands.add_parser("verify", help=text, description=text)
    parser.add_argument("results", type=Path, help="results/<experiment>, here or unpacked from a bundle")
    parser.add_argument("--without-data", action="store_true", help="leave out raw files, stores and samples")
    parser.set_defaults(action=_verify)


def _verify(options: argparse.Namespace) -> int:
    from pipeline.paper.verify import verify

    verdict = verify(options.results, data=not options.without_data)
    wrong = [finding.kind for finding in verdict.findings]
    kinds = sorted({*verdict.matching, *verdict.skipped, *wrong})
    rows = [[k, str(verdict.matching[k]), str(wrong.count(k)), str(verdict.skipped[k])] for k in kinds]
    print_table(options.results.as_posix(), ["files", "match", "do not", "not looked at"], rows)
    for note in verdict.notes:
        print(f"note: {note}")
    for finding in verdict.findings:
        print(finding)
    print("the paper does not stand" if wrong else "the paper stands")
    return 1 if wrong else 0
