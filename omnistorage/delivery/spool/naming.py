"""What the names of a spool's records are made of, noted in its folder while they are deterministic.

A record that waits may be published already, under the name that the last writer gave it. A writer that makes other
names would publish it again.
"""

from __future__ import annotations

import json

from omnistorage import ops
from omnistorage.config import locate
from omnistorage.core import WriteOptions
from omnistorage.core.bounded_read import NOTES, read_small
from omnistorage.delivery.rolling.settings import Plan
from omnistorage.errors import ConfigError, NotFound

from .storage import Folder

FILE = "names.json"


def must_agree(plan: Plan, folder: Folder) -> None:
    """Raise ``ConfigError`` if records wait that the last writer had other names for; else note those of ``plan``."""
    backend, place = locate(folder.path, is_object=False, defaults={"private": True})
    path = f"{place}/{FILE}" if place else FILE
    try:
        try:
            noted = read_small(backend, path, NOTES)
        except NotFound:
            noted = b""
        wanted = _names(plan) if plan.deterministic else b""
        if noted == wanted:
            return
        waiting = folder.next - folder.acked - 1
        if noted and waiting > 0:
            raise ConfigError(
                f"the spool {folder.path} holds {waiting} records that may be published under names made of "
                f"{noted.decode(errors='replace')}: deliver them with a writer of these settings first, or they may "
                "be published twice"
            )
        if wanted:
            ops.write_bytes(backend, path, wanted, WriteOptions(durable=True))
        else:
            backend.delete(path)
    finally:
        backend.close()


def _names(plan: Plan) -> bytes:
    template = plan.template
    text = template.text + template.pieces[-1].literal  # with the suffix of format and codec
    return json.dumps({"template": text, "source": plan.source, "zone": str(template.zone)}).encode()
