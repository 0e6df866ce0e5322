"""Raw layouts: each module describes, reads and writes one; a new layout is one module and one line here."""

from pipeline.data.formats import calochallenge, par04
from pipeline.data.formats.calochallenge import write as write_calochallenge
from pipeline.data.formats.par04 import write as write_par04
from pipeline.data.formats.reader import Description, FormatError, Labels, Reader, Voxels

READERS: dict[str, Reader] = {
    "calochallenge": calochallenge,
    "par04": par04,
}

__all__ = ["READERS", "Description", "FormatError", "Labels", "Reader", "Voxels", "write_calochallenge", "write_par04"]
