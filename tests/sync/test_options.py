"""The options of a sync as a value: what they show, pickle and write down of the secrets that are in them."""

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from omnistorage import BackendConfig, ConfigError
from omnistorage.sync import SyncOptions
from omnistorage.sync.execution.partitions import prepare
from omnistorage.sync.planning.saved_plan import plain, spec_of


@pytest.mark.parametrize(
    "place",
    [
        "sftp://me:CANARY@host/x", "s3://b/x?access_key=a&secret_key=CANARY", "https://host/x/?sig=CANARY",
        {"type": "sftp", "options": {"host": "h", "password": "CANARY"}},
        {"type": "http", "options": {"root": "https://h/", "headers": {"X-Key": "CANARY"}}},
        BackendConfig("sftp", {"host": "h", "password": "CANARY"}),
    ],
)  # fmt: skip
def test_options_show_no_secret_of_their_backup_folder(place):
    options = SyncOptions(backup_dir=place)
    assert "CANARY" not in repr(options)
    assert "CANARY" not in repr(replace(options, delete=True))
    with pytest.raises(ConfigError):
        pickle.dumps(options)
    assert copy.copy(options) is copy.deepcopy(options) is options


@pytest.mark.parametrize(
    "place",
    [
        None, "s3://b/x", "sftp://me@h/x", "sftp://me@[::1]:22/x", "/data/token=1/x", Path("/data/token=1/x"),
        "file:///data/token=1/x", "s3://b/token=1/x?region=eu", "sqlite:///x.db", "postgresql://me@h/db",
        {"type": "sftp", "options": {"host": "h", "password": "${PASSWORD}"}},
    ],
)  # fmt: skip
def test_options_without_a_secret_pickle(place):
    options = SyncOptions(backup_dir=place, delete=True)
    assert pickle.loads(pickle.dumps(options)) == options
    assert copy.copy(options) == copy.deepcopy(options) == options
    assert "delete=True" in repr(options)


@pytest.mark.parametrize(
    "options",
    [
        {"root": "https://h/", "headers": {"X-Key": "CANARY"}}, {"root": "https://h/", "signature": "CANARY"},
        {"root": "https://me:CANARY@h/"},
    ],
)  # fmt: skip
def test_no_secret_of_a_table_is_written_into_a_plan(tmp_path, options):
    table = {"type": "http", "options": options}
    with pytest.raises(ConfigError):
        spec_of(table, "source")
    with pytest.raises(ConfigError):
        plain(SyncOptions(backup_dir=table))
    with pytest.raises(ConfigError):
        prepare(table, tmp_path / "b", tmp_path / "plan")
    assert not (tmp_path / "plan").exists()
    reference = json.loads(json.dumps(table).replace("me:CANARY@", "").replace("CANARY", "${KEY}"))
    assert spec_of(reference, "source") == plain(SyncOptions(backup_dir=reference))["backup_dir"] == reference


@pytest.mark.parametrize("place", ["sftp://me:CANARY@h/x", "s3://b/x?secret_key=CANARY", "sftp://me:a/CANARY@h/x"])
def test_no_secret_of_a_url_is_written_into_a_plan(place):
    with pytest.raises(ConfigError) as caught:
        spec_of(place, "source")
    assert "CANARY" not in str(caught.value)


def test_a_url_without_a_secret_is_written_into_a_plan():
    for place in ("sftp://me@h/x", "s3://b/token=1/x"):
        assert spec_of(place, "source") == place
