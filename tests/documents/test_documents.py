"""Every code block of README and of the guides runs, and prints what the page says."""

import json
import os
import re
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ..servers import server
from ..servers.s3 import bare
from ..waiting import LIMIT
from .blocks import FILES, INSTALLS, KNOWN, ROOT, blocks, pages
from .worlds import BEFORE, CODES, INSTEAD

ABSOLUTE = re.compile(r"(?<![\w./:~}$-])/(?=(?:data|fast|mirror|mnt|plans|var)\b)")
LATER = ("docs/guides/backends.md", "docs/guides/command_line.md", "docs/guides/delivery.md", "docs/guides/sync.md")
"""Pages that the default run leaves to CI: each starts the command many times, or asks a server many times. What the
commands do is tested with them."""


def buckets_of(texts, scheme):
    return sorted({name for text in texts for name in re.findall(rf"\b{scheme}://([a-z][a-z-]*)", text)})


def made_buckets(page, texts):
    """Buckets of this run for those that the page names, at the test servers: what to write for each, and the
    environment that leads there."""
    stem = f"{Path(page).stem.lower().replace('_', '-')}-{os.getpid()}-{time.time_ns() % 1_000_000}"
    instead, env = {}, {}
    if names := buckets_of(texts, "s3"):
        info = server("seaweedfs")
        client = bare(info)
        for name in names:
            client.create_bucket(Bucket=f"{stem}-{name}")
            instead[f"s3://{name}"] = f"s3://{stem}-{name}"
        client.close()
        env = {
            "AWS_ENDPOINT_URL": info["endpoint"], "AWS_ACCESS_KEY_ID": info["access_key"],
            "AWS_SECRET_ACCESS_KEY": info["secret_key"], "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip
    if names := buckets_of(texts, "gs"):
        info = server("fake_gcs")
        for name in names:
            body = json.dumps({"name": f"{stem}-{name}"}).encode()
            request = urllib.request.Request(f"{info['endpoint']}/storage/v1/b?project=p", body, method="POST")
            request.add_header("Content-Type", "application/json")
            urllib.request.urlopen(request, timeout=LIMIT).close()
            instead[f"gs://{name}"] = f"gs://{stem}-{name}"
        env["STORAGE_EMULATOR_HOST"] = info["endpoint"]
    return instead, env


def placed(text, instead):
    for old, new in instead.items():
        text = text.replace(old, new)
    return ABSOLUTE.sub("../root/", text)  # relative, as the folder's own path may have blanks


PAGES = [page for page in pages() if any(block.kind in ("python", "sh") for block in blocks(page))]


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.ci_only) if page in LATER else page for page in PAGES]
)
def test_every_block_of_a_page_runs(page, tmp_path):
    found = [block for block in blocks(page) if block.kind not in ("", "sh install")]
    texts = [block.text for block in found]
    instead, env = made_buckets(page, texts)
    own, codes = INSTEAD.get(page, {}), CODES.get(page, {})
    for old in (*own, *codes):
        assert any(old in text for text in texts), f"{page} does not say {old!r}"
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    home.mkdir()
    for folder in ("data", "fast", "mirror", "mnt", "plans", "var/cache", "var/lib/app", "var/spool"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    made = []
    for block in found:
        allowed = next((codes[text] for text in codes if text in block.text), (0,))
        made.append({**block._asdict(), "text": placed(block.text, {**own, **instead}), "codes": allowed})
    command = tmp_path / "bin" / "omnistorage"  # of this checkout, whatever is installed
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m omnistorage "$@"\n')
    command.chmod(0o755)
    job = tmp_path / "page.json"
    job.write_text(json.dumps({"before": placed(BEFORE.get(page, ""), instead), "blocks": made}))
    environment = {
        "PATH": f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home),
        "TMPDIR": str(tmp_path), "LANG": "C.UTF-8", "COLUMNS": "120", "NO_COLOR": "1", **env,
    }  # fmt: skip
    if coverage := os.environ.get("COVERAGE_PROCESS_START"):
        environment["COVERAGE_PROCESS_START"] = coverage
    done = subprocess.run(
        [sys.executable, "-W", "error", Path(__file__).with_name("run_page.py"), job],
        cwd=work, env=environment, capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"ran {len(found)} blocks\n"), done.stdout + done.stderr


@pytest.mark.parametrize("page", pages())
def test_blocks_are_of_known_kinds(page):
    for block in blocks(page):
        place = f"{page}:{block.line}"
        assert block.kind in KNOWN or block.kind.partition(" ")[0] in FILES, place
        if block.kind == "sh install":
            for line in block.text.splitlines():
                assert INSTALLS.fullmatch(line.partition("#")[0].strip()), f"{place}: {line}"


def test_what_a_page_needs_is_of_a_page_that_is_there():
    assert {*BEFORE, *INSTEAD, *CODES, *LATER} <= set(PAGES)


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200


def test_the_readme_names_every_extra_of_users():
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    table = README.partition("## Extras\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    assert named == extras - {"test", "test-servers", "mutate", "dev", "lock", "bench"}


def headings(page):
    """The anchors that GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", pages())
def test_links_to_headings_lead_to_one(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        place = (ROOT / page).parent / target if target else ROOT / page
        assert anchor in headings(place), f"{page}: {target}#{anchor}"


def test_the_benchmark_pages_show_what_was_measured():
    command = [sys.executable, ROOT / "benchmarks" / "table.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, "")
    for chart in (ROOT / "docs" / "benchmarks").iterdir():
        assert ElementTree.parse(chart).getroot().tag.endswith("}svg")
