"""One module per command: `add(commands)` declares its options and names the function that does it.

A new command is one module here and one line in `COMMANDS`, whose order is that of `caloforge --help`. Modules
import nothing heavy at their top: numpy, torch, zarr and the stages wait until the command runs.
"""

from pipeline.commands import (
    bundle,
    configuration,
    cost,
    devices,
    doctor,
    download,
    export_dense,
    freeze,
    inspect,
    lineage,
    prune,
    redraw,
    simulate,
    stage,
    status,
    unlock,
    verify,
    why,
)

COMMANDS = (
    download,
    simulate,
    stage,
    export_dense,
    status,
    why,
    cost,
    inspect,
    lineage,
    configuration,
    freeze,
    verify,
    redraw,
    bundle,
    prune,
    unlock,
    devices,
    doctor,
)
