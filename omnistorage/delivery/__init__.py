"""Records delivered to object storage: rolled, partitioned, named, and acknowledged once they are published.

Floor 3: imports floors 0 and 2 only.
"""

from ._object import Committed, Progress
from ._timer import Timer
from .manifest import read_manifest
from .rolling import RollingRecordWriter
from .template import Template

__all__ = ["Committed", "Progress", "RollingRecordWriter", "Template", "Timer", "read_manifest"]
