"""Where CSV rows end, exactly, in bytes and however they are cut.

The fast path of the decoder leaves that to Python's ``csv`` module, which reads whole lines. This is for all that is
not fast: a row longer than a block, a row at the border of two chunks, and the rows around a bad one, whose offsets
have to be known. It follows the grammar that ``csv`` reads when it is not strict: a quote means something at the start
of a field only, and what stands behind a closing quote belongs to the field. So a malformed row ends where a reader
that had let it pass would end it.
"""

from __future__ import annotations

import re

# States: what the bytes so far leave open.
_START, _FIELD, _QUOTED, _QUOTE, _ESCAPE, _QUOTED_ESCAPE = range(6)


class RowScanner:
    """Finds the end of one row after the other. ``quote`` and ``escape`` may be None."""

    def __init__(self, delimiter: str, quote: str | None, escape: str | None, doublequote: bool) -> None:
        self._quote = quote.encode() if quote else None
        self._doublequote = doublequote
        self._escape = escape.encode() if escape else None
        separator, mark = re.escape(delimiter.encode()), re.escape(self._quote or b"")
        escaped = [re.escape(self._escape)] if self._escape else []
        opening = [separator + mark] if self._quote else []
        # Outside of quotes whole fields are skipped: only a quote right behind a delimiter matters.
        self._outside = re.compile(b"|".join([b"\n", *opening, *escaped]))
        self._inside = re.compile(b"|".join([mark, *escaped]))
        self._delimiter = delimiter.encode()
        self._state = _START

    def scan(self, data: bytes, at: int) -> int:
        """The index behind the newline that ends the row which goes on at ``at``, or 0 if ``data`` ends within it; the
        next call then goes on with what comes behind ``data``."""
        size, state = len(data), self._state
        while at < size:
            doubling = state == _QUOTE and self._doublequote
            if state in (_ESCAPE, _QUOTED_ESCAPE):
                at += 1
                state = _FIELD if state == _ESCAPE else _QUOTED
            elif state == _QUOTED:
                found = self._inside.search(data, at)
                if found is None:
                    break
                at = found.end()
                state = _QUOTED_ESCAPE if found[0] == self._escape else _QUOTE
            elif self._quote and (state == _START or doubling) and data[at : at + 1] == self._quote:
                at += 1
                state = _QUOTED
            else:
                found = self._outside.search(data, at)
                if found is None:
                    # The last byte may be a delimiter, and the quote behind it the next chunk's first.
                    state = _START if data[-1:] == self._delimiter else _FIELD
                    break
                at = found.end()
                if found[0] == b"\n":
                    self._state = _START
                    return at
                state = _ESCAPE if found[0] == self._escape else _QUOTED
        self._state = state
        return 0

    def reset(self) -> None:
        """What comes next is the start of a row."""
        self._state = _START
