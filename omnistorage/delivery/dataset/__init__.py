"""Data sets: many record objects that are published and read as one."""

from __future__ import annotations

from .layout import Part
from .reader import DatasetReader
from .writer import Dataset, DatasetJob, DatasetWriter

__all__ = [
    "Dataset",
    "DatasetJob",
    "DatasetReader",
    "DatasetWriter",
    "Part",
]
