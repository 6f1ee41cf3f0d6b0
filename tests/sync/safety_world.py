"""What the tests of safety share."""

from .stores import (
    blind,
    bucket,
    memory,
)

ALL = {"delete": True, "max_delete": "100%"}


STORES = {"checks conditions": memory, "checks none": blind, "flat": lambda: memory(dirs=False), "bucket": bucket}
