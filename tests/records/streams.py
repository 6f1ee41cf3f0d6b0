"""Record streams for the tests of records."""

import orjson
from hypothesis import strategies as st

EVENTS = [{"n": n, "text": f"évent {n}", "nested": {"list": [n, n + 1], "ok": True}} for n in range(1000)]

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def lines(*records):
    return b"".join(orjson.dumps(record) + b"\n" for record in records)
