"""How an answer of an object store is told from anything else that answers in its place.

A login page, a proxy or a load balancer can answer any request with a good status. Each client therefore looks for the
marks that its service always sends: the documented status, the root of a document, an etag or generation, an id. An
answer without them is ``unmarked``: it is never a result, and after a write the outcome counts as unknown. Here is what
all clients share: that error, and the arithmetic of ranges.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from omnistorage.errors import BackendUnavailable, CapabilityNotSupported

from .client import Get

_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")


def unmarked(what: str, backend: str, *, transient: bool = True) -> BackendUnavailable:
    """The error for an answer with a good status that is not the store's; ``what`` says what it lacks."""
    return BackendUnavailable(
        f"the answer is not the store's: {what}. Check the endpoint, and any proxy or login page before it",
        backend=backend,
        transient=transient,
    )


@contextmanager
def understood(what: str, backend: str) -> Iterator[None]:
    """Turn what goes wrong in reading a document of the store into ``unmarked``."""
    try:
        yield
    except UnicodeEncodeError:  # of what was asked for
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise unmarked(f"{what} lacks {error}", backend) from error


def span(
    get: Get, status: int, length: int | None, content_range: str | None, *, framed: bool, backend: str
) -> tuple[int | None, int | None]:
    """How many bytes of a body were asked for, which are its first ones, and how long the whole object is.

    Args:
        get: What was asked for.
        status: The status of the answer, 200 or 206.
        length: Its ``Content-Length``, None if it has none.
        content_range: Its ``Content-Range`` (RFC 9110, section 14.4), None if it has none.
        framed: Whether its end can be told without a length (a chunked body).
        backend: The backend's name, for errors.

    Returns:
        Both in bytes; None where the answer does not tell.

    Raises:
        BackendUnavailable: The answer has no length, or is a part and does not say which.
        CapabilityNotSupported: It is another range than the one asked for.
    """
    if content_range is None:
        if status == 206:
            raise unmarked("it is a part of an object without Content-Range", backend)
        if length is None and not framed:
            raise unmarked("its body has neither a length nor an end", backend)
        start, end, whole = 0, length, length
    else:
        found = _RANGE.fullmatch(content_range.strip())
        start, end, whole = (int(found[1]), int(found[2]) + 1, int(found[3])) if found else (-1, 0, 0)
        if length is not None and length != end - start:
            start = -1
    if start == get.start:
        if end is None or whole is None:
            return None, None
        wanted = whole if get.end is None else min(get.end, whole)
        if start <= wanted <= end:
            return wanted - start, whole
    raise CapabilityNotSupported(
        "the server gives another range than it was asked for", capability="range_read", backend=backend
    )
