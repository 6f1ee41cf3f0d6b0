"""One bucket under two host names, ``127.0.0.1`` and ``localhost``, or the public and the private name of an endpoint.

The URLs of two such places do not say whether they are one. So a small object, the mark, is written to the one and
looked for at the other. This is done only where bucket and folder have the same names and the hosts differ. Tiers and
mirrors have no URL: there it is done where a store of one side may be a store of the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from os import path as paths
from os import urandom
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from omnistorage.core import ExtendedBackend, WriteOptions
from omnistorage.paths import parent

from .volumes import between, between_mounts

MARK = ".omnistorage-mark-"


def differ_by_host_alone(one: str | None, other: str | None) -> bool:
    """Whether two URLs name buckets of one name at different servers, and folders in them of which one is in the
    other. The two may be one bucket."""
    if one is None or other is None:
        return False
    first, second = _bucket(one), _bucket(other)
    if first is None or second is None or first[:2] == second[:2] or first[0] != second[0]:
        return False
    return first[2].startswith(second[2]) or second[2].startswith(first[2])


def is_one_object(a: ExtendedBackend, a_path: str, b: ExtendedBackend, b_path: str) -> bool:
    """Whether two paths are one object: of a bucket that has two host names, or of a store that is behind the tiers or
    mirrors of both sides. Writes, looks for and removes a mark next to it if that is possible; else no request is made.

    Args:
        a: The store in which the mark is written.
        a_path: The object's path in ``a``.
        b: The store in which the mark is looked for.
        b_path: The object's path in ``b``.

    Raises:
        StorageError: The mark cannot be written, looked for or removed.
    """
    if a.url is not None and b.url is not None:
        possible = differ_by_host_alone(a.url, b.url) and _object(a, a_path) == _object(b, b_path)
    else:
        same_name = a_path.rpartition("/")[2] == b_path.rpartition("/")[2]
        possible = same_name and any(_may_be_one(one, other) for one in _stores(a) for other in _stores(b))
    if not possible:
        return False
    return _shows(a, parent(a_path), b, parent(b_path))


def overlap(a: ExtendedBackend, b: ExtendedBackend) -> bool:
    """Whether two buckets that ``differ_by_host_alone`` are one, or one is a folder of the other, as a mark shows.

    Raises:
        StorageError: The mark cannot be written, looked for or removed.
    """
    first, second = _object(a, ""), _object(b, "")
    if len(first) < len(second):
        a, b, first, second = b, a, second, first
    return _shows(a, "", b, unquote(first[len(second) :]).rstrip("/"))


def _stores(backend: Any) -> Iterator[Any]:
    """The backend, and those behind its wrappers, tiers and targets."""
    yield backend
    inner = getattr(backend, "inner", None)
    behind = [] if inner is None else [inner]
    for one in (*behind, *(place.backend for place in getattr(backend, "places", ()))):
        yield from _stores(one)


def _may_be_one(a: Any, b: Any) -> bool:
    """Whether two stores are one, or one lies in the other, as far as can be told without a request."""
    if a is b:
        return True
    one, other = getattr(a, "url", None), getattr(b, "url", None)
    if one is None or other is None:
        return False
    if one.startswith("file:") and other.startswith("file:"):
        first, second = (f"{paths.realpath(unquote(urlsplit(url).path))}/" for url in (one, other))
        return between(first, second) is not None or between_mounts(first, second) is not None
    return between(one, other) is not None or differ_by_host_alone(one, other)


def _shows(a: ExtendedBackend, a_folder: str, b: ExtendedBackend, b_folder: str) -> bool:
    """Whether an object that is written into a folder of ``a`` is in a folder of ``b``."""
    name = f"{MARK}{urandom(8).hex()}"
    here, there = (f"{folder}/{name}" if folder else name for folder in (a_folder, b_folder))
    with a.open_writer(here, WriteOptions(size=0)) as writer:
        writer.close()
    try:
        return b.exists(there)
    finally:
        a.delete(here)


def _object(backend: ExtendedBackend, path: str) -> str:
    bucket = _bucket(backend.url or "")
    return "" if bucket is None else bucket[2] + quote(path)


def _bucket(url: str) -> tuple[str, str, str] | None:
    """The kind of store, its server and the path with the bucket; None where a URL is not that of a bucket."""
    parts = urlsplit(url)
    kind, plus, _ = parts.scheme.partition("+")
    if plus:
        return kind, parts.netloc, parts.path
    return (kind, "", f"/{parts.netloc}{parts.path}") if kind in ("s3", "gs", "az") else None
