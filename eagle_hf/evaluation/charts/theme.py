"""Colours by role, light and dark, and how matplotlib draws.

Drawings are made in the light colours. In a page every one of them becomes the CSS variable of its
role, so that one drawing serves both schemes. The colours of series differ in lightness too, and
every series has a marker of its own: tests/evaluation/test_report_colours.py holds what people with
each kind of colour blindness see.
"""

import re

LIGHT = {
    "ink": "#1b1f24",
    "muted": "#59626c",
    "grid": "#e4e7eb",
    "surface": "#ffffff",
    "plain": "#888f98",
    "series-1": "#0068a8",
    "series-2": "#bd4708",
    "series-3": "#0a9d6c",
    "series-4": "#8e2f5c",
    "series-5": "#b58c00",
    "series-6": "#2b2a5e",
    "step-0": "#e9f1f9",
    "step-1": "#c5ddf1",
    "step-2": "#94c0e4",
    "step-3": "#2f78b1",
    "step-4": "#0b4a7e",
}
DARK = {
    "ink": "#e9ebee",
    "muted": "#a6aeb8",
    "grid": "#343a42",
    "surface": "#1b1e23",
    "plain": "#9aa2ac",
    "series-1": "#5fa8f5",
    "series-2": "#ee8a42",
    "series-3": "#2f9e78",
    "series-4": "#b05aa0",
    "series-5": "#f3dc9a",
    "series-6": "#dfe3ff",
    "step-0": "#22303f",
    "step-1": "#274a68",
    "step-2": "#2f6390",
    "step-3": "#70b1e7",
    "step-4": "#b6dcfb",
}
SERIES = tuple(role for role in LIGHT if role.startswith("series-"))
STEPS = tuple(role for role in LIGHT if role.startswith("step-"))
MARKERS = ("o", "s", "^", "D", "v", "P")
PLAIN_MARKER = "X"
MOST_SERIES = len(SERIES)  # drawn beside the plain one; tables hold all
FONT_SIZE = 12  # pixels

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": LIGHT["grid"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.labelsize": FONT_SIZE,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.h_pad": 0.04,
    "figure.constrained_layout.w_pad": 0.04,
    "font.family": "DejaVu Sans",  # in matplotlib, and wider than most: what fits in it, fits
    "font.size": FONT_SIZE,
    "grid.color": LIGHT["grid"],
    "legend.fontsize": FONT_SIZE,
    "lines.linewidth": 2,
    "lines.markersize": 6.5,
    "svg.fonttype": "none",
    "text.color": LIGHT["ink"],
    "text.parse_math": False,  # a name may hold a dollar sign
    "xtick.color": LIGHT["grid"],
    "xtick.labelcolor": LIGHT["muted"],
    "xtick.labelsize": FONT_SIZE,
    "ytick.color": LIGHT["grid"],
    "ytick.labelcolor": LIGHT["muted"],
    "ytick.labelsize": FONT_SIZE,
}
_ROLES = {colour: role for role, colour in LIGHT.items()}
_HEX = re.compile(r"#[0-9a-f]{6}\b")


def with_variables(svg: str) -> str:
    """The drawing with every colour as the CSS variable of its role."""

    def variable(found: re.Match[str]) -> str:
        role = _ROLES.get(found[0])
        return found[0] if role is None else f"var(--{role})"

    return _HEX.sub(variable, svg)


def css_variables(colours: dict[str, str]) -> str:
    """The roles as CSS: `--ink: #1b1f24; ...`."""
    return " ".join(f"--{role}: {colour};" for role, colour in colours.items())


def text_on(step: int) -> str:
    """The colour of texts on a step of the scale."""
    return LIGHT["ink"] if step < 3 else LIGHT["surface"]
