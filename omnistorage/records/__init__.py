"""Records in objects: a backend, a codec and a format, composed."""

from __future__ import annotations

from .bad_records import BadRecords
from .byte_streams import as_file
from .open import OpenSettings, layers_for, open_decoded, open_records, pick_codec
from .reader import RecordReader
from .writer import RecordWriter

__all__ = [
    "BadRecords",
    "OpenSettings",
    "RecordReader",
    "RecordWriter",
    "as_file",
    "layers_for",
    "open_decoded",
    "open_records",
    "pick_codec",
]
