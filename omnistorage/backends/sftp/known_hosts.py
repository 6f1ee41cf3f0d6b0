"""Whether an SSH server is the one it should be: known_hosts, first use, pinned keys.

A server has to prove who it is before it is told anything: there is no call of paramiko's ``AutoAddPolicy`` here, nor a
setting that accepts any key. Format of known_hosts: sshd(8).
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from omnistorage.errors import ConfigError, PermissionDenied
from omnistorage.posix import open_private

from .settings import KNOWN_HOSTS, NAME, Settings

_BLANKS = re.compile(r"[ \t]+")


def refusal(text: str) -> PermissionDenied:
    return PermissionDenied(text, backend=NAME, op="connect")


def _known_lines(settings: Settings) -> Iterator[tuple[str, str]]:
    """Each line of known_hosts, behind where it stands."""
    files = (settings.known_hosts,) if settings.known_hosts else KNOWN_HOSTS
    for name in files:
        try:
            with open(os.path.expanduser(name), encoding="utf-8", errors="replace") as file:
                for number, line in enumerate(file, 1):
                    yield f"{name}, line {number}", line
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ConfigError(f"known_hosts {name!r} cannot be read: {error.strerror}") from error


def _names_host(patterns: list[str], place: str, paramiko: Any) -> bool:
    """Whether a line for ``patterns`` is about ``place``: hashes, wildcards, negation."""
    held = False
    for pattern in patterns:
        if pattern.startswith("|1|"):
            # ssh(1) hashes names in small letters, others may not.
            held = held or any(paramiko.HostKeys.hash_host(name, pattern) == pattern for name in {place, place.lower()})
        elif pattern.startswith("!"):
            if fnmatchcase(place.lower(), _literal(pattern[1:])):
                return False
        else:
            held = held or fnmatchcase(place.lower(), _literal(pattern))
    return held


def _literal(pattern: str) -> str:
    return pattern.lower().replace("[", "[[]")  # brackets are part of "[host]:port", not of a pattern


def known_keys(settings: Settings, paramiko: Any) -> tuple[list[Any], list[Any]]:
    """The host keys that known_hosts holds for the server, and those it has revoked. Raises ``ConfigError`` for a line
    with a marker that cannot be followed: what it forbids would be allowed."""
    known: list[Any] = []
    revoked: list[Any] = []
    for where, line in _known_lines(settings):
        fields = _BLANKS.split(line.strip(" \t\r\n"))
        marker = fields.pop(0) if fields[0].startswith("@") else ""
        if marker not in ("", "@revoked", "@cert-authority"):
            raise ConfigError(f"known_hosts {where}: nobody knows what {marker!r} means: remove the line or mend it")
        if marker == "@cert-authority" or fields[0].startswith("#") or not fields[0]:
            continue
        is_revoked = marker == "@revoked"
        if is_revoked and len(fields) < 3:
            raise ConfigError(f"known_hosts {where}: what it revokes is not a host, a kind of key and a key")
        try:
            entry = paramiko.hostkeys.HostKeyEntry.from_line(" ".join(fields[:3]))
        except (paramiko.hostkeys.InvalidHostKey, paramiko.SSHException, ValueError) as error:
            if is_revoked:
                raise ConfigError(f"known_hosts {where}: the key that it revokes cannot be read: {error}") from error
            continue  # it proves nothing either way
        if entry is not None and entry.key is not None and _names_host(entry.hostnames, settings.place, paramiko):
            (revoked if is_revoked else known).append(entry.key)
    return known, revoked


def check_host_key(key: Any, settings: Settings, paramiko: Any) -> None:
    """Raise ``PermissionDenied`` unless the server's ``key`` is the one to expect; note it on first use if asked to."""
    shown = f"{key.get_name()} {key.fingerprint}"
    place = settings.place
    if settings.host_key is not None:
        if settings.host_key not in (key.fingerprint, f"{key.get_name()} {key.get_base64()}"):
            raise refusal(f"the host key of {place} is {shown}, not the pinned one: nothing was sent to it")
        return
    known, revoked = known_keys(settings, paramiko)
    if key in revoked:
        raise refusal(f"the host key of {place} ({shown}) is marked @revoked in known_hosts")
    if key in known:
        return
    if known:
        raise refusal(
            f"THE HOST KEY OF {place} HAS CHANGED: it is {shown}, known_hosts has another one. Somebody may be "
            f"listening in, or the server was set up anew; ask its operator, then remove the old key with "
            f"'ssh-keygen -R \"{place}\"'"
        )
    if settings.host_keys != "first-use":
        raise refusal(
            f"the host key of {place} is not known ({shown}). Compare it with what the server's operator says, then "
            f"add it to known_hosts (ssh-keyscan -p {settings.port or 22} {settings.host}), pin it with "
            f"host_key={key.fingerprint!r}, or trust it once with host_keys='first-use'"
        )
    _remember(key, settings)


def _remember(key: Any, settings: Settings) -> None:
    name = os.path.expanduser(settings.known_hosts or KNOWN_HOSTS[0])
    try:
        # Only its owner may change what is believed of a server, whatever the umask says; ssh(1) does the same.
        with open(open_private(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), "a+b") as file:
            ends = file.seek(0, 2)
            file.seek(max(0, ends - 1))
            torn = file.read() not in (b"", b"\n")
            file.write(b"\n" * torn + f"{settings.place} {key.get_name()} {key.get_base64()}\n".encode())
    except OSError as error:
        raise ConfigError(f"the new host key cannot be written to {name!r}: {error.strerror}") from error


def prefer_known_kinds(transport: Any, settings: Settings, paramiko: Any) -> None:
    """Ask first for the kinds of host key that are known of this server, as OpenSSH does."""
    if settings.host_key is not None:
        names = {settings.host_key.partition(" ")[0]}
    else:
        names = {key.get_name() for key in known_keys(settings, paramiko)[0]}
    if "ssh-rsa" in names:
        names |= {"rsa-sha2-512", "rsa-sha2-256"}
    options = transport.get_security_options()
    options.key_types = sorted(options.key_types, key=lambda kind: kind not in names)
