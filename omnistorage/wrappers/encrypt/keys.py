"""The keys of ``Encrypt``: which there are, which one writes, where they come from.

A key is resolved when an object first needs it and kept in memory only: what prints or pickles is the reference.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

from omnistorage.core.secret import Secret
from omnistorage.errors import ConfigError

from .format import KEY, check_key_id

DEFAULT = "default"
"""The id of a key that was given without one."""


class Keyring:
    """Master keys by id, and ``key_id``, the id of the one that new objects are written with."""

    def __init__(self, keys: object, key_id: str | None) -> None:
        if isinstance(keys, Mapping):
            self._secrets = {check_key_id(name): _secret(name, key) for name, key in keys.items()}
            if key_id is None and len(self._secrets) != 1:
                raise ConfigError(f"say which of {len(self._secrets)} keys to write with: key_id=...")
        else:
            name = check_key_id(DEFAULT if key_id is None else key_id)
            self._secrets = {name: _secret(name, keys)}
        self.key_id = next(iter(self._secrets)) if key_id is None else key_id
        if self.key_id not in self._secrets:
            raise ConfigError(f"there is no key {self.key_id!r} among {sorted(self._secrets)} to write with")
        self._known: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"Keyring({sorted(self._secrets)}, key_id={self.key_id!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": {}}

    def master(self, key_id: str, path: str) -> bytes:
        """The key called ``key_id``. ``ConfigError`` if there is none of this name, or it is no key."""
        if key_id not in self._known:
            if key_id not in self._secrets:
                raise ConfigError(
                    f"the object was encrypted with the key {key_id!r}; there are the keys {sorted(self._secrets)}",
                    path=path,
                )
            self._known[key_id] = _decoded(key_id, self._secrets[key_id].reveal())
        return self._known[key_id]

    def same_as(self, other: Keyring) -> bool:
        """Whether both read the same objects."""
        if self._secrets == other._secrets:
            return True
        return self._secrets.keys() == other._secrets.keys() and all(
            self.master(name, "") == other.master(name, "") for name in self._secrets
        )

    def place(self) -> str:
        """A token that is the same exactly where the keys are given in the same way, and tells nothing of them."""
        digest = hashlib.sha256(b"omnistorage Encrypt.url\0")
        for name, secret in sorted(self._secrets.items()):
            digest.update(repr((name, secret._kind, secret._value)).encode())
        return digest.hexdigest()[:16]


def _secret(name: str, key: object) -> Secret:
    if isinstance(key, Secret):
        return key
    if not isinstance(key, bytes):
        raise ConfigError(f"the key {name!r} is {KEY} bytes or a Secret, not {type(key).__name__}")
    if len(key) != KEY:
        raise ConfigError(f"the key {name!r} has {len(key)} bytes: it takes {KEY} random ones")
    return Secret(key.hex())


def _decoded(name: str, text: str) -> bytes:
    """A key from its text: hexadecimal, or base64 with either alphabet."""
    key = b""
    try:
        if len(text) == 2 * KEY:
            key = bytes.fromhex(text)
        elif len(text.rstrip("=")) == 43:
            key = base64.b64decode(text.rstrip("=").replace("-", "+").replace("_", "/") + "=", validate=True)
    except (ValueError, binascii.Error):
        pass  # neither the text nor what is wrong with it is shown
    if len(key) != KEY:
        raise ConfigError(f"the secret of the key {name!r} is not {KEY} bytes in hexadecimal or base64")
    return key
