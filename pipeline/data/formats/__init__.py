"""Raw layouts: each module declares, describes and reads one; a new layout is one module and one line here."""

from pipeline.data.formats import calochallenge, calochallenge_ds1, lemurs, native, par04, par04_events
from pipeline.data.formats.calochallenge import write as write_calochallenge
from pipeline.data.formats.par04 import write as write_par04
from pipeline.data.formats.reader import Description, FormatError, Labels, Layout, Reader, Voxels, Writer

READERS: dict[str, Reader] = {
    "calochallenge": calochallenge,
    "calochallenge_ds1": calochallenge_ds1,
    "caloforge": native,
    "lemurs": lemurs,
    "par04": par04,
    "par04_events": par04_events,
}
WRITERS: dict[str, Writer] = {"calochallenge": calochallenge, "caloforge": native, "par04": par04}

__all__ = [
    "READERS",
    "WRITERS",
    "Description",
    "FormatError",
    "Labels",
    "Layout",
    "Reader",
    "Voxels",
    "Writer",
    "write_calochallenge",
    "write_par04",
]
