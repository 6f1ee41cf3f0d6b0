"""No hiding behind flags: what each backend claims is written down in expected_features.toml."""

import pathlib
import subprocess
import sys
import tomllib
from datetime import timedelta

import pytest

from omnistorage import LocalBackend, MemoryBackend, MultiBackend, Tier, TieredBackend
from omnistorage.backends.azure import AzureBackend
from omnistorage.backends.channel import ChannelBackend
from omnistorage.backends.computed import ComputeBackend
from omnistorage.backends.gcs import GCSBackend
from omnistorage.backends.http import HTTPBackend
from omnistorage.backends.s3 import S3Backend
from omnistorage.backends.sftp import SFTPBackend
from omnistorage.backends.sql_blob import SQLBlobBackend
from omnistorage.backends.sql_query import SQLQueryBackend
from omnistorage.core import POWERS, Features, features_of, power
from omnistorage.testing import BasicBackend

EXPECTED = tomllib.loads((pathlib.Path(__file__).parent / "expected_features.toml").read_text())
MAKE = {
    "memory": lambda tmp: MemoryBackend(),
    "memory_flat": lambda tmp: MemoryBackend(dirs=False),
    "local": LocalBackend,
    "channel": lambda tmp: ChannelBackend(),
    "basic": lambda tmp: BasicBackend(),
    "compute": lambda tmp: ComputeBackend({"x.txt": bytes}),
    "compute_timed": lambda tmp: ComputeBackend({"x.txt": bytes}, modified_at="2024-05-01T00:00:00Z"),
    "sql_query": lambda tmp: SQLQueryBackend(f"sqlite:///{tmp}/old.db", {"x.csv": "SELECT 1"}),
    "sql_query_timed": lambda tmp: SQLQueryBackend(
        "postgresql://host/database", {"x.csv": "SELECT 1"}, modified_at="2024-05-01T00:00:00Z"
    ),
    "tiered": lambda tmp: TieredBackend([Tier("hot", MemoryBackend()), Tier("cold", LocalBackend(tmp))]),
    "tiered_match": lambda tmp: TieredBackend(
        [Tier("logs", MemoryBackend(dirs=False), match="logs/**"), Tier("rest", BasicBackend())], "match"
    ),
    "multi": lambda tmp: MultiBackend([MemoryBackend(), LocalBackend(tmp)]),
    "sql": lambda tmp: SQLBlobBackend("sqlite://"),
    "sqlite": lambda tmp: SQLBlobBackend(f"sqlite:///{tmp}/objects.db"),
    "postgresql": lambda tmp: SQLBlobBackend("postgresql://host/database"),
    "mysql": lambda tmp: SQLBlobBackend("mysql://host/database"),
    "sql_existing": lambda tmp: SQLBlobBackend(
        f"sqlite:///{tmp}/old.db", table_name="files", create_table=False, columns={"key": "name", "data": "body"}
    ),
    "az": lambda tmp: AzureBackend("container", account_name="account"),
    "azure": lambda tmp: AzureBackend("container", endpoint_url="http://127.0.0.1:9/account", anonymous=True),
    "abfss": lambda tmp: AzureBackend("container", account_name="account", hierarchical=True),
    "gcs": lambda tmp: GCSBackend("bucket"),
    "gs": lambda tmp: GCSBackend("bucket"),
    "gcs_other": lambda tmp: GCSBackend("bucket", endpoint_url="http://127.0.0.1:9"),
    "gcs_fake": lambda tmp: GCSBackend("bucket", endpoint_url="http://127.0.0.1:9", vendor="fake-gcs-server"),
    "http": lambda tmp: HTTPBackend("http://host/"),
    "https": lambda tmp: HTTPBackend("https://host/", untrusted=True),
    "http_index": lambda tmp: HTTPBackend("http://host/", listing="index"),
    "http_manifest": lambda tmp: HTTPBackend("http://host/", listing="manifest", listing_path="all.ndjson"),
    "http_dav": lambda tmp: HTTPBackend("http://host/", dav=True),
    "http_dav_conditional": lambda tmp: HTTPBackend("http://host/", dav=True, conditional_writes=True),
    "http_dav_index": lambda tmp: HTTPBackend("http://host/", dav=True, listing="index"),
    "s3": lambda tmp: S3Backend("bucket"),
    "s3_other": lambda tmp: S3Backend("bucket", endpoint_url="http://127.0.0.1:9"),
    "s3_seaweedfs": lambda tmp: S3Backend("bucket", endpoint_url="http://127.0.0.1:9", vendor="seaweedfs"),
    "s3_swift": lambda tmp: S3Backend("bucket", endpoint_url="http://127.0.0.1:9", vendor="swift"),
    "sftp": lambda tmp: SFTPBackend("host", "/root"),
    "sftp_plain": lambda tmp: SFTPBackend("host", "/root", posix_rename=False, hardlinks=False, server_copy=True),
}


@pytest.mark.parametrize("name", sorted(MAKE))
def test_every_flag_fact_and_power_is_as_written_down(tmp_path, name):
    backend, expected = MAKE[name](tmp_path), EXPECTED[name]
    features = features_of(backend)
    assert {flag for flag in Features.flags() if getattr(features, flag)} == set(expected["on"])
    assert features.hashes == set(expected["hashes"])
    precision = expected["modified_precision_us"]
    assert features.modified_precision == (timedelta(microseconds=precision) if precision else None)
    assert sorted(kind.__name__ for kind in POWERS if power(backend, kind)) == expected["powers"]
    assert getattr(backend, "durable", False) is expected["durable"]


def test_every_backend_of_the_registry_is_written_down():
    assert set(EXPECTED) == set(MAKE)
    code = "from omnistorage.config import backend_names; print(*backend_names())"  # elsewhere tests register theirs
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(printed.split()) <= {"file", *MAKE}
