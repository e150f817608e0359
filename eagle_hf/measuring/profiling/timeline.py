"""One round as a drawing: a bar for each phase, below it one for each operator.

phases     |----------- draft ----------|------ target ------|
operators  ||| |||||  ||| |||||  ||| ||  |||||||||||||||||||||
           0 ms                20 ms              40 ms
"""

from html import escape

from eagle_hf.measuring.profiling.chrome_trace import Call, Span, TracedRounds
from eagle_hf.measuring.profiling.groups import GROUPS
from eagle_hf.measuring.profiling.rounds import ROUND_PHASES

# In units of the drawing, which a browser scales.
WIDTH = 1200
LEFT = 75  # room for the names of the bars
PHASE_TOP = 10
OPERATOR_TOP = 70
BAR = 50
AXIS = 130
HEIGHT = 160
STEPS = 8  # about so many marks on the axis


def median_round(rounds: TracedRounds) -> int:
    """The number of the round that took the median time, the longer of two in the middle."""
    order = sorted(range(len(rounds.seconds)), key=lambda number: rounds.seconds[number])
    return order[len(order) // 2]


def draw_timeline(rounds: TracedRounds, number: int) -> str:
    """Draw a round.

    Args:
        rounds: under the profiler.
        number: of the round that is drawn.

    Returns:
        An SVG element. Each bar has a title, which a browser shows where one points at it. Colours
        are classes: `group-0` for the first of GROUPS, `phase-0` for the first phase.
    """
    calls = [call for call in rounds.calls if call.round == number and call.start is not None]
    ends = [call.start + call.seconds for call in calls if call.start is not None]
    # a GPU may end later than Python
    longest = max([rounds.seconds[number], *ends])
    scale = (WIDTH - LEFT) / longest
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="timeline of one round">',
        f'<text x="0" y="{PHASE_TOP + BAR / 2}">phases</text>',
        f'<text x="0" y="{OPERATOR_TOP + BAR / 2}">operators</text>',
    ]
    for span in rounds.spans:
        if span.round == number:
            parts.append(_phase_bar(span, scale))
    for call in calls:
        parts.append(_operator_bar(call, scale))
    parts += _axis(longest, scale)
    parts.append("</svg>")
    return "\n".join(parts)


def _phase_bar(span: Span, scale: float) -> str:
    """The bar of a phase; inner phases lie on the outer one."""
    title = f"{span.phase}: {1000 * span.seconds:.3f} ms"
    kind = f"phase-{ROUND_PHASES.index(span.phase)}"
    return _bar(kind, span.start, span.seconds, PHASE_TOP, title, scale)


def _operator_bar(call: Call, scale: float) -> str:
    """The bar of an operator."""
    assert call.start is not None, "what lies between operators has no bar"
    title = f"{call.name} ({call.phase}, {call.group}): {1000 * call.seconds:.3f} ms"
    if call.product is not None:
        title += f", {call.product}"
    kind = f"group-{GROUPS.index(call.group)}"
    return _bar(kind, call.start, call.seconds, OPERATOR_TOP, title, scale)


def _bar(kind: str, start: float, seconds: float, top: int, title: str, scale: float) -> str:
    """A rectangle with a title."""
    left = LEFT + start * scale
    width = max(seconds * scale, 0.1)  # or a browser leaves it out
    return (
        f'<rect class="{kind}" x="{left:.2f}" y="{top}" width="{width:.2f}" height="{BAR}">'
        f"<title>{escape(title)}</title></rect>"
    )


def _axis(longest: float, scale: float) -> list[str]:
    """Marks at round milliseconds."""
    step = _round_step(1000 * longest / STEPS)
    parts = [f'<line x1="{LEFT}" y1="{AXIS}" x2="{WIDTH}" y2="{AXIS}"/>']
    mark = 0
    while mark * step <= 1000 * longest:
        milliseconds = mark * step
        left = LEFT + milliseconds / 1000 * scale
        parts.append(f'<line x1="{left:.1f}" y1="{AXIS}" x2="{left:.1f}" y2="{AXIS + 6}"/>')
        parts.append(f'<text x="{left:.1f}" y="{AXIS + 22}">{milliseconds:g} ms</text>')
        mark += 1
    return parts


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, 50 ... and of their tenths that is not below `least`."""
    power = 1e-6
    while True:
        for factor in (1, 2, 5):
            if factor * power >= least:
                return round(factor * power, 9)
        power *= 10
