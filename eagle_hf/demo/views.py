"""What the page shows, as HTML: answers, figures, the verdict, the tree.

Texts come from a model or a reader, so every one of them is escaped.
"""

import math
from html import escape

from transformers import PreTrainedTokenizerBase

from eagle_hf.demo.comparison import Comparison, GrowingAnswer
from eagle_hf.demo.pieces import Piece
from eagle_hf.demo.tree_drawing import DEEPEST, depth_class, tree_svg
from eagle_hf.evaluation.equality import Difference

EXACT_DTYPES = ("float32", "float64")
DASH = "\u2013"  # in place of a figure that is not there yet


def plain_html(shown: Comparison) -> str:
    """The target's own answer."""
    answer = shown.plain
    values = {
        "tokens": str(answer.tokens),
        "seconds": f"{answer.seconds:.1f}",
        "tokens/s": number(answer.tokens_per_second, 1),
    }
    return f"<h2>Target alone</h2>{figures(values)}{answer_html(answer, shown.parting)}"


def drafted_html(shown: Comparison) -> str:
    """The answer with the head."""
    answer = shown.drafted
    values = {
        "tokens": str(answer.tokens),
        "seconds": f"{answer.seconds:.1f}",
        "tokens/s": number(answer.tokens_per_second, 1),
        "times alone": number(shown.speedup, 2),
        "tau": number(answer.tau, 2),
    }
    return f"<h2>With the head</h2>{figures(values)}{answer_html(answer, shown.parting)}"


def answer_html(answer: GrowingAnswer, parting: int | None) -> str:
    """A text, with its accepted drafts in the colours of their depths.

    Args:
        answer: the text.
        parting: the token from 0 that gets a mark, because the answers part there; None for none.
    """
    parts = []
    for piece in answer.pieces:
        if parting is not None and piece.token >= parting:
            parts.append('<span class="parting" title="the answers part here"></span>')
            parting = None
        parts.append(piece_html(piece))
    return f'<div class="answer">{"".join(parts)}</div>'


def piece_html(piece: Piece) -> str:
    """A piece of an answer, in colour where it had been drafted."""
    text = escape(piece.text)
    if not piece.depth:
        return text
    title = f"accepted draft of depth {piece.depth}"
    return f'<span class="draft {depth_class(piece.depth)}" title="{title}">{text}</span>'


def figures(values: dict[str, str]) -> str:
    """Figures by their names, in a row."""
    parts = []
    for name, value in values.items():
        parts.append(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>")
    return f'<dl class="figures">{"".join(parts)}</dl>'


def number(value: float, digits: int) -> str:
    """A number, or a dash where there is none."""
    return DASH if math.isnan(value) else f"{value:.{digits}f}"


def legend_html() -> str:
    """What the colours mean."""
    chips = []
    for depth in range(1, DEEPEST + 1):
        more = " and deeper" if depth == DEEPEST else ""
        chips.append(f'<span class="draft {depth_class(depth)}">{depth}{more}</span>')
    return (
        '<p class="legend">accepted drafts, by their depth in the tree: '
        f"{' '.join(chips)}; without colour: chosen by the target alone. tau: mean tokens a round, "
        "of which the target supplies one.</p>"
    )


def tree_html(answer: GrowingAnswer, tokenizer: PreTrainedTokenizerBase) -> str:
    """The last tree that was drafted, or why there is none."""

    def decode(token: int) -> str:
        return str(tokenizer.decode([token]))

    content = message("It is drawn while the head drafts.")
    if answer.tree is not None:
        # it may be wider than the screen, and is then scrolled, also from the keyboard
        content = (
            '<div class="drawing" tabindex="0" role="group" aria-label="The last tree">'
            f"{tree_svg(answer.tree, decode)}</div>"
        )
    elif answer.is_finished:
        content = message(
            "No tree was drafted: this machine is fastest without one, by its measured costs. "
            "Choose a tree above to see one all the same."
        )
    return f"<h2>The last tree</h2>{content}"


def status_html(shown: Comparison, dtype: str) -> str:
    """Who is answering, or how the answers compare."""
    if not shown.plain.is_finished:
        return message("The target answers alone\u2026")
    if not shown.drafted.is_finished:
        return message("Now the same with the head\u2026")
    if shown.difference is not None:
        return message(difference_text(shown, shown.difference, dtype), "differs")
    count = shown.plain.tokens
    return message(f"Identical: both answers are the same {count} tokens.", "identical")


def difference_text(shown: Comparison, difference: Difference, dtype: str) -> str:
    """Where two answers part, and what that means."""
    place = difference.position - shown.prompt_tokens + 1
    where = f"The answers part at token {place} of {shown.plain.tokens}."
    if shown.excuse is not None:
        return f"{where} {shown.excuse}"
    gap = f"There the target alone preferred its own token by {difference.gap:.2g}."
    if math.isinf(difference.gap) or (dtype in EXACT_DTYPES and not difference.is_tie):
        return f"{where} That must not happen in {dtype}; please report it with the prompt."
    if dtype in EXACT_DTYPES:
        return f"{where} {gap} That is a tie, within the rounding of {dtype}."
    return (
        f"{where} {gap} A tree is read in other matrix shapes than one token, and {dtype} rounds "
        "coarsely. Equality is promised in float32: start the demo with --dtype float32."
    )


def message(text: str, kind: str = "quiet") -> str:
    """A line below the settings.

    Args:
        text: what it says.
        kind: "quiet", "identical", "differs" or "error".
    """
    role = "alert" if kind == "error" else "status"
    return f'<p class="message {kind}" role="{role}">{escape(text)}</p>'
