"""The backends that the tests of the Store run on, by name; each call makes a fresh one."""

import tempfile

import pytest

from omnistorage import LocalBackend, MemoryBackend, Tier, TieredBackend
from omnistorage.testing import BasicBackend

from ..backends import azure_places, gcs_places, sql_places, test_s3, test_sftp_conformance

PLACES = {
    "memory": MemoryBackend,
    "flat": lambda: MemoryBackend(dirs=False),
    "basic": BasicBackend,
    "tiers": lambda: TieredBackend([Tier(name, MemoryBackend()) for name in ("hot", "cold")]),
    "tiers-match": lambda: TieredBackend(
        [
            Tier("some", MemoryBackend(dirs=False), match=["**/a*", "**/d/**"]),
            Tier("rest", MemoryBackend(dirs=False)),
        ],
        "match",
    ),
    "local": lambda: LocalBackend(tempfile.mkdtemp(prefix="omnistorage-store-")),
    "sqlite": lambda: sql_places.Place("file").make(),
    "postgresql": lambda: sql_places.Place("postgres").make(),
    "mariadb": lambda: sql_places.Place("mariadb").make(),
    "s3": lambda: test_s3.fresh("seaweedfs"),
    "s3-moto": lambda: test_s3.fresh("moto", conditional_writes=True),
    "gcs": gcs_places.fresh,
    "azure": azure_places.fresh,
    "azure-hns": lambda: azure_places.fresh("dfs"),
    "sftp": lambda: test_sftp_conformance.make("asyncssh"),
}
SHOWN = ("memory", "flat", "basic", "tiers-match", "local", "sqlite")
"""Those of the default run: with and without folders, basic, composed, and one of each kind that needs no server."""


def params(*names, shown=SHOWN):
    """The ``names`` as parameters; CI alone takes those that are not ``shown``."""
    return [pytest.param(name, marks=() if name in shown else pytest.mark.ci_only) for name in names]
