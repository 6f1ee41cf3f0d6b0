"""Secrets that do not print, log or pickle by accident.

A ``Secret`` is best a reference (an environment variable, a file, a command): it is resolved when a client needs it,
and what travels to another process is the reference. ``mask`` is what every ``repr`` of a configuration goes through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from omnistorage.errors import ConfigError

HIDDEN = "***"
_SECRET_KEY = re.compile(
    r"(?i)(pass(word|phrase|wd)?|secret|token|credential|authorization|api[-_]?key|account[-_]?key|private[-_]?key|"
    r"access[-_]?key(?![-_]?id)|sas|signature|cookie|connection[-_]?string)"
)
# Rather too much than too little: everything from the slashes to the last "@" of the line, or before the next URL.
_USERINFO = re.compile(r"(:/{2,}+)((?:(?!://)[^\n])*)@")  # possessive: no slash is given back and tried again
_SCHEME = re.compile(r"(?:https?|s3|gs|az)$", re.IGNORECASE)
"""Those whose passwords hold no slash, so that what looks like ``host:port/`` is that."""
_HOST = re.compile(r"(?:[^/@\s:\[\]]*|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?/")
_PAIR = re.compile(
    r"(?i)((?:pass(?:word|phrase|wd)?|pwd|secret|token|api[-_]?key|account[-_]?key|access[-_]?key|sas|signature)[\w-]{0,30}"
    r"(?:\"\s*:|'\s*:|\s*=)\s*)(\"[^\"\n]{0,500}\"|'[^'\n]{0,500}'|[^\s&;,'\"}\])]+)"
)
_HEADER = re.compile(
    r"(?i)(\b(?:bearer\s+|(?:proxy-)?authorization['\"]?\s*[:=]\s*['\"]?"
    r"(?:(?:apikey|aws4-hmac-sha256|basic|bearer|digest|negotiate|sharedkey|token)\s+)?+))([\w.~+/=-]{6,})"
)
_URL = re.compile(r"([^/?#]*://[^/?#]*)([^?#]*)(.*)", re.DOTALL)
_LONE_USER = re.compile(r"\A((?!https?:)[a-z][a-z0-9+.-]*://)[^:/?#@\s]+@", re.IGNORECASE)
_QUERY = re.compile(r"[?&;#]([^?&;#=\s]+)=")
_VALUE = re.compile(r"[^&\s]+")
_SECRET_WORDS = frozenset(("sig", "key", "pwd", "auth", "code", "odbc_connect"))
_LOGIN = re.compile(r"^([^\s:/@]+):(?!//)[^\s@]+@")


class Secret:
    """A secret value, or where to find one: ``Secret("...")``, ``Secret.env``, ``Secret.file``, ``Secret.command``.

    ``reveal()`` is the only way to the value. ``repr``, ``str`` and ``format`` never show it. A reference pickles as
    itself; a literal refuses to pickle unless made with ``pickle=True``.
    """

    __slots__ = ("_kind", "_pickle", "_value")

    def __init__(self, value: str, *, pickle: bool = False) -> None:
        if not isinstance(value, str):
            raise ConfigError(f"a secret is a str, not {type(value).__name__}")
        self._kind = "literal"
        self._value: Any = value
        self._pickle = pickle

    @classmethod
    def _reference(cls, kind: str, value: Any) -> Secret:
        secret = cls("")
        secret._kind, secret._value, secret._pickle = kind, value, True
        return secret

    @classmethod
    def env(cls, name: str) -> Secret:
        """The value of an environment variable, read when it is needed."""
        return cls._reference("env", name)

    @classmethod
    def file(cls, path: str) -> Secret:
        """The text of a file without its trailing line end, read when it is needed."""
        return cls._reference("file", str(path))

    @classmethod
    def command(cls, argv: Sequence[str]) -> Secret:
        """What a command prints, without the trailing line end; run without a shell when it is needed."""
        if isinstance(argv, str):
            raise ConfigError("Secret.command takes a list of words, not one string: no shell runs it")
        return cls._reference("command", tuple(argv))

    def reveal(self) -> str:
        """The value. Raises ``ConfigError`` naming the reference, never the value, if it cannot be had."""
        if self._kind == "env":
            from os import environ

            if self._value not in environ:
                raise ConfigError(f"the environment variable {self._value!r} of a secret is not set")
            return environ[self._value]
        if self._kind == "file":
            try:
                with open(self._value, encoding="utf-8") as file:
                    return file.read().rstrip("\r\n")
            except (OSError, ValueError) as error:
                raise ConfigError(f"the secret file {self._value!r} cannot be read: {type(error).__name__}") from None
        if self._kind == "command":
            return self._run()
        return str(self._value)

    def _run(self) -> str:
        import subprocess

        try:
            done = subprocess.run(list(self._value), capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise ConfigError(f"the secret command {self._value[0]!r} failed: {type(error).__name__}") from None
        if done.returncode:
            raise ConfigError(f"the secret command {self._value[0]!r} ended with exit code {done.returncode}")
        return done.stdout.rstrip("\r\n")

    def __repr__(self) -> str:
        if self._kind == "literal":
            return f"Secret({HIDDEN})"
        shown = self._value[0] if self._kind == "command" else self._value
        return f"Secret.{self._kind}({shown!r})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self._kind, self._value) == (other._kind, other._value)

    def __hash__(self) -> int:
        return hash((self._kind, self._value))

    def __reduce__(self) -> Any:
        if not self._pickle:
            raise ConfigError(
                "a literal secret does not pickle: use Secret.env/file/command, or Secret(..., pickle=True)"
            )
        return _restore, (self._kind, self._value)


def _restore(kind: str, value: Any) -> Secret:
    return Secret(value, pickle=True) if kind == "literal" else Secret._reference(kind, value)


def reveal(value: str | Secret | None) -> str | None:
    """The text of a plain or secret option."""
    return value.reveal() if isinstance(value, Secret) else value


def mask_url(text: str) -> str:
    """Hide what may be secret in a URL, or in a text with URLs.

    Hidden are passwords, lone tokens before an ``@``, query values under secret-looking keys, ``password=...`` and
    ``"password": "..."`` as drivers write them, and what follows ``Authorization:`` and ``Bearer``. Where a password
    ends is not always clear, so more may be hidden than is secret.

    Example:
        >>> mask_url("sftp://me:pa/ss@host/x?token=abc")
        'sftp://me:***@host/x?token=***'
    """
    text = _mask_query(_USERINFO.sub(_mask_userinfo, text))
    if "=" in text or ":" in text or " " in text:
        text = _HEADER.sub(rf"\1{HIDDEN}", _PAIR.sub(_mask_pair, text))
    return text


def url_holds_secret(text: str) -> bool:
    """Whether a URL holds a password, or an option whose name says that it is secret.

    A user without a password is none, except over HTTP, where it may be a token. What a path holds is none. Where a
    password may contain a slash or a question mark, the whole URL is looked at.
    """
    found = _URL.match(_LONE_USER.sub(r"\1", text))
    if found is None:
        return False  # a local path
    server, path, options = found.groups()
    unclear = ":" in server.partition("://")[2] and "@" in path + options
    parts = (found[0],) if unclear else (server, options)
    return any(mask_url(part) != part for part in parts)


def _mask_userinfo(found: re.Match[str]) -> str:
    slashes, userinfo = found.groups()
    before = found.string[max(0, found.start() - 8) : found.start()]
    if _SCHEME.search(before) and _HOST.match(userinfo):
        return found[0]  # a path with an "@" in it
    user, colon, _ = userinfo.partition(":")
    if re.search(r"[/\s]", user) or (not colon and len(slashes) > 3):
        return found[0]  # the same
    return f"{slashes}{user}:{HIDDEN}@" if colon else f"{slashes}{HIDDEN}@"


def _mask_pair(found: re.Match[str]) -> str:
    quote = found[2][0] if found[2][0] in "\"'" else ""
    return f"{found[1]}{quote}{HIDDEN}{quote}"


def _mask_query(text: str) -> str:
    parts: list[str] = []
    at = 0
    while found := _QUERY.search(text, at):
        parts.append(text[at : found.end()])
        at = found.end()
        if _is_secret_key(found[1]) and (value := _VALUE.match(text, at)):  # up to the next "&", whatever is in it
            parts.append(HIDDEN)
            at = value.end()
    return "".join(parts) + text[at:]


def _is_secret_key(key: str) -> bool:
    if "%" in key:
        from urllib.parse import unquote  # costs milliseconds, and few keys need it

        key = unquote(key)
    return _SECRET_KEY.search(key) is not None or key.lower() in _SECRET_WORDS


def mask(value: Any, key: str = "") -> Any:
    """A copy of ``value`` fit for printing: whatever stands under a secret-looking key is hidden, nested or not."""
    if isinstance(value, Secret):
        return repr(value)
    if key and _SECRET_KEY.search(key) and not isinstance(value, bool | int | float | None):
        return HIDDEN
    if isinstance(value, Mapping):
        return {name: mask(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mask(item) for item in value)
    return _LOGIN.sub(rf"\1:{HIDDEN}@", mask_url(value)) if isinstance(value, str) else value
