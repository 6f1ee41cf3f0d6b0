"""obstore as a second client of object stores: single reads and small writes, for a fraction of an SDK's CPU time.

What its stores have in common stands here: how a request is made, what comes back, and how it goes wrong. Each store's
own file says what is left to the SDK. ADR 0010 has the reasons.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, timedelta
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from omnistorage.concurrency.in_flight import abandonable
from omnistorage.core import ObjectInfo
from omnistorage.errors import (
    BackendUnavailable,
    CapabilityNotSupported,
    ConfigError,
    MissingExtra,
    PermissionDenied,
    StorageError,
)

from .client import Body, Get, Put
from .obstore_body import Streamed, Whole

log = logging.getLogger(__name__)
SMALL = 256 * 1024
"""Bodies up to this come with the call that asks for them."""
LONG = 1 << 20
"""Bodies over this are the SDK's to send: obstore counts its read timeout from the beginning of the request. So is
what is behind the beginning of a long one to read: as a stream the SDK's takes less."""
_NOWHERE = "http://127.0.0.1:0"
"""Nobody can listen there."""
_HEADERS = (
    "Cache-Control",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Type",
    "Storage-Class",
)
_ALIASES = frozenset(name.lower().replace("-", "") for name in _HEADERS)
"""User metadata of these names would become headers."""
_first: list[int] = []
"""The process whose threads obstore runs on; it has one runtime, which a forked child cannot use."""


