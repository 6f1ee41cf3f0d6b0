"""OpenStack Swift, through its own S3 API: a vendor that is not like the others."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from typing import Any

from . import SERVERS, Missing, free_port, program, spawn
from .s3 import with_bucket

KEYS = {"access_key": "test:tester", "secret_key": "testing"}
PIPELINE = (  # versions are links, so that versioned_writes stands before symlink
    "catch_errors gatekeeper healthcheck cache listing_formats bulk s3api tempauth copy slo dlo versioned_writes"
    " symlink proxy-server"
)
FILTERS: dict[str, dict[str, Any]] = {
    "cache": {"paste.filter_factory": "remembered:filter_factory"},  # the launcher's
    "s3api": {"use": "egg:swift#s3api", "min_segment_size": 5 << 20},
    "tempauth": {"use": "egg:swift#tempauth", "user_test_tester": "testing .admin"},
    "versioned_writes": {"use": "egg:swift#versioned_writes", "allow_object_versioning": True},
}

_LAUNCHER = """
import json, os, signal, sys, time
from importlib import import_module

from swift.common.ring import RingBuilder


class Cache:
    "What memcached is to the proxy, which else asks for the account and the bucket again with each request."

    def __init__(self):
        self.known = {}

    def set(self, key, value, time=0, **how):
        self.known[key] = json.dumps(value), clock() + (time or 1e9)

    def get(self, key, **how):
        value, until = self.known.get(key, ("null", 0))
        return json.loads(value) if clock() < until else None

    def delete(self, key, server_key=None):
        self.known.pop(key, None)


def filter_factory(*config, **options):
    def placed(app):
        def answer(environ, start_response):
            environ["swift.cache"] = cache
            return app(environ, start_response)

        return answer

    return placed


clock, cache = time.monotonic, Cache()
sys.modules["remembered"] = sys.modules["__main__"]
folder, ports = sys.argv[1], json.loads(sys.argv[2])
for name in ("account", "container", "object"):
    ring = RingBuilder(4, 1, 1)
    ring.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": ports[name], "device": "sdb1", "weight": 1})
    ring.rebalance()
    ring.get_ring().save(f"{folder}/{name}.ring.gz")
os.setsid = lambda: None  # they stay in our group, by which they are stopped
for name in ports:
    if os.fork() == 0:
        sys.argv = [f"swift-{name}-server", f"{folder}/{name}-server.conf"]
        sys.exit(import_module(f"swift.{name.replace('object', 'obj')}.server").main())
os.wait()
os.killpg(0, signal.SIGKILL)  # without one of them the others are of no use
"""


def _config(path: Path, sections: dict[str, dict[str, Any]]) -> None:
    lines = [
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in of.items()) for name, of in sections.items()
    ]
    path.write_text("\n".join(lines))


def start_swift(folder: Path) -> tuple[Any, dict[str, Any]]:
    install = "python3 -m venv .servers/swift && .servers/swift/bin/pip install -r tests/servers/swift.txt"
    python = program(str(SERVERS / "swift" / "bin" / "python"), hint=install)
    program(str(SERVERS / "swift" / "bin" / "swift-proxy-server"), hint=install)
    (folder / "data" / "sdb1").mkdir(parents=True)
    try:
        os.setxattr(folder / "data", "user.omnistorage", b"")
    except (AttributeError, OSError) as error:
        raise Missing(f"it keeps metadata in extended attributes, and {folder} has none: {error}") from error
    ports = {name: free_port() for name in ("account", "container", "object", "proxy")}
    _config(
        folder / "swift.conf",
        {
            "swift-hash": {"swift_hash_path_prefix": "omni", "swift_hash_path_suffix": "storage"},
            "storage-policy:0": {"name": "only", "default": True},
        },
    )
    for name, port in ports.items():
        common = {
            "bind_ip": "127.0.0.1", "bind_port": port, "workers": 1, "user": pwd.getpwuid(os.getuid()).pw_name,
            "swift_dir": folder, "devices": folder / "data", "mount_check": False, "log_level": "ERROR",
        }  # fmt: skip
        if name != "proxy":
            app = {"use": f"egg:swift#{name}"}
            sections = {"DEFAULT": common, "pipeline:main": {"pipeline": f"{name}-server"}, f"app:{name}-server": app}
        else:
            app = {"use": "egg:swift#proxy", "allow_account_management": True, "account_autocreate": True}
            plain = {one: {"use": f"egg:swift#{one}"} for one in PIPELINE.split()[:-1]}
            filters = {f"filter:{one}": of for one, of in {**plain, **FILTERS}.items()}
            sections = {"DEFAULT": common, "pipeline:main": {"pipeline": PIPELINE}, **filters, "app:proxy-server": app}
        _config(folder / f"{name}-server.conf", sections)
    process = spawn([python, "-c", _LAUNCHER, folder, json.dumps(ports)], folder, cwd=folder)
    return with_bucket(process, folder, ports["proxy"], KEYS)
