"""The options of a sync as a value: what they show, pickle and write down of the secrets that are in them."""

import pickle
from dataclasses import replace

import pytest

from omnistorage import BackendConfig, ConfigError
from omnistorage.sync import SyncOptions
from omnistorage.sync.execution.partitions import prepare


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


def test_options_without_a_secret_pickle():
    for place in (None, "s3://b/x", {"type": "sftp", "options": {"host": "h", "password": "${PASSWORD}"}}):
        options = SyncOptions(backup_dir=place, delete=True)
        assert pickle.loads(pickle.dumps(options)) == options
        assert "delete=True" in repr(options)


@pytest.mark.parametrize(
    "options",
    [
        {"root": "https://h/", "headers": {"X-Key": "CANARY"}}, {"root": "https://h/", "signature": "CANARY"},
        {"root": "https://me:CANARY@h/"},
    ],
)  # fmt: skip
def test_no_secret_of_a_table_is_written_into_a_plan(tmp_path, options):
    with pytest.raises(ConfigError):
        prepare({"type": "http", "options": options}, tmp_path / "b", tmp_path / "plan")
    assert not (tmp_path / "plan").exists()
