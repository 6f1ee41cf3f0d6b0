"""Tables for the tests of CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from omnistorage.formats.csv import Csv
from omnistorage.testing.codecs import pieces

BOM = b"\xef\xbb\xbf"

ODD = st.text(st.sampled_from("ab,;\t\"'\\\r\n \ufeff\x0b\x1c\x85\u2028é"), max_size=8)

FIELDS = ODD | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def read(data: bytes, sizes: Sequence[int] = (1 << 16,), on_bad: Any = None, fmt: Any = None, **options: Any) -> Any:
    decoder = (fmt or Csv(**options)).decoder(on_bad)
    batches = [batch for chunk in pieces(data, sizes) for batch in decoder.feed(chunk)]
    batches += decoder.finish()
    return [record for batch in batches for record in batch]


def write(*records: Any, fmt: Any = None, **options: Any) -> bytes:
    encoder = (fmt or Csv(**options)).encoder()
    return b"".join([*encoder.feed(records), *encoder.finish()])


def lists(**options: Any) -> Csv:
    return Csv(rows="list", header="none", **options)
