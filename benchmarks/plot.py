"""Bar charts of ratios as SVG, by hand: the standard library has no plots, and the project wants no library for them.

A bar begins at 1, where both are equal, and goes to the right where ours is better. The scale is logarithmic, so that
twice as fast and half as fast are equally long. The colours follow the reader's light or dark mode.
"""

import math
from html import escape

WIDTH, LEFT, RIGHT, TOP, ROW = 760, 16, 84, 58, 40
TICKS = (0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32)
STYLE = """
.back { fill: #ffffff } .text { fill: #1f2328 } .faint { fill: #59636e } .grid { stroke: #d1d9e0 }
.one { stroke: #1f2328 } .better { fill: #0969da } .worse { fill: #bc4c00 } .spread { stroke: #59636e }
@media (prefers-color-scheme: dark) {
.back { fill: #0d1117 } .text { fill: #f0f6fc } .faint { fill: #9198a1 } .grid { stroke: #3d444d }
.one { stroke: #f0f6fc } .better { fill: #4493f8 } .worse { fill: #f0883e } .spread { stroke: #9198a1 }
}
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif }
.small { font-size: 11px } .title { font-size: 15px; font-weight: 600 }
"""


def bars(title, rows):
    """The chart as text. ``rows`` are (label, peer, ratio, smallest, largest); above 1 ours is better."""
    values = [1.0, *(value for row in rows for value in row[2:])]
    low = max(tick for tick in TICKS if tick <= min(0.7, *values))
    high = min(tick for tick in TICKS if tick >= max(1.4, *values))
    height = TOP + ROW * len(rows) + 14

    def at(value):
        share = math.log(value / low) / math.log(high / low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def text(x, y, content, kind="text", anchor="start"):
        return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(content)}</text>'

    said = "; ".join(f"{label} against {peer}: {ratio:g}" for label, peer, ratio, *_ in rows)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">',
        f"<title>{escape(title)}</title>",
        f"<desc>{escape(said)}</desc>",
        f"<style>{STYLE}</style>",
        f'<rect class="back" width="{WIDTH}" height="{height}"/>',
        text(LEFT, 22, title, "text title"),
    ]
    for tick in TICKS:
        if low <= tick <= high:
            kind = "one" if tick == 1 else "grid"
            label = "1 = the peer" if tick == 1 else f"{tick:g}"
            end = "start" if tick == low else "end" if tick == high else "middle"
            lines.append(text(at(tick), 42, label, "text small" if tick == 1 else "faint small", end))
            lines.append(f'<line class="{kind}" x1="{at(tick)}" x2="{at(tick)}" y1="{TOP - 10}" y2="{height - 8}"/>')
    for number, (label, peer, ratio, smallest, largest) in enumerate(rows):
        y = TOP + ROW * number
        label, peer = fitted(label, peer)
        shown = f'{escape(label)} <tspan class="faint small">against {escape(peer)}</tspan>'
        # A stroke of the background's colour keeps the words apart from the lines behind them.
        lines.append(f'<rect class="back" x="{LEFT}" y="{y}" width="{width(label, peer)}" height="17"/>')
        lines.append(f'<text x="{LEFT}" y="{y + 13}" class="text">{shown}</text>')
        begin, end = sorted((at(1), at(ratio)))
        kind = "better" if ratio >= 1 else "worse"
        lines.append(
            f'<rect class="{kind}" x="{begin}" y="{y + 19}" width="{max(1.5, round(end - begin, 1))}" height="11"/>'
        )
        if smallest != largest:
            lines.append(
                f'<line class="spread" x1="{at(smallest)}" x2="{at(largest)}" y1="{y + 24.5}" y2="{y + 24.5}"/>'
            )
        lines.append(text(max(end, at(largest)) + 6, y + 29, f"{ratio:g}x", "text small"))
    return "\n".join([*lines, "</svg>", ""])


def fitted(label, peer):
    """Both as far as there is room; the tables have all of it."""
    while width(label, peer) > WIDTH - 2 * LEFT:
        if len(peer) > 30:
            peer = peer[:-2].rstrip() + "…"
        else:
            label = label[:-2].rstrip() + "…"
    return label, peer


def width(label, peer):
    """About how wide the words over a bar are."""
    return round(6.8 * len(label) + 5.8 * len(f" against {peer}"))
