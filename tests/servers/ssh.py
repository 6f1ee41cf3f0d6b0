"""SSH servers: OpenSSH's sshd, and asyncssh's in Python. Both let in one user by one key and serve ``root``."""

from __future__ import annotations

import getpass
import os
import socket
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import Missing, free_port, program, spawn, until

ASYNCSSH = """
import asyncio, sys
import asyncssh

host, auth, root, port = sys.argv[1:]


class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return True

    def password_auth_supported(self):
        return True

    def validate_password(self, username, password):
        return password == "the right password"


async def main():
    await asyncssh.listen(
        "127.0.0.1", int(port), server_factory=Server, server_host_keys=[host], authorized_client_keys=auth,
        sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=root.encode()),
    )
    await asyncio.get_running_loop().create_future()


asyncio.run(main())
"""


def keys(folder: Path, *names: str, kind: str = "ed25519", passphrase: str = "") -> None:
    """Key pairs in ``folder``, as ssh-keygen would make them."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    make = {
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
    }[kind]
    lock = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    for name in names:
        key = make()
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, lock)
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(private)
        (folder / f"{name}.pub").write_bytes(public + b"\n")


def greets(port: int) -> None:
    """Raise unless an SSH server answers."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as one:
        if not one.recv(4).startswith(b"SSH-"):
            raise ConnectionError("no SSH there")


def _prepared(folder: Path) -> tuple[int, dict[str, Any]]:
    if find_spec("paramiko") is None:
        raise Missing("pip install paramiko")
    keys(folder, "host", "user")
    (folder / "root").mkdir()
    (folder / "auth").write_bytes((folder / "user.pub").read_bytes())
    port = free_port()
    public = (folder / "host.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")
    return port, {
        "host": "127.0.0.1",
        "port": port,
        "user": getpass.getuser(),
        "key_file": str(folder / "user"),
        "known_hosts": str(folder / "known_hosts"),
        "host_key": f"{public[0]} {public[1]}",
        "auth": str(folder / "auth"),
        "root": str(folder / "root"),  # on this machine
    }


def start_sshd(folder: Path) -> tuple[Any, dict[str, Any]]:
    sshd = program("sshd", hint="apt-get install openssh-server")
    port, info = _prepared(folder)
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nPidFile {folder}/pid\n"
        f"AuthorizedKeysFile {folder}/auth\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nAllowTcpForwarding yes\n"
        "Subsystem sftp internal-sftp\nLogLevel VERBOSE\nMaxStartups 200:30:400\nMaxSessions 100\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it confines itself to
    process = spawn([sshd, "-D", "-e", "-f", folder / "sshd_config"], folder)
    until(lambda: greets(port), process, folder)
    return process, {**info, "prefix": info["root"]}


def start_asyncssh(folder: Path) -> tuple[Any, dict[str, Any]]:
    if find_spec("asyncssh") is None:
        raise Missing("pip install asyncssh")
    port, info = _prepared(folder)
    command = [sys.executable, "-c", ASYNCSSH, folder / "host", folder / "auth", folder / "root", port]
    process = spawn(command, folder)
    until(lambda: greets(port), process, folder)
    return process, {**info, "prefix": "/"}


# -- for the tests -----------------------------------------------------------------------------------------------------


def options_of(info: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The options that open a fresh folder of the server ``info`` as a backend."""
    name = os.path.basename(tempfile.mkdtemp(prefix="t-", dir=info["root"]))
    known = {name: info[name] for name in ("host", "port", "user", "key_file", "known_hosts")}
    return {**known, "root": f"{info['prefix'].rstrip('/')}/{name}", "ssh_config": "", **more}


def on_disk(info: dict[str, Any], root: str) -> Path:
    """Where the ``root`` of a backend is on this machine."""
    return Path(info["root"]) / os.path.basename(root)
