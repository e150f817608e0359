"""A profile as one HTML page: sentences, a timeline of one round, and tables.

The page needs nothing beside itself: no script, no font, no picture from elsewhere.
"""

from collections.abc import Sequence
from html import escape

from eagle_hf.measuring.profiling.groups import GROUPS
from eagle_hf.measuring.profiling.report import (
    Total,
    group_totals,
    headline,
    operator_totals,
    speed_text,
)
from eagle_hf.measuring.profiling.rounds import ROUND_PHASES, RoundProfile
from eagle_hf.measuring.profiling.timeline import draw_timeline, median_round

# One colour for each group and phase, apart in brightness too; readable on white and on black.
GROUP_COLOURS = (
    "#3b6fd4",  # matrix products
    "#7a4fc9",  # LM head
    "#d9822b",  # attention
    "#3a9d5d",  # norms and elementwise
    "#c2a200",  # copies and cache
    "#c9487a",  # argmax, top-k, softmax
    "#2a9aa8",  # compiled kernels
    "#8a6d5a",  # other
    "#9aa0a6",  # between operators, which have no bar
)
PHASE_COLOURS = ("#5b86dd", "#4fae70", "#b9d7c3", "#d9b36c", "#b58ad6")

STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --page: #ffffff; --line: #d0d7de;
  --soft: #57606a; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --page: #0d1117; --line: #30363d; --soft: #9198a1; } }
@media print { :root { --text: #000000; --page: #ffffff; --line: #bbbbbb; --soft: #444444; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .scroll { overflow: visible; } tr { break-inside: avoid; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p.note { color: var(--soft); }
.scroll { overflow-x: auto; }
svg { display: block; width: 100%; min-width: 60rem; height: auto; }
svg text { fill: var(--text); font: 12px system-ui, sans-serif; }
svg line { stroke: var(--line); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid var(--line); }
th.number, td.number { text-align: right; }
ul.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em; }
"""
TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}{colours}</style>
</head>
<body>
<h1>{title}</h1>
{sentences}
<h2>Phases</h2>
<p class="note">Medians of rounds without the profiler.</p>
{phases}
<h2>One round</h2>
<p class="note">The median round under the profiler, and its operators as Python called them. Point
at a bar for its numbers, or see the last table. Gaps lie between operators.</p>
{phase_legend}
{group_legend}
<div class="scroll">{timeline}</div>
<h2>Groups of operators</h2>
<p class="note">Means of {rounds} rounds under the profiler. The rows add up to the round.</p>
{groups}
<h2>Operators</h2>
<p class="note">GB/s is the speed at which a matrix product reads its weights.</p>
{operators}
</body>
</html>
"""


def profile_page(profile: RoundProfile, title: str) -> str:
    """Show a profile as a page.

    Args:
        profile: what was measured.
        title: of the page.

    Returns:
        The HTML, which needs no other file.
    """
    traced = profile.traced
    return TEMPLATE.format(
        title=escape(title),
        style=STYLE,
        colours=_colours(),
        sentences="\n".join(f"<p>{escape(line)}</p>" for line in headline(profile)),
        phases=_phase_table(profile),
        phase_legend=_legend("phase", ROUND_PHASES),
        group_legend=_legend("group", GROUPS[:-1]),
        timeline=draw_timeline(traced, median_round(traced)),
        rounds=len(traced.seconds),
        groups=_total_table(profile, group_totals(traced.calls), with_names=False),
        operators=_total_table(profile, operator_totals(traced.calls), with_names=True),
    )


def _colours() -> str:
    """A class for the colour of each group and phase."""
    rules = []
    for kind, colours in (("group", GROUP_COLOURS), ("phase", PHASE_COLOURS)):
        for number, colour in enumerate(colours):
            rules.append(f".{kind}-{number} {{ fill: {colour}; background: {colour}; }}")
    return "\n".join(rules)


def _legend(kind: str, names: Sequence[str]) -> str:
    """What the colours stand for."""
    entries = []
    for number, name in enumerate(names):
        swatch = f'<span class="swatch {kind}-{number}"></span>'
        entries.append(f"<li>{swatch}{escape(name)}</li>")
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _phase_table(profile: RoundProfile) -> str:
    """The phases without the profiler."""
    rows = []
    for phase, seconds in profile.timed.phase_medians.items():
        share = seconds / profile.timed.median
        rows.append([phase, f"{1000 * seconds:.3f}", f"{share:.1%}"])
    return _table(["phase"], ["ms a round", "share"], rows)


def _total_table(profile: RoundProfile, totals: Sequence[Total], with_names: bool) -> str:
    """Totals of calls, a row each; with names also the operator and what it multiplies."""
    rounds = len(profile.traced.seconds)
    whole = sum(profile.traced.seconds)
    texts = ["phase", "group"]
    numbers = ["calls a round", "ms a round", "share"]
    if with_names:
        texts += ["operator", "rows x inputs -> outputs"]
        numbers.append("GB/s")
    rows = []
    for total in totals:
        row = [total.phase, total.group]
        if with_names:
            row += [total.name, "" if total.product is None else str(total.product)]
        row.append(f"{total.calls / rounds:.1f}" if total.calls else "")
        row.append(f"{1000 * total.seconds / rounds:.3f}")
        row.append(f"{total.seconds / whole:.1%}")
        if with_names:
            row.append(speed_text(total))
        rows.append(row)
    return _table(texts, numbers, rows)


def _table(texts: Sequence[str], numbers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first columns are texts and whose others are numbers."""
    lines = ["<table><thead>", _row("th", len(texts), [*texts, *numbers]), "</thead><tbody>"]
    for row in rows:
        lines.append(_row("td", len(texts), row))
    lines.append("</tbody></table>")
    return "\n".join(lines)


def _row(tag: str, texts: int, cells: Sequence[str]) -> str:
    """A row, of which the first cells are texts."""
    parts = []
    for number, cell in enumerate(cells):
        kind = "" if number < texts else ' class="number"'
        parts.append(f"<{tag}{kind}>{escape(cell)}</{tag}>")
    return f"<tr>{''.join(parts)}</tr>"
