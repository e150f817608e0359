"""Draw docs/images/speed_by_category.svg: tokens per second with and without the reference head.

The figures are read from the metrics.json of the reference head's model card, never typed in here.

    python docs/images/speed_by_category.py
"""

import json
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
METRICS = ROOT / "model_cards" / "smollm2-135m-instruct-eagle3" / "metrics.json"
PICTURE = Path(__file__).with_suffix(".svg")
SETTING = {"dtype": "bfloat16", "tree": "dynamic:4:4:12", "temperature": 0.0}
CATEGORIES = {"chat": "chat (MT-Bench)", "code": "code (HumanEval)", "math": "maths (GSM8K)"}

# the layout, in pixels
WIDTH = 720
LEFT = 165  # where bars begin
BAR = 22  # height of a bar
GROUP = 66  # distance from one category to the next
TOP = 84  # where the first category begins
PIXELS_PER_TOKEN = 5.2  # of one token per second
PLAIN_COLOUR = "#b4bcc8"
HEAD_COLOUR = "#e8710a"
INK = "#1f2328"


@dataclass(frozen=True)
class Bars:
    """One category's two speeds, in tokens per second."""

    label: str
    plain: float
    with_head: float

    @property
    def speedup(self) -> float:
        """How many times as fast the head is."""
        return self.with_head / self.plain


def read_bars(path: Path = METRICS) -> list[Bars]:
    """Read the speeds of the setting that the picture shows.

    Raises:
        ValueError: the file does not hold that setting.
    """
    for setting in json.loads(path.read_text())["settings"]:
        if all(setting[name] == value for name, value in SETTING.items()):
            break
    else:
        raise ValueError(f"{path} holds no setting with {SETTING}")
    bars = []
    for category, label in CATEGORIES.items():
        result = setting["results"][category]
        plain = result["plain_tokens_per_second"]
        bars.append(Bars(label, plain, result["fast_tokens_per_second"]))
    return bars


def text(x: float, y: float, words: str, **attributes: str) -> str:
    """One line of text; underscores in attribute names become dashes."""
    extras = ""
    for name, value in attributes.items():
        extras += f' {name.replace("_", "-")}="{value}"'
    return f'<text x="{x:.0f}" y="{y:.0f}"{extras}>{words}</text>'


def bar(y: float, speed: float, colour: str) -> str:
    """One bar, as long as its speed."""
    width = speed * PIXELS_PER_TOKEN
    return (
        f'<rect x="{LEFT}" y="{y:.0f}" width="{width:.1f}" height="{BAR}" rx="3" fill="{colour}"/>'
    )


def draw(bars: list[Bars]) -> str:
    """The whole picture as SVG."""
    height = TOP + GROUP * len(bars) + 14
    title = "Tokens per second, without and with the draft head"
    subtitle = "SmolLM2-135M-Instruct, greedy, bfloat16, 2 CPU cores (AMD EPYC), 20 prompts each"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="system-ui, sans-serif" font-size="14" fill="{INK}" role="img">',
        f"<title>{title}</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
        text(20, 32, title, font_size="17", font_weight="600"),
        text(20, 56, subtitle, fill="#59636e"),
    ]
    for number, group in enumerate(bars):
        top = TOP + GROUP * number
        # 1) the category's name, beside both bars; the first pair says which bar is which
        parts.append(text(LEFT - 12, top + BAR + 6, group.label, text_anchor="end"))
        # 2) generate alone
        plain_end = LEFT + group.plain * PIXELS_PER_TOKEN
        parts.append(bar(top, group.plain, PLAIN_COLOUR))
        plain_name = ", generate alone" if number == 0 else ""
        parts.append(text(plain_end + 8, top + 16, f"{group.plain:.1f}{plain_name}"))
        # 3) generate with the head, and how many times as fast it is
        head_end = LEFT + group.with_head * PIXELS_PER_TOKEN
        head_name = ", with the head" if number == 0 else ""
        speedup = f"{group.with_head:.1f}  ({group.speedup:.2f}x){head_name}"
        parts.append(bar(top + BAR + 4, group.with_head, HEAD_COLOUR))
        parts.append(text(head_end + 8, top + BAR + 20, speedup, font_weight="600"))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw(read_bars()))
