"""Runs the blocks of one page, in order: ``python run_page.py BLOCKS.json``. The working folder is the caller's.

Blocks of Python share one namespace, the one of ``__main__``, as in a session at the prompt. A traceback names the page
and its line. What a block prints is compared with the ``text`` block behind it.
"""

import contextlib
import io
import json
import multiprocessing
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path


def run_python(block):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * block["line"] + block["text"], block["page"], "exec"), globals())
    return printed.getvalue()


def run_sh(block):
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", block["text"]],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if done.returncode not in block["codes"]:
        sys.exit(f"{block['page']}:{block['line']}: exit code {done.returncode}\n{block['text']}\n{done.stdout}")
    return done.stdout


def compare(block, printed):
    """Whether ``printed`` is what the page shows, with ``...`` for any text."""
    pattern = ".*?".join(re.escape(part) for part in block["text"].rstrip().split("..."))
    if not re.fullmatch(pattern, printed.rstrip(), re.DOTALL):
        sys.exit(f"{block['page']}:{block['line']}: the page shows\n{block['text']}\nthe block printed\n{printed}")


def save(block):
    kind, _, name = block["kind"].partition(" ")
    if kind == "toml":
        tomllib.loads(block["text"])
    elif kind == "json":
        json.loads(block["text"])
    if name:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(block["text"])


if __name__ == "__main__":
    if "fork" in multiprocessing.get_all_start_methods():  # functions of a block exist in this process alone
        multiprocessing.set_start_method("fork")
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    page = json.loads(Path(sys.argv[1]).read_text())
    exec(compile(page["before"], "before", "exec"), globals())
    printed = ""
    for block in page["blocks"]:
        if block["kind"] == "python":
            printed = run_python(block)
        elif block["kind"] == "sh":
            printed = run_sh(block)
        elif block["kind"] == "text":
            compare(block, printed)
        else:
            save(block)
    print("ran", len(page["blocks"]), "blocks")
