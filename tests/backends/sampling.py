"""Which cases of a table the default run takes; CI takes all."""

import pytest

from ..servers.proxy import Reset, Stall, Truncate
from ..waiting import LIMIT


def one_of_each(cases, key):
    """Leave the first case of each ``key(case)`` to the default run; the others are ``ci_only``."""
    seen, params = set(), []
    for case in cases:
        known = key(case) in seen
        seen.add(key(case))
        params.append(pytest.param(*case, marks=pytest.mark.ci_only if known else ()))
    return params


SHOWN = [(Truncate, 70_000), (Stall, 70_000), *((Reset, after) for after in (0, 1, 70_000, 2_999_999))]


def broken_bodies(*afters, shown=SHOWN):
    """After how many bytes a body breaks off, and how: all pairs, of which the default run takes those ``shown``."""
    return [
        pytest.param(after, fault, marks=() if (fault, after) in shown else pytest.mark.ci_only)
        for after in afters
        for fault in (Reset, Truncate, Stall)
    ]


def silence(fault):
    """Seconds after which a client gives up a silent server. Only a stalled body makes a test wait for them."""
    return 0.4 if fault is Stall else LIMIT


def asked_again(requests, fault):
    """Whether a body that broke once took that many requests. A busy machine may seem silent once more."""
    return requests >= 2 if fault is Stall else requests == 2