def _after_fork() -> None:
    if "obstore" in sys.modules and not _first:  # somebody else may have used it
        _first.append(0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def use_obstore(client: str, suits: bool, cannot: str, backend: str, endpoint: str) -> bool:
    """Whether obstore takes the data path for ``client`` ("auto", "sdk", "obstore"): where it is installed, ``suits``,
    and there is nothing that it ``cannot`` do of what the SDK was told. In a forked child it cannot."""
    if client == "sdk":
        return False
    cannot = cannot or _behind_proxy(endpoint)
    if client == "obstore":
        if find_spec("obstore") is None:
            raise MissingExtra(
                'client="obstore" needs obstore: pip install "omnistorage[accel]"', extra="accel", backend=backend
            )
        if cannot:
            raise ConfigError(f"{cannot}: use client='sdk'", backend=backend)
    elif not suits or cannot or find_spec("obstore") is None:
        return False
    return not _first or _first[0] == os.getpid()


def check_client(client: str, unable: str) -> None:
    """Refuse what is no client, and obstore beside what it is ``unable`` to do."""
    if client not in ("auto", "sdk", "obstore"):
        raise ConfigError(f"client={client!r}: use auto, sdk or obstore")
    if client == "obstore" and unable:
        raise ConfigError(unable)


def private_ca(endpoint: str) -> str:
    """What obstore cannot do where the environment names certificates of one's own, as ``requests`` has it."""
    named = any(map(os.environ.get, ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")))
    return "obstore does not know the certificates of one's own" if named and endpoint.startswith("https:") else ""


def _behind_proxy(endpoint: str) -> str:
    """What obstore cannot do where the environment names a proxy for the endpoint: its own is taken, see
    ``request_options``."""
    parts = urlsplit(endpoint)
    proxies = getproxies()
    named = proxies.get(parts.scheme) or proxies.get("all")
    return "obstore goes through no proxy" if named and not proxy_bypass(parts.hostname or "") else ""


def request_options(endpoint: str, timeouts: tuple[float, float]) -> dict[str, Any]:
    """How each request is made: once, with our timeouts, and not as the environment says.

    obstore follows redirects, and cannot be told not to. So for every other host than the endpoint's it is given a
    proxy that refuses: no request follows a redirect to another host.
    """
    connect, read = timeouts
    return {
        "retry_config": {"max_retries": 0, "retry_timeout": timedelta(0)},
        "client_options": {
            "connect_timeout": timedelta(seconds=connect),
            "read_timeout": timedelta(seconds=read),
            "timeout": timedelta(days=365),  # of a whole body, which may be long
            "allow_http": endpoint.startswith("http:"),
            "proxy_url": _NOWHERE,
            "proxy_excludes": urlsplit(endpoint).hostname or "",
        },
    }


class Obstore:
    """One bucket, or container, through obstore. ``etags`` is how the store's look: obstore goes where an answer sends
    it, and what comes from another page says so by its etag alone. From then on nothing is asked of it."""

    field = "e_tag"  # of what obstore tells, our etag

    def __init__(
        self, kind: str, place: str, skip: int, options: Mapping[str, Any], *,
        write_id: str, etags: str, quoted: Callable[[str], str],
    ) -> None:  # fmt: skip
        import obstore
        from obstore import store

        _first[:] = _first or [os.getpid()]
        self._obstore: Any = obstore
        self.errors = (obstore.exceptions.BaseError, OSError)
        self._store: Any = getattr(store, kind)(place, **options)
        self._skip = skip
        self._write_id = write_id
        self._etags = re.compile(f'"?({etags})"?', re.ASCII | re.IGNORECASE)
        self._quoted = quoted
        self._astray = False
        self.is_busy = False
        """The store asked to be left alone, and obstore does not say for how long; or nothing was reached, perhaps
        because of a redirect, and obstore does not say where it led. The SDK asks until it is served."""

    def gives(self, key: str, get: Get) -> bool:
        """Whether this can be read here."""
        rest = get.if_match is not None and get.end is not None and get.end - get.start > LONG
        return not (
            rest or self._astray or self.is_busy or get.version is not None or (get.end or 0) >= 1 << 63
        ) and _fits(key)

    def takes(self, key: str, data: bytes, put: Put) -> bool:
        """Whether this can be written here."""
        odd = any(name.replace("_", "") in _ALIASES for name in put.metadata)
        return not (odd or self._astray or self.is_busy or put.extra or len(data) > LONG) and _fits(key)

    def get(self, key: str, get: Get) -> Body | None:
        """None: the SDK must be asked."""
        return abandonable(lambda: self._get(key, get))

    def _get(self, key: str, get: Get) -> Body | None:
        options: dict[str, Any] = {}
        if get.range is not None:
            options["range"] = {"offset": get.start} if get.end is None else (get.start, get.end)
        if get.if_match is not None:
            options["if_match"] = self._quoted(get.if_match)
        if get.if_none_match is not None:
            options["if_none_match"] = self._quoted(get.if_none_match)
        try:
            result = self._obstore.get(self._store, key, options=options)
        except self._obstore.exceptions.GenericError as error:
            if not _is_readable(str(error), get):
                raise
            return None
        meta, told = result.meta, result.attributes
        if (etag := self._etag(meta)) is None:
            return None
        metadata = {name.lower(): value for name, value in told.items() if name not in _HEADERS}
        metadata.pop(self._write_id, None)
        moment = meta["last_modified"].astimezone(UTC)
        info = ObjectInfo(
            key[self._skip :], meta["size"], moment if moment.timestamp() else None, "file", etag, meta["version"],
            told.get("Content-Type"), None, metadata,
        )  # fmt: skip
        start, end = result.range
        if end - start > SMALL:
            return Streamed(info, end - start, result)
        return Whole(info, end - start, result.bytes())

    def put(self, key: str, data: bytes, put: Put, backend: str) -> ObjectInfo:
        attributes = {"Content-Type": put.content_type, **put.metadata}
        if put.write_id is not None:
            attributes[self._write_id] = put.write_id
        mode: Any = "overwrite"
        if put.conditional:
            mode = "create" if put.create else {self.field: self._quoted(put.if_match or "")}
        told = abandonable(
            lambda: self._obstore.put(self._store, key, data, attributes=attributes, mode=mode, use_multipart=False)
        )
        if (etag := self._etag(told)) is None:  # the next try is the SDK's, which goes nowhere else
            raise BackendUnavailable("the answer to the write does not look like the store's", backend=backend)
        return ObjectInfo(key[self._skip :], len(data), None, "file", etag, told["version"])

    def without_answer(self, error: BaseException, backend: str) -> StorageError:
        """Ours for an error of obstore that no answer of the store tells of."""
        ours = _without_answer(error, backend)
        self.is_busy = ours.retry_after is not None
        return ours

    def _etag(self, told: Any) -> str | None:
        found = self._etags.fullmatch(told[self.field] or "")
        if found is None:
            if not self._astray:
                log.warning("an answer does not look like the store's: from now on the SDK is asked, not obstore")
            self._astray = True
            return None
        return found[1]


class Lent:
    """Who one is, as obstore asks for it. What went wrong when there was none is ``failed``: obstore would say it in a
    text."""

    def __init__(self, lend: Callable[[], dict[str, Any]]) -> None:
        self._lend = lend
        self._failed: BaseException | None = None

    def __call__(self) -> dict[str, Any]:
        try:
            return self._lend()
        except BaseException as error:
            self._failed = error
            raise

    def failed(self, error: BaseException) -> BaseException | None:
        """What is behind ``error``, if there was nobody to be."""
        return self._failed if "credential provider" in str(error) else None


def _is_readable(told: str, get: Get) -> bool:
    """Whether the SDK can read what obstore cannot: an object with a header that is no UTF-8, all of an object for the
    range at its beginning, nothing for a range that begins at its end."""
    return "non UTF-8" in told or "Wanted range" in told or (get.start == 0 and "non-partial response" in told)


def _fits(key: str) -> bool:
    """Whether obstore would send exactly this key."""
    if not key.isprintable() or "Server returned" in key:  # its errors are told by their text, which holds the key
        return False
    return not any(segment in ("", ".", "..") for segment in key.split("/"))


# -- errors ------------------------------------------------------------------------------------------------------------

_STATUS = re.compile(r"Error performing [A-Z]+ \S+ in \S+ - Server returned non-2xx status code: (\d+)")


def is_obstores(error: BaseException) -> bool:
    """Some of its errors are Python's own."""
    return type(error).__module__.startswith("obstore") or _STATUS.search(str(error)) is not None


def answer_of(error: BaseException) -> tuple[int, str, str] | None:
    """The status, code and message of the answer that an error of obstore has in its text; None: there was none."""
    told = str(error).partition("\n\nDebug source:")[0]
    if not (found := _STATUS.search(told)):
        return None
    code, message = (re.search(f"<{tag}>([^<]*)</{tag}>", told) for tag in ("Code", "Message"))
    return int(found[1]), code[1] if code else "", message[1] if message else ""


def _without_answer(error: BaseException, backend: str) -> StorageError:
    text = str(error)
    told = text.partition("\n\nDebug source:")[0].strip()[:300]
    if "non-partial response" in told or "Requested " in told:
        return CapabilityNotSupported(
            "the server gives another range than it was asked for", capability="range_read", backend=backend
        )
    if "redirect without LOCATION" in told or "error following redirect" in told:
        return ConfigError(f"the endpoint sends elsewhere, look at where it is: {told}", backend=backend)
    if "lacked valid authentication" in told:
        return PermissionDenied(f"no usable credentials: {told}", backend=backend)
    sent = re.search(r"kind: Connect\b", text) is None
    return BackendUnavailable(told, retry_after=None if sent else 0.0, backend=backend)
