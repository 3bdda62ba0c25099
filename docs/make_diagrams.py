"""Draws the diagrams of the docs as SVG, in the reader's light or dark theme: `python -m docs.make_diagrams`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape

IMAGES = Path(__file__).parent / "images"
STYLE = """
svg { color: #1f2328; --muted: #59636e; --line: #818b98; --box: #f6f8fa;
  --accent: #0969da; --bad: #cf222e; --good: #1a7f37 }
@media (prefers-color-scheme: dark) {
svg { color: #f0f6fc; --muted: #9198a1; --line: #656c76; --box: #151b23;
  --accent: #4493f8; --bad: #f85149; --good: #3fb950 }
}
text { font: 14px system-ui, sans-serif; fill: currentColor; text-anchor: middle }
.small { font-size: 12px; fill: var(--muted) } .left { text-anchor: start } .strong { font-weight: 600 }
rect { fill: var(--box); stroke: var(--line) } .note { fill: none; stroke-dasharray: 4 3 }
.good { stroke: var(--good); stroke-width: 2 } .bad { stroke: var(--bad); stroke-width: 2 }
.accent { stroke: var(--accent); stroke-width: 2 }
path, line { fill: none; stroke: var(--line); stroke-width: 1.5 } .life { stroke-dasharray: 2 4 }
marker path { fill: var(--line); stroke: none }
"""
ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z"/></marker></defs>'
)


def svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """A picture of `parts` with a title for screen readers."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" width="{width}">'
    return "\n".join([head, f"<title>{escape(title)}</title><style>{STYLE}</style>{ARROW}", *parts, "</svg>\n"])


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """One line, centred at x."""
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, *lines: str, kind: str = "") -> str:
    """A box with its top left corner at (x, y): a name, and smaller lines below it."""
    first = y + height / 2 + 5 - 8 * (len(lines) - 1)
    words = [
        text(x + width / 2, first + 17 * row, line, "strong" if row == 0 else "small") for row, line in enumerate(lines)
    ]
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" class="{kind}"/>' + "".join(words)


def arrow(
    *points: tuple[float, float], label: str = "", at: tuple[float, float] | None = None, both: bool = False
) -> str:
    """A line through `points` with a head at its end, its label at `at` or above its middle."""
    start = ' marker-start="url(#arrow)"' if both else ""
    line = f'<path d="M{" L".join(f"{x} {y}" for x, y in points)}" marker-end="url(#arrow)"{start}/>'
    if not label:
        return line
    x, y = at or ((points[0][0] + points[-1][0]) / 2, (points[0][1] + points[-1][1]) / 2 - 6)
    return line + text(x, y, label, "small")


def trigger() -> str:
    """A trigger that waits for its subscriber, top to bottom."""
    columns = {"App": 80, "edge": 290, "Browser": 500, "Job runner": 710}
    parts = [box(x - 60, 10, 120, 34, name) for name, x in columns.items()]
    parts += [f'<line x1="{x}" y1="44" x2="{x}" y2="474" class="life"/>' for x in columns.values()]
    app, edge, browser, job = columns.values()
    for y, start, end, label in (
        (80, app, edge, "POST …/trigger?timeout=30s"),
        (154, browser, edge, "GET …/events"),
        (190, edge, browser, "hello, missed events, a probe"),
        (226, browser, edge, "TCP acknowledges every byte"),
        (308, edge, job, "POST trigger.url: once, signed"),
        (344, job, edge, "2xx"),
        (380, edge, app, "202 dispatched"),
        (426, job, edge, "POST …/events: progress"),
        (460, edge, browser, "progress"),
    ):
        parts.append(arrow((start, y), (end, y), label=label, at=((start + end) / 2, y - 6)))
    for y, words in ((102, "no subscriber is ready: wait"), (250, "ready: confirmed")):
        parts.append(f'<rect x="{edge - 100}" y="{y}" width="200" height="26" rx="4"/>' + text(edge, y + 18, words))
    return svg(790, 480, "A trigger waits until a subscriber is confirmed, then dispatches the job once", parts)


def ledger() -> str:
    """What can become of an event, and which ways count as a miss."""
    parts = [
        box(20, 140, 150, 50, "waiting", "for its connections"),
        box(290, 30, 150, 50, "delivered", kind="good"),
        box(290, 240, 150, 50, "pending", "no subscriber has it", kind="accent"),
        box(560, 140, 150, 50, "lost", "evicted", kind="bad"),
        text(86, 120, "published with connections", "small"),
        text(365, 308, "published without a connection", "small"),
        arrow((140, 140), (290, 48), label="written", at=(190, 88)),
        arrow((290, 66), (170, 150), label="connection lost,", at=(268, 124)),
        text(268, 138, "another will get it", "small"),
        arrow((110, 190), (290, 262), label="connections", at=(150, 236)),
        text(150, 250, "closed", "small"),
        arrow((350, 240), (350, 80), label="recovered", at=(314, 186)),
        arrow((385, 80), (385, 240), label="connection lost", at=(458, 156)),
        text(458, 170, "before acknowledged", "small"),
        arrow((440, 58), (610, 140), label="connection lost and evicted", at=(602, 84)),
        arrow((440, 262), (610, 190), label="evicted", at=(560, 240)),
        arrow((60, 190), (60, 346), (670, 346), (670, 190), label="evicted before it was written", at=(365, 338)),
    ]
    return svg(730, 360, "The states of an event: waiting, delivered, pending, lost", parts)


def overview() -> str:
    """What stands where in a deployment."""
    parts = [
        box(20, 30, 150, 60, "Browser", "edge.js, EventSource"),
        box(20, 190, 150, 60, "curl, CLI", "any SSE client"),
        box(235, 110, 130, 60, "proxy", "TLS, your domain"),
        box(440, 80, 170, 120, "edge", "rings, connections,", "miss ledger, live page", kind="accent"),
        box(690, 20, 150, 60, "App", "publishes, triggers"),
        box(690, 110, 150, 60, "Job runner", "webhook or Inngest"),
        box(690, 200, 150, 60, "Prometheus", "Grafana, alerts"),
        box(440, 250, 170, 50, "SQLite or Redis", "optional: history"),
        arrow((170, 60), (235, 128), both=True),
        arrow((170, 220), (235, 152), both=True),
        arrow((365, 140), (440, 140), label="SSE", both=True),
        arrow((690, 50), (610, 104), label="POST", at=(645, 66)),
        arrow((610, 132), (690, 132), label="job", at=(650, 126)),
        arrow((690, 150), (610, 150), label="events", at=(650, 166)),
        arrow((690, 230), (610, 180), label="/metrics", at=(640, 222)),
        arrow((525, 200), (525, 250), both=True),
    ]
    return svg(860, 310, "edge between a proxy, the app, its job runner and Prometheus", parts)


def cluster() -> str:
    """Several nodes around one Redis."""
    parts = [box(20, 110, 120, 50, "load balancer"), box(600, 100, 140, 70, "Redis", "events, ids, totals")]
    for row, name in enumerate(("edge 1", "edge 2", "edge 3")):
        y = 20 + 90 * row
        parts += [
            box(260, y, 120, 50, name),
            arrow((140, 135), (260, y + 25)),
            arrow((380, y + 18), (600, 125 + 10 * row), both=True),
        ]
    parts += [
        text(490, 40, "append: Redis gives the number", "small"),
        text(490, 238, "events of projects with", "small"),
        text(490, 254, "subscribers on this node", "small"),
    ]
    return svg(760, 280, "Three nodes of edge behind a load balancer, around one Redis", parts)


def main() -> None:
    """Write every diagram."""
    for draw in (trigger, ledger, overview, cluster):
        (IMAGES / f"{draw.__name__}.svg").write_text(draw())


if __name__ == "__main__":
    main()
