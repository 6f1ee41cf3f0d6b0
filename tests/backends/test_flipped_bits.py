"""Goal 28 by numbers: a proxy flips one bit of every transfer, and the client notices each flip.

``TRANSFERS`` says how many transfers all places and both directions make together. The ``test_*_faults.py`` show what
the client does after it has noticed a flip.
"""

import random

import pytest

from omnistorage import ops
from omnistorage.errors import CorruptData

from ..budget import pick
from ..servers import server
from ..servers.proxy import Flip, Proxy
from . import azure_places, gcs_places, test_s3
from .test_s3_faults import peek as peek_s3
from .test_s3_faults import policy, put

TRANSFERS = pick(default=12, ci=400, soak=1000)
LONG = pick(default=2, ci=8, soak=8)
"""One object in so many is longer than a part: its upload has several parts."""
HEAD = 2000
"""What Google's uploads have before the body in the same request is shorter, and no part of the object."""


def s3(proxy):
    return test_s3.fresh("seaweedfs", endpoint=proxy.url, checksums=True, policy=policy(), part_size=5 << 20)


def gcs(proxy):
    return gcs_places.fresh("double", endpoint=proxy.url, policy=policy(), part_size=256 * 1024)


def azure(proxy):
    endpoint = azure_places.via(proxy)
    return azure_places.fresh(endpoint=endpoint, checksums=True, policy=policy(), part_size=256 * 1024)


PLACES = {
    "s3": (s3, lambda: server("seaweedfs")["port"], peek_s3),
    "gcs": (gcs, lambda: gcs_places.double().port, gcs_places.peek),
    "azure": (azure, lambda: server("azurite")["port"], azure_places.peek),
}


def transfers(store, chance, *, first=0):
    """A path, what is to stand there, and where its bit flips: from the byte ``first`` on."""
    for number in range(-(-TRANSFERS // (2 * len(PLACES)))):
        size = store.part_size if number % LONG == LONG - 1 else 0
        data = chance.randbytes(size + chance.randrange(2 * HEAD, 50 * HEAD))
        last = min(len(data), store.part_size) - 1
        at = chance.choice((first, last, chance.randrange(first, last)))
        yield f"x{number}", data, {"at": at, "bit": chance.randrange(8)}


SHOWN = [pytest.param(name, marks=pytest.mark.ci_only if name == "azure" else ()) for name in PLACES]


@pytest.mark.parametrize("place", SHOWN)
def test_goal_28_no_flipped_bit_of_many_downloads_goes_by(place):
    make, port, _ = PLACES[place]
    with Proxy(port()) as proxy, make(proxy) as store:
        for path, data, where in transfers(store, random.Random(281)):
            put(store, path, data)
            proxy.next(Flip("GET", **where))
            with pytest.raises(CorruptData):
                ops.read_bytes(store, path)
            assert not proxy.waiting
            assert ops.read_bytes(store, path) == data


@pytest.mark.parametrize("place", SHOWN)
def test_goal_28_no_flipped_bit_of_many_uploads_goes_by(place):
    """It is sent again, or where that cannot be the write fails and there is nothing."""
    make, port, peek = PLACES[place]
    with Proxy(port()) as proxy, make(proxy) as store:
        for path, data, where in transfers(store, random.Random(282), first=HEAD):
            is_long = len(data) > store.part_size
            proxy.next(Flip("PUT" if place != "gcs" or is_long else "POST", up=True, **where))
            try:
                put(store, path, data)
            except CorruptData:
                assert is_long
                assert peek(store, path) is None
            else:
                assert peek(store, path) == data
            assert not proxy.waiting
