"""The HTML page in a real browser."""

import json
import os
import re
import shutil
import struct
import subprocess
import zlib

import pytest

from omnistorage.sync.html.report import human

from ..waiting import LIMIT
from .html_page import HOSTILE, Parsed, page_of

pytestmark = pytest.mark.ci_only

# -- in a real browser -------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path):
    """Open a page in headless Chromium and return its document when the script has run."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        required = os.environ.get("OMNISTORAGE_REQUIRE_SERVERS", "")
        if required == "all" or "chromium" in required.split(","):
            pytest.fail("chromium is required: apt install chromium", pytrace=False)
        pytest.skip("no chromium: apt install chromium")

    def open_page(page, fragment="", *, run="", how=("--dump-dom",)):
        if run:  # what a person would do, on a copy that lets a second script run
            page = re.sub(r"<meta http-equiv=[^>]+>", "", page).replace("</body>", f"<script>{run}</script></body>")
        at = tmp_path / "shown.html"
        at.write_text(page, "utf-8")
        profile = tmp_path / "profile"
        command = [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ]
        command += [f"--user-data-dir={profile}", "--virtual-time-budget=5000", "--window-size=1200,900"]
        done = subprocess.run([*command, *how, f"{at.as_uri()}{fragment}"], capture_output=True, timeout=LIMIT)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode("utf-8")

    return open_page


def many(count=10_000):
    signs = "=*+-!"
    return [
        (signs[n % 5], f"folder-{n % 7}/{n * 7919 % count:05}.csv", n * 7919 % count * 100, "") for n in range(count)
    ]


def seen(document):
    return Parsed(document)


def test_a_browser_shows_ten_thousand_rows_a_part_at_a_time(browser):
    found = seen(browser(page_of(many())))
    assert len(found.still) == 200
    assert found.texts["count"] == "10,000 rows"
    assert "still" not in found.texts
    assert 'id="more"' in browser(page_of(many()))


def test_a_browser_sorts_by_what_the_address_says(browser):
    document = browser(page_of(many()), "#sort=size&order=desc")
    sizes = [row[2] for row in seen(document).still]
    assert sizes[:3] == [human(999_900), human(999_800), human(999_700)]
    assert re.findall(r'<th[^>]*aria-sort="(\w+)"', document) == ["none", "none", "descending", "none"]
    document = browser(page_of([("+", "empty", 0, ""), ("+", "unknown", None, "")]), "#sort=size")
    assert [row[1] for row in seen(document).still] == ["unknown", "empty"]
    document = browser(page_of([("+", name, None, "") for name in "bca"]), "#sort=path")
    assert [row[1] for row in seen(document).still] == ["a", "b", "c"]


def test_a_browser_filters_by_part_of_the_path_and_by_kind(browser):
    document = browser(page_of(many()), "#filter=FOLDER-3&kind=*,%2B&sort=path")
    found = seen(document)
    expected = sorted(path for sign, path, *_ in many() if sign in "*+" and "folder-3" in path)
    assert found.texts["count"] == f"{len(expected):,} of 10,000 rows"
    assert [row[1] for row in found.still] == expected[:200]
    assert {row[0] for row in found.still} == {"*differs", "+only at source"}
    pressed = re.findall(r'<button[^>]*data-kind="(.)"[^>]*aria-pressed="true"', document)
    assert pressed == ["*", "+"]


def test_a_browser_does_what_people_click_and_type(browser):
    rows = [("+", "b", 3, "x"), ("*", "a", 2048, "y"), ("=", "ab", None, ""), ("+", "c", 1280, "")]
    run = """
      const table = () => [...document.querySelectorAll("tbody tr")].map(row => row.cells[1]?.textContent);
      const heads = document.querySelectorAll("th button"), said = [];
      heads[1].click(); said.push(table(), location.hash);
      heads[1].click(); said.push(table(), document.querySelectorAll("th")[1].getAttribute("aria-sort"));
      heads[1].click(); heads[2].click(); said.push(table());
      const box = document.getElementById("filter");
      box.value = "B"; box.dispatchEvent(new Event("input")); said.push(table(), location.hash);
      document.querySelector('[data-kind="="]').click(); said.push(table());
      box.value = "nothing"; box.dispatchEvent(new Event("input"));
      said.push(table(), document.getElementById("count").textContent);
      document.querySelector("#kinds button").click(); box.value = ""; box.dispatchEvent(new Event("input"));
      said.push(table().length);
      document.body.dataset.said = JSON.stringify(said);
    """
    document = browser(page_of(rows), run=run)
    said = json.loads(re.search(r'data-said="([^"]*)"', document)[1].replace("&quot;", '"').replace("&amp;", "&"))
    assert said == [
        ["a", "ab", "b", "c"], "#sort=path",
        ["c", "b", "ab", "a"], "descending",
        ["ab", "b", "c", "a"],
        ["ab", "b"], "#sort=size&filter=B",
        ["ab"],
        [None], "0 of 4 rows",
        4,
    ]  # fmt: skip


def test_a_browser_writes_the_rest_as_people_scroll_or_ask(browser):
    run = """
      const before = document.querySelectorAll("tbody tr").length;
      document.getElementById("more").click();
      document.body.dataset.said = before + " " + document.querySelectorAll("tbody tr").length;
    """
    assert 'data-said="200 400"' in browser(page_of(many(450)), run=run)


def test_ten_thousand_rows_are_sorted_and_filtered_in_no_time(browser):
    """The bound is wide, as machines are slow: what is quadratic in the rows takes minutes."""
    run = """
      const started = performance.now(), box = document.getElementById("filter");
      for (const head of document.querySelectorAll("th button")) { head.click(); head.click(); }
      for (const text of ["1", "12", "123", ""]) { box.value = text; box.dispatchEvent(new Event("input")); }
      document.body.dataset.took = Math.round(performance.now() - started);
    """
    took = re.search(r'data-took="(\d+)"', browser(page_of(many()), run=run))
    assert int(took[1]) < 6000


def test_a_browser_runs_nothing_that_a_name_brings(browser):
    page = page_of([("*", name, 1, name) for name in HOSTILE], title="a check", source=HOSTILE[1])
    document = browser(page)
    assert "<title>a check</title>" in document
    found = seen(document)
    assert [row[1] for row in found.still] == found.paths
    assert [row[3] for row in found.still] == found.paths
    smuggled = page.replace("</main>", "</main><script>document.title = 'owned'</script>")
    assert "<title>a check</title>" in browser(smuggled)


def test_a_browser_shows_the_same_sizes_as_the_page_without_javascript(browser):
    rows = [("+", str(size), size, "") for size in (0, 1, 1023, 1024, 1280, 1075, 123_456_789, 2**40 + 1, 3 << 60)]
    page = page_of(rows)
    assert seen(browser(page)).still == Parsed(page).still


def test_a_screenshot_shows_something(browser, tmp_path):
    at = tmp_path / "shot.png"
    browser(page_of(many(), totals={"same": 1}), how=(f"--screenshot={at}",))
    data = at.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert struct.unpack(">II", data[16:24]) == (1200, 900)
    assert len(set(pixels(data))) > 50


def pixels(data):
    """The bytes behind a PNG's filters: few of them differ where there is nothing to see."""
    packed, at = b"", 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        packed += data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    return zlib.decompress(packed)
