"""The settings of an SFTP connection, and what ssh_config adds to them."""

from __future__ import annotations

import os.path
from dataclasses import dataclass, replace
from typing import Any

from omnistorage.core.secret import Secret
from omnistorage.errors import ConfigError, MissingExtra

NAME = "sftp"
KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")


@dataclass(frozen=True)
class Settings:
    """Where to connect, as whom, and what to believe."""

    host: str
    port: int | None = None
    user: str | None = None
    password: Secret | None = None
    key_files: tuple[str, ...] = ()
    key: Secret | None = None
    passphrase: Secret | None = None
    agent: bool | None = None
    host_keys: str = "strict"
    host_key: str | None = None
    known_hosts: str | None = None
    jump: str | None = None
    ssh_config: str = ""
    connect_timeout: float = 10.0
    timeout: float = 30.0
    keepalive: float = 30.0

    @property
    def place(self) -> str:
        """The name of the server in known_hosts."""
        return self.host if self.port in (None, 22) else f"[{self.host}]:{self.port}"


def load_paramiko() -> Any:
    try:
        import paramiko
    except ImportError as error:
        raise MissingExtra(extra="sftp") from error
    return paramiko


def with_config(settings: Settings, paramiko: Any) -> Settings:
    """``settings`` with what ssh_config says where they say nothing themselves."""
    path = os.path.expanduser(settings.ssh_config) if settings.ssh_config else ""
    found: dict[str, Any] = {}
    if path and (os.path.exists(path) or settings.ssh_config[:1] != "~"):
        try:
            found = paramiko.SSHConfig.from_path(path).lookup(settings.host)
        except (OSError, ValueError, paramiko.SSHException) as error:
            raise ConfigError(f"the ssh_config {settings.ssh_config!r} cannot be used: {error}") from error
    if "proxycommand" in found and settings.jump is None:
        raise ConfigError("ProxyCommand in ssh_config is not supported: use ProxyJump, or the option jump")
    jump = found.get("proxyjump") if settings.jump is None else settings.jump
    hosts = found.get("userknownhostsfile", "").split()[:1]
    return replace(
        settings,
        host=found.get("hostname", settings.host),
        port=settings.port or int(found.get("port", 22)),
        user=settings.user or found.get("user") or _login_name(),
        key_files=settings.key_files
        or (() if settings.key else tuple(name for name in found.get("identityfile", ()) if os.path.isfile(name))),
        known_hosts=settings.known_hosts or (hosts[0] if hosts else None),
        jump=None if jump in (None, "", "none") else jump,
    )


def _login_name() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        raise ConfigError("the login name is not known: give the option user") from error
