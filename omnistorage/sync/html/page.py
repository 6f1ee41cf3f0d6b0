"""The still parts of the HTML report: its style, its script, and the frame around what ``html`` fills in. Pure text.

The page works without the script, which takes the table over where it may run. Nothing in here names another resource.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #fff; --text: #1b1f24; --soft: #59636e; --line: #d9dee4; --accent: #0b57d0;
  --add: #17693a; --del: #a5401a; --mod: #7a5200; --err: #b3141f; --same: #59636e; --focus: #0b57d055;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --card: #1d2125; --text: #e6e9ec; --soft: #a3adb8; --line: #343a41; --accent: #8ab4f8;
    --add: #7bd49b; --del: #f3a27c; --mod: #eac26b; --err: #ff8f8f; --same: #a3adb8; --focus: #8ab4f866;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
main { max-width: 78rem; margin: 0 auto; padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; }
h2 { font-size: 1rem; margin: 0 0 .5rem; }
.verdict { font-size: 1.1rem; margin: .25rem 0 1.25rem; color: var(--soft); }
.verdict.good { color: var(--add); } .verdict.bad { color: var(--err); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.25rem; margin: 0 0 1.5rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 0 0 1.5rem;
  padding: 0; list-style: none; }
.tiles li, .card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
.tiles li { padding: .6rem .9rem; }
.tiles b { display: block; white-space: nowrap; font-size: 1.4rem; font-weight: 600; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: .875rem; }
.card { padding: .9rem 1rem; margin: 0 0 1.5rem; }
.card p { margin: .5rem 0 0; color: var(--soft); font-size: .875rem; }
.card ul { margin: 0; padding-left: 1.2rem; overflow-wrap: anywhere; }
.line { display: flex; gap: .75rem; align-items: flex-start; }
pre span { display: inline-block; max-width: 100%; }
pre { flex: 1; min-width: 0; margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
pre, .path { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .85rem; }
button, input {
  font: inherit; font-size: .875rem; color: inherit; background: var(--card);
  border: 1px solid var(--line); border-radius: .4rem; padding: .3rem .7rem;
}
button { cursor: pointer; }
button:hover { border-color: var(--soft); }
button[aria-pressed="true"] { border-color: var(--accent); box-shadow: inset 0 0 0 1px var(--accent); }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 1px; border-color: var(--accent); }
.controls { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; margin: 0 0 .5rem; }
.controls label { flex: 1 1 15rem; } .controls input { width: 100%; }
.kinds { display: flex; flex-wrap: wrap; gap: .4rem; }
.kinds small { color: var(--soft); font-variant-numeric: tabular-nums; }
.note { color: var(--soft); font-size: .875rem; margin: 0 0 .75rem; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
table { width: 100%; border-collapse: separate; border-spacing: 0; background: var(--card); table-layout: fixed;
  border: 1px solid var(--line); border-radius: .5rem; }
th { position: sticky; top: 0; background: var(--card); text-align: left; font-weight: 600; font-size: .875rem;
  border-bottom: 1px solid var(--line); border-radius: .5rem .5rem 0 0; padding: .55rem .9rem; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 3px solid var(--focus); }
th button::after { content: " \\2195"; color: var(--soft); opacity: .5; }
th[aria-sort="ascending"] button::after { content: " \\2191"; opacity: 1; color: var(--accent); }
th[aria-sort="descending"] button::after { content: " \\2193"; opacity: 1; color: var(--accent); }
td { padding: .35rem .9rem; vertical-align: top; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
tbody tr:last-child td { border-bottom: 0; }
tbody tr:hover td { background: color-mix(in srgb, var(--accent) 5%, transparent); }
th:nth-child(1) { width: 13rem; } th:nth-child(3) { width: 7.5rem; } th:nth-child(4) { width: 28%; }
td:nth-child(1) { white-space: nowrap; overflow-wrap: normal; }
th:nth-child(3), td:nth-child(3) { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td:nth-child(4) { color: var(--soft); font-size: .875rem; }
.path { white-space: pre-wrap; unicode-bidi: isolate; }
.sign { display: inline-block; width: 1.2em; font-weight: 700; font-family: ui-monospace, Menlo, Consolas,
  "DejaVu Sans Mono", monospace; }
.add { color: var(--add); } .del { color: var(--del); } .mod { color: var(--mod); } .err { color: var(--err); }
.same { color: var(--same); }
#more { display: block; margin: 1rem auto 0; }
.empty td { text-align: center; color: var(--soft); padding: 2rem; }
@media (max-width: 44rem) {
  main { padding: 1.25rem .9rem 3rem; }
  .tiles { grid-template-columns: repeat(auto-fill, minmax(6.2rem, 1fr)); gap: .5rem; }
  .tiles li { padding: .5rem .6rem; } .tiles b { font-size: 1.15rem; } .tiles span { line-height: 1.25; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .4rem; }
  table, thead, tbody { display: block; }
  thead tr { display: flex; flex-wrap: wrap; gap: 0 1.1rem; padding: .5rem .75rem;
    border-bottom: 1px solid var(--line); }
  thead th { display: block; width: auto !important; position: static; border: 0; padding: 0; }
  tbody tr { display: grid; grid-template-columns: 1fr auto; gap: 0 .75rem; padding: .5rem .75rem;
    border-bottom: 1px solid var(--line); }
  tbody tr:last-child { border-bottom: 0; }
  tbody td { border: 0; padding: 0; }
  td:nth-child(2), td:nth-child(4) { grid-column: 1 / -1; }
  td:nth-child(1) { order: 1; } td:nth-child(3) { order: 2; } td:nth-child(2) { order: 3; }
  td:nth-child(4) { order: 4; }
  .empty { display: block; }
}
.printed { display: none; }
@media print {
  :root { color-scheme: light; --page: #fff; --card: #fff; --text: #000; --soft: #444; --line: #bbb; --add: #17693a;
    --del: #a5401a; --mod: #7a5200; --err: #b3141f; --same: #444; }
  body { font-size: 10pt; } main { max-width: none; padding: 0; }
  .controls, #more, .line button { display: none; }
  th { position: static; } th button::after { content: ""; } tr { break-inside: avoid; }
  thead { display: table-header-group; } .printed { display: block; }
}
"""

