"""Records delivered to object storage: rolled, partitioned, named, and acknowledged once they are published.

Floor 3: imports floors 0 and 2 only.
"""

from ._dataset_files import Part
from ._dataset_reader import DatasetReader
from ._object import Committed, Progress
from ._timer import Timer
from .checkpoint import ResumableWriter
from .dataset import Dataset, DatasetJob, DatasetWriter
from .draining import draining
from .handler import OmniHandler, Shipped
from .manifest import read_manifest
from .rolling import RollingRecordWriter
from .spool import Spool, SpoolStatus, spool_status
from .template import Template

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
