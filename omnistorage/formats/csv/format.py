"""CSV (RFC 4180) and its relatives, on top of Python's ``csv`` module.

The fields stand in ``settings``, the encoder in ``writer``, the decoder in ``reader``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from omnistorage.core.stages import OnBad, RecordEncoder, Stage
from omnistorage.formats.line_splitter import UNTRUSTED_RECORD

from .reader import Decoder
from .settings import CsvSettings
from .writer import Encoder

_UNTRUSTED_COLUMNS = 16_384


@dataclass(frozen=True)
class Csv(CsvSettings):
    """Rows of text fields. A record is a dict (``rows="dict"``) or a list (``rows="list"``; a tuple is written too).

    **Dialect.** ``delimiter``, ``quotechar``, ``escapechar`` (one ASCII character each), ``doublequote``, and for
    writing ``quoting`` (``minimal``, ``all``, ``nonnumeric``; with ``none`` quotes mean nothing on reading as well) and
    ``lineterminator`` (``\\n`` or ``\\r\\n``). What they do is what they do in Python's ``csv``, read strictly: a
    quoted field followed by anything but a delimiter is a bad record, and so is a ``\\r`` outside of quotes that stands
    before no ``\\n``. (With ``doublequote=False`` the module lets the former pass.) A quote within an unquoted field is
    text. Both line ends are read; within quotes they belong to the field and come back as they were. ``encoding`` is
    utf-8 or one with a byte per character that extends ASCII.

    **Header.** ``first_row``: the keys of the first record are written, and what is read names the columns. Names: the
    columns, in that order; the header is written even if no record is, and one that reads otherwise is ``CorruptData``;
    with ``header_row=False`` the file has none. ``none``: lists only, of any length. A name that comes twice is
    ``CorruptData``.

    **Columns.** A row with another number of fields than the header is a bad record, on writing one with other keys.
    ``extra="drop"`` drops what is too much, ``missing="null"`` takes what is missing for None.

    **Values.** What is read are strings. ``types`` maps names of columns to what they hold: ``"int"``, ``"float"``,
    ``"bool"`` (``true false 1 0``), ``"str"``, ``"date"``, ``"datetime"`` (ISO 8601), ``"decimal"``, or the class of
    that name (``bool`` means ``"bool"``), or a callable that takes the text of a field. In these columns an empty field
    and ``null`` are None. A value that does not parse makes a bad record, but a callable that fails on the first value
    it gets raises ``ConfigError``. What is written is the ``str`` of a value, and ``null`` for None; bytes and
    containers are refused. With ``nested="json"`` a dict, list or tuple is written as JSON text; reading leaves it text
    (``types={"column": json.loads}`` takes it apart).

    **Blank lines** are no records on reading. So a row without fields is refused on writing; ``[""]`` is ``""``.

    **Odd characters.** A BOM at the start is skipped, and written with ``bom=True``. NUL makes a bad record, both ways,
    unless ``nul="keep"``. A row is at most ``max_record`` bytes without its line break: a larger one is a
    ``RecordError`` on writing, and one bad record on reading. If ``max_columns`` is given, a row of more columns is one
    bad record on reading, and a header of more ``CorruptData``. Python's ``csv.field_size_limit()``, one for the
    process, is raised when a row is met that may need it, and never lowered.

    **Formulas.** Spreadsheets run a field that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line break. Fields
    are written as they are. With ``formulas="quote"`` such text gets a ``'`` before it, which reading does not take
    away; with ``formulas="refuse"`` it makes a bad record. A number is no formula, nor is ``-2`` as text. Both hold
    for the names of the header, too.

    **Torn ends.** A last row without a line break is a record (RFC 4180, 2.2) if it is a sound one: a cut within the
    last field goes unnoticed. One that is not, with a quote left open or too few fields, raises ``CorruptData``, or is
    dropped when ``allow_partial_tail`` is set. A quote that opens where none was meant takes the following rows along
    up to the next quote, in one bad record; up to the end of the stream, it is a torn end.
    """

    name = "csv"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """``.tsv`` says tabs; ``.csv`` says nothing about the delimiter."""
        return (".tsv", ".csv") if self.delimiter == "\t" else (".csv",)

    @property
    def content_type(self) -> str:
        return "text/tab-separated-values" if self.delimiter == "\t" else "text/csv"

    def untrusted(self) -> Self:
        """This format for input that anybody may have made: rows of at most 1 MiB and 16,384 columns."""
        return replace(
            self,
            max_record=min(self.max_record, UNTRUSTED_RECORD),
            max_columns=min(self.max_columns or _UNTRUSTED_COLUMNS, _UNTRUSTED_COLUMNS),
        )

    def encoder(self) -> RecordEncoder[Any]:
        """See ``stages.Format``. Raises ``ConfigError`` where lists are to be written and the header is ``first_row``:
        there are no names to take."""
        return Encoder(self)

    def begun(self, encoder: RecordEncoder[Any]) -> dict[str, Any] | None:
        """What JSON can hold of what ``encoder``, one of this format, has put at the head; None: nothing yet."""
        assert isinstance(encoder, Encoder)
        return encoder.begun

    def behind(self, begun: dict[str, Any]) -> Csv:
        """The format of rows that come behind such a head."""
        names = begun.get("names")
        return replace(self, header="none" if names is None else tuple(names), header_row=False, bom=False, types=())

    def decoder(self, on_bad: OnBad | None = None) -> Stage[bytes, list[Any]]:
        """See ``stages.Format``. ``raw`` of a bad record is its row without the last ``\\n``, ``number`` counts neither
        the header nor blank lines, ``offset`` is where the row starts."""
        return Decoder(self, on_bad)