SCRIPT = """
"use strict";
(() => {
  const CHUNK = 200, PRINTED = 5000, COLUMNS = ["kind", "path", "size", "why"];
  const at = id => document.getElementById(id);
  const {kinds, rows, total} = JSON.parse(at("data").textContent);
  const known = new Map(kinds.map((kind, place) => [kind.kind, {...kind, place}]));
  const body = document.querySelector("tbody"), heads = [...document.querySelectorAll("th")];
  const box = at("filter"), more = at("more"), lower = [];
  let state = {sort: "", desc: false, filter: "", kinds: new Set()}, view = [], shown = 0;

  const number = value => value.toString().replace(/\\B(?=(\\d{3})+$)/g, ",");
  const human = size => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let step = 0, value = size;
    while (value >= 1024 && step < units.length - 1) { value /= 1024; step += 1; }
    return (step ? (Math.floor(value * 10 + 0.5) / 10).toFixed(1) : size) + " " + units[step];
  };
  const make = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const cell = (name, text) => {
    const made = make("td", name, text);
    made.setAttribute("role", "cell");
    return made;
  };
  const line = ([kind, path, size, why]) => {
    const row = make("tr"), what = known.get(kind), first = cell(what.tone);
    row.setAttribute("role", "row");
    first.append(make("span", "sign", what.sign), what.word);
    const third = cell("", size === null ? "" : human(size));
    if (size !== null) third.title = number(size) + " bytes";
    row.append(first, cell("path", path), third, cell("", why));
    return row;
  };

  /* the view: which rows, in which order */

  const orders = {
    kind: (a, b) => known.get(a[0]).place - known.get(b[0]).place,
    path: (a, b) => a[1] < b[1] ? -1 : a[1] > b[1] ? 1 : 0,
    size: (a, b) => (a[2] ?? -1) - (b[2] ?? -1),
    why: (a, b) => a[3] < b[3] ? -1 : a[3] > b[3] ? 1 : 0,
  };
  const look = () => {
    const text = state.filter.toLowerCase();
    if (text && !lower.length) for (const row of rows) lower.push(row[1].toLowerCase());
    view = rows.filter((row, index) =>
      (!state.kinds.size || state.kinds.has(row[0])) && (!text || lower[index].includes(text)));
    const order = orders[state.sort];
    if (order) view.sort(state.desc ? (a, b) => order(b, a) : order);
    body.replaceChildren();
    shown = 0;
    grow(CHUNK);
    if (!view.length) {
      const row = make("tr", "empty"), only = cell("", total ? "No row is like that." : "There is nothing to show.");
      row.setAttribute("role", "row");
      only.colSpan = 4;
      row.append(only);
      body.append(row);
    }
    const missing = total > rows.length ? "; " + number(total - rows.length) + " more are not in this page" : "";
    at("count").textContent = view.length === rows.length
      ? number(rows.length) + (rows.length === 1 ? " row" : " rows") + missing
      : number(view.length) + " of " + number(rows.length) + " rows" + missing;
    for (const head of heads) {
      const mine = head.dataset.sort === state.sort;
      head.setAttribute("aria-sort", mine ? (state.desc ? "descending" : "ascending") : "none");
    }
    for (const button of at("kinds").children) {
      const kind = button.dataset.kind;
      button.setAttribute("aria-pressed", kind === undefined ? !state.kinds.size : state.kinds.has(kind));
    }
    if (box.value !== state.filter) box.value = state.filter;
  };
  const grow = count => {
    const part = document.createDocumentFragment();
    for (const row of view.slice(shown, shown + count)) part.append(line(row));
    body.append(part);
    shown = Math.min(view.length, shown + count);
    more.hidden = shown >= view.length;
  };

  /* the state stands in the address, so that a view can be linked */

  const read = () => {
    const given = new URLSearchParams(location.hash.slice(1)), sort = given.get("sort");
    state = {
      sort: COLUMNS.includes(sort) ? sort : "",
      desc: given.get("order") === "desc",
      filter: given.get("filter") ?? "",
      kinds: new Set((given.get("kind") ?? "").split(",").filter(kind => known.has(kind))),
    };
    look();
  };
  const write = () => {
    const parts = new URLSearchParams();
    if (state.sort) parts.set("sort", state.sort);
    if (state.sort && state.desc) parts.set("order", "desc");
    if (state.filter) parts.set("filter", state.filter);
    if (state.kinds.size) parts.set("kind", [...state.kinds].join(","));
    try { history.replaceState(null, "", "#" + parts); } catch { /* some mail programs forbid it */ }
    look();
  };

  /* what people can do */

  for (const [place, head] of heads.entries()) {
    const button = make("button", "", head.textContent);
    button.type = "button";
    head.dataset.sort = COLUMNS[place];
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const again = state.sort === head.dataset.sort;
      state.sort = again && state.desc ? "" : head.dataset.sort;
      state.desc = again && !state.desc;
      write();
    });
  }
  const chooser = (kind, words, count) => {
    const button = make("button");
    button.type = "button";
    button.append(...words, " ", make("small", "", number(count)));
    if (kind !== undefined) button.dataset.kind = kind;
    button.addEventListener("click", () => {
      if (kind === undefined) state.kinds.clear();
      else if (!state.kinds.delete(kind)) state.kinds.add(kind);
      write();
    });
    at("kinds").append(button);
  };
  chooser(undefined, ["All"], total);
  for (const kind of kinds) chooser(kind.kind, [make("span", "sign " + kind.tone, kind.sign), kind.word], kind.count);
  box.addEventListener("input", () => { state.filter = box.value; write(); });
  more.addEventListener("click", () => {
    const first = shown;
    grow(CHUNK);
    body.children[first]?.scrollIntoView({block: "nearest"});
  });
  new IntersectionObserver(seen => { if (seen.some(one => one.isIntersecting)) grow(CHUNK); }, {rootMargin: "900px"})
    .observe(more);
  addEventListener("hashchange", read);
  addEventListener("beforeprint", () => {
    grow(Math.max(0, PRINTED - shown));
    at("printed").textContent = shown < view.length
      ? "Printed: the first " + number(shown) + " of " + number(view.length) + " rows." : "";
  });
  const copy = at("copy");
  copy?.addEventListener("click", async () => {
    const command = at("command");
    try {
      await navigator.clipboard.writeText(command.textContent);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(command);
      copy.textContent = document.execCommand("copy") ? "Copied" : "Selected";
    }
    setTimeout(() => { copy.textContent = "Copy"; }, 2000);
  });
  if (copy) copy.hidden = false;
  at("still").remove();
  at("controls").hidden = false;
  at("count").hidden = false;
  read();
})();
"""

