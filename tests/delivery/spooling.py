"""A writer with a spool whose waits are short."""

from __future__ import annotations

from omnistorage.concurrency.retry import Backoff
from omnistorage.delivery import RollingRecordWriter, Spool

SOON = Backoff(base=0.001, cap=0.01)


def spooled(store, folder, template="{seq:04d}.ndjson", **options):
    settings = {"backoff": SOON, "fsync_interval": 0.01, **options.pop("spool", {})}
    return RollingRecordWriter(store, template, spool=Spool(folder, **settings), **options)
