"""`caloforge devices N COMMAND...`: run a command on N GPUs that no other job of this machine uses."""

from __future__ import annotations

import argparse
import os
from typing import Any

from pipeline.config import ConfigError
from pipeline.site.devices import VARIABLE, acquire


def add(commands: Any) -> None:
    """Declare the command."""
    text = "run a command on N GPUs that no other job here uses, waiting for them; 0: run it as it is"
    parser = commands.add_parser("devices", help=text, description=text)
    parser.add_argument("n", type=int, metavar="N", help="how many GPUs")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND", help="the command and its arguments")
    parser.set_defaults(action=_devices)


def _devices(options: argparse.Namespace) -> None:
    """Become the command, which inherits the locks and signals as if it had been started itself."""
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if options.n < 0 or not words:
        raise ConfigError("devices: expected N >= 0 and a command, got none; see caloforge devices --help")
    environment = dict(os.environ)
    if options.n:
        environment[VARIABLE] = ",".join(acquire(options.n))
    os.execvpe(words[0], words, environment)