_HASH = b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
# Where hashes are understood, 'unsafe-inline' is ignored beside one: no other script runs, whatever got into the page.
POLICY = (
    f"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'sha256-{_HASH}'; "
    "base-uri 'none'; form-action 'none'"
)

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="verdict {tone}">{verdict}</p>
<dl>
<dt>Source</dt><dd class="path">{source}</dd>
<dt>Destination</dt><dd class="path">{destination}</dd>
<dt>When</dt><dd><time datetime="{iso}">{when}</time></dd>
</dl>
<ul class="tiles" aria-label="Totals">
{tiles}</ul>
"""

COMMAND = """<section class="card" aria-label="{heading}">
<h2>{heading}</h2>
<div class="line"><pre id="command">{command}</pre><button type="button" id="copy" hidden>Copy</button></div>
{notes}</section>
"""

NOTES = """<section class="card" aria-label="Warnings">
<h2>Warnings</h2>
<ul>{notes}</ul>
</section>
"""

TABLE = """<div class="controls" id="controls" hidden>
<label><span class="unseen">Show paths that contain</span>
<input id="filter" type="search" placeholder="Filter by path" autocomplete="off" spellcheck="false"></label>
<div class="kinds" id="kinds" role="group" aria-label="Show only"></div>
</div>
<p class="note" id="still">{still}</p>
<p class="note" id="count" role="status" hidden></p>
<table role="table" aria-label="{label}">
<thead role="rowgroup"><tr role="row">
<th scope="col" role="columnheader">{column}</th><th scope="col" role="columnheader">Path</th>
<th scope="col" role="columnheader">Size</th><th scope="col" role="columnheader">Why</th>
</tr></thead>
<tbody role="rowgroup">
"""

AFTER = """</tbody>
</table>
<p class="printed" id="printed"></p>
<button type="button" id="more" hidden>Show more</button>
</main>
<script type="application/json" id="data">"""

END = """</script>
<script>{script}</script>
</body>
</html>
"""
