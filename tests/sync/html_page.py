"""Reading the pages of reports."""

import io
import json
from datetime import UTC, datetime
from html.parser import HTMLParser

from omnistorage import MemoryBackend
from omnistorage.errors import PermissionDenied
from omnistorage.sync.html.report import HtmlReport

from .stores import fill, memory, put

WHEN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>document.title='owned'</script>",
    "</td></tr></table><h1>owned</h1>",
    "quotes \" ' ` and & &amp; &lt;b&gt;",
    "<!--",
    "{title} {0} %s $x",
    "line\nfeed\r\ttab\0nul\u2028separator\u2029",
    "right\u202etfel\u2066isolate",
    "\udcff lone surrogate",
    "\\u003cb\\u003e",
    "</script x",
    "<!--<script ",
    "日本/ünïcode",
)


class Parsed(HTMLParser):
    """A page as a program without JavaScript reads it."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.rows, self.tiles, self.at, self.texts, self.title = [], [], [], [], {}, []
        self.feed(page)
        self.close()
        self.data = json.loads(self.texts["data"])
        self.paths = [row[1] for row in self.data["rows"]]

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        if tag not in ("meta", "input"):
            self.at.append((tag, given.get("id") or given.get("class", "")))
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")
        elif tag == "li":
            self.tiles.append(["", ""])

    def handle_endtag(self, tag):
        assert self.at.pop()[0] == tag

    def handle_data(self, text):
        for tag, name in self.at:
            if name:
                self.texts[name] = self.texts.get(name, "") + text
            if tag == "td":
                self.rows[-1][-1] += text
        if self.at and self.at[-1][0] in ("b", "span") and self.tiles and ("ul", "tiles") in self.at:
            self.tiles[-1][self.at[-1][0] == "b"] += text

    @property
    def still(self):
        return [row for row in self.rows if row]

    @property
    def totals(self):
        return {label: value for label, value in self.tiles if label}


class Sealed(MemoryBackend):
    """Its objects whose names begin with an ``s`` can be listed but not read."""

    def _open_reader(self, path, options):
        if path.startswith("s"):
            raise PermissionDenied("not yours", path=path, op="open_reader")
        return super()._open_reader(path, options)


def page_of(rows, *, totals=None, **more):
    file = io.BytesIO()
    settings = {"title": "a check", "source": "one", "destination": "other", "when": WHEN}
    with HtmlReport(file, **{**settings, **more}) as report:
        for row in rows:
            report.row(*row)
        report.close(totals or {}, verdict="as it went")
    return file.getvalue().decode("utf-8")


def parsed(path):
    return Parsed(path.read_text("utf-8"))


def both():
    src, dst = fill(memory(), "same", "source"), fill(memory(), "same", "target")
    put(src, "size", b"1" * 2000)
    put(dst, "size", b"22")
    return src, dst
