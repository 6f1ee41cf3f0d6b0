"""Goal 41: no local variable of our own frames shows a secret, as tools that print tracebacks with variables would."""

from __future__ import annotations

import base64
import traceback
from pathlib import Path

import pytest

import omnistorage
from omnistorage import StorageError, open_backend
from omnistorage.concurrency.retry import RequestPolicy

CANARY = "c4n4ryDO0NOT0SHOW"
KEY = base64.b64encode(CANARY.encode() * 2).decode()
ONCE = {"policy": RequestPolicy(retries=0)}
AZURE = {"container": "b", "account_name": "a", "endpoint_url": "http://127.0.0.1:1/a"}
S3 = {"bucket": "b", "region": "r", "endpoint_url": "http://127.0.0.1:1", "access_key": "a"}
BACKENDS = {
    "s3 sdk": ("s3", {**S3, "secret_key": CANARY, "session_token": CANARY, "client": "sdk"}),
    "s3 obstore": ("s3", {**S3, "secret_key": CANARY, "session_token": CANARY, "client": "obstore"}),
    "azure key": ("az", {**AZURE, "account_key": KEY, "client": "sdk"}),
    "azure sas": ("az", {**AZURE, "sas_token": f"sv=1&sig={CANARY}", "client": "sdk"}),
    "http signature": ("http", {"root": "http://127.0.0.1:1/", "user": "u", "password": CANARY,
                                "signature": f"sig={CANARY}"}),
    "http token": ("http", {"root": "http://127.0.0.1:1/", "token": CANARY, "headers": {"X-Key": CANARY}}),
    "webdav": ("http", {"root": "http://127.0.0.1:1/", "token": CANARY, "headers": {"X-Key": CANARY}, "dav": True}),
    "sftp": ("sftp", {"host": "127.0.0.1", "port": 1, "user": "u", "password": CANARY, "ssh_config": ""}),
    "postgresql": ("sql", {"url": f"postgresql://u:{CANARY}@127.0.0.1:1/d"}),
    "mysql": ("sql", {"url": "mysql://u@127.0.0.1:1/d", "password": CANARY}),
}  # fmt: skip
CALLS = {
    "read": lambda b: b.open_reader("x").read(),
    "write": lambda b: b.open_writer("x").close(),
    "list": lambda b: list(b.list()),
    "delete": lambda b: b.delete("x"),
    "exists": lambda b: b.exists("x"),
}
OURS = str(Path(omnistorage.__file__).parent)


def shown(error):
    """The local variables of our frames that show a secret, wherever the error came along."""
    found, todo, seen = [], [error], set()
    while todo:
        error = todo.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        todo += [error.__cause__, error.__context__]
        for frame, line in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename.startswith(OURS):
                found += [
                    f"{frame.f_code.co_filename}:{line}: {name}"
                    for name, value in list(frame.f_locals.items())
                    if CANARY in repr(value) or KEY in repr(value)
                ]
    return found


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", BACKENDS)
def test_goal_41_no_variable_of_ours_shows_a_secret(name, call):
    kind, options = BACKENDS[name]
    with open_backend(kind, {**options, **ONCE}) as backend:
        with pytest.raises(StorageError) as caught:  # nobody listens there
            CALLS[call](backend)
        assert shown(caught.value) == []
