"""Records delivered to object storage: rolled, partitioned, named, and acknowledged once they are published."""

from .dataset import Dataset, DatasetJob, DatasetReader, DatasetWriter, Part
from .logging_handler import OmniHandler, Shipped
from .resumable import ResumableWriter
from .rolling.manifest import read_manifest
from .rolling.open_object import Committed, Progress
from .rolling_writer import RollingRecordWriter
from .shutdown import draining
from .spool import Spool, SpoolStatus, spool_status
from .template import Template
from .timer import Timer

__all__ = [
    "Committed",
    "Dataset",
    "DatasetJob",
    "DatasetReader",
    "DatasetWriter",
    "OmniHandler",
    "Part",
    "Progress",
    "ResumableWriter",
    "RollingRecordWriter",
    "Shipped",
    "Spool",
    "SpoolStatus",
    "Template",
    "Timer",
    "draining",
    "read_manifest",
    "spool_status",
]
