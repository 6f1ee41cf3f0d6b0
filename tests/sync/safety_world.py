"""What the tests of safety share."""

import os

from .stores import (
    blind,
    bucket,
    memory,
)

FULL = bool(os.environ.get("OMNISTORAGE_FULL"))


ALL = {"delete": True, "max_delete": "100%"}


STORES = {"checks conditions": memory, "checks none": blind, "flat": lambda: memory(dirs=False), "bucket": bucket}
