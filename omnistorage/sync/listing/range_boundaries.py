"""Where to cut a listing that is read in ranges: guesses at the keys to come, from those that came.

A guess that is wrong costs time and requests, never an entry.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from omnistorage.core import ExtendedBackend
from omnistorage.errors import StorageError

Cuts = Callable[[str], str | None]
"""The next boundary behind a key; None where no more are known."""

_PROBED = 3_000  # children of a folder, at most: three requests
_SPAN = 3  # pages are in a range, if names and sizes go on as they were
_FORMS = {"0123456789": "d", "0123456789abcdef": "x", "0123456789ABCDEF": "X"}
_PLACES = 12  # digits on each side of the first that differs: a range is no smaller part of the whole


def nowhere(key: str) -> None:
    return None


def guesses(backend: ExtendedBackend, window: Sequence[str], page: int, most: int, wide: bool) -> Iterator[Cuts]:
    """Where to cut, the best first. ``window`` are the last keys, or of many each tenth, say; ``page`` of them make a
    page, and ``most`` pages are a range that is not too long; with ``wide`` those that are count as well, at the end.
    """
    if len(window) < 2:
        return
    parts, depth, size = window[-1].split("/"), 0, len(window)
    while size > most * page and depth < len(parts):
        depth += 1
        size = len(window) // len({"/".join(path.split("/", depth)[:depth]) for path in window})
    depth = max(1, depth)
    if 10 * size >= page:  # else a probe shows no more than the listing does
        yield _by_folders(backend, "/".join(parts[: depth - 1]), _SPAN * page // size)
    head = "/".join((*parts[: depth - 1], ""))
    yield _by_numbers([path for path in window if path.startswith(head)], page)
    for above in range(depth - 2, max(-1, depth - 4), -1) if wide else ():
        yield _by_folders(backend, "/".join(parts[:above]), 1)


def _by_folders(backend: ExtendedBackend, folder: str, stride: int) -> Cuts:
    """Boundaries at the folders in ``folder``, which a probe of the delimiter shows; each ``stride``-th of them."""
    try:
        children = list(islice(backend.list_dir(folder), _PROBED))
    except StorageError:
        return nowhere
    names = sorted((info.path + "/" for info in children if info.is_dir), key=encoded)[:: max(1, stride)]
    keys = [encoded(name) for name in names]

    def behind(key: str) -> str | None:
        at = bisect_right(keys, encoded(key))
        return names[at] if at < len(names) else None

    return behind


def _by_numbers(window: Sequence[str], page: int) -> Cuts:
    """Boundaries by the digits, decimal or hexadecimal, in which the keys differ first: they go on as fast as they went
    so far. Nothing is asked for."""
    first, last, at = window[0], window[-1], _shared(window)
    for digits in _FORMS:
        begin = max(at - _PLACES, len(last[:at].rstrip(digits)))
        end = min(at + _PLACES, len(last) - len(last[at:].lstrip(digits)))
        of_all = [path[begin:end] for path in (first, *window[::7], last)]
        if end <= at or any(len(text) < end - begin or text.strip(digits) for text in of_all):
            continue
        base, width = len(digits), end - begin
        start = int(of_all[-1], base)
        step = (start - int(of_all[0], base)) * _SPAN * page // max(1, len(window) - 1)
        if step:
            break
    else:
        return nowhere

    def behind(key: str) -> str | None:
        text = key[begin:end]
        if key[:begin] != last[:begin] or not text or text.strip(digits):
            return None
        number = start + ((int(text.ljust(width, "0"), base) - start) // step + 1) * step
        text = format(number, _FORMS[digits]).zfill(width)
        return last[:begin] + text if len(text) == width else None

    return behind


def _shared(window: Sequence[str]) -> int:
    """How many characters all keys have in common."""
    first, last = window[0], window[-1]
    pairs = enumerate(zip(first, last, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(first), len(last)))


def encoded(path: str) -> bytes:
    """The bytes of a name, also of one that no bytes can have been: what it is used for refuses it then."""
    try:
        return path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return path.encode("utf-8", "surrogatepass")
