"""A loss mask for the eye: which part of a conversation a draft head learns."""

import html
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from eagle_hf.data.rows import Example

GREEN = "\x1b[32m"
DIM = "\x1b[2m"
RESET = "\x1b[0m"
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>What a draft head learns</title>
<style>
body {{ font: 14px/1.5 sans-serif; max-width: 60em; margin: 2em auto; }}
pre {{ white-space: pre-wrap; color: #777; border-left: 3px solid #ddd; padding-left: 1em; }}
mark {{ background: #cfe8cf; color: #063; }}
</style>
{body}
</html>
"""


class _Run(NamedTuple):
    """Neighbouring tokens of which all are learnt, or none."""

    text: str
    is_learnt: bool


def show_mask(
    tokenizer: PreTrainedTokenizerBase, input_ids: list[int], loss_mask: list[int]
) -> str:
    """Show a conversation in a terminal: what is learnt in green, the rest dim.

    Args:
        tokenizer: decodes the ids.
        input_ids: tokens of an example, shape [S].
        loss_mask: its mask, shape [S].

    Returns:
        The text with terminal colours.

    Raises:
        ValueError: ids and mask differ in length.

    Example:

        >>> examples, _ = prepare_examples(target, tokenizer, rows)
        >>> print(show_mask(tokenizer, examples[0]["input_ids"], examples[0]["loss_mask"]))
    """
    parts = []
    for run in _runs(tokenizer, input_ids, loss_mask):
        colour = GREEN if run.is_learnt else DIM
        parts.append(f"{colour}{run.text}{RESET}")
    return "".join(parts)


def mask_page(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> str:
    """Show examples as a page of HTML: what is learnt on green, the rest grey.

    Args:
        tokenizer: decodes the ids.
        examples: of `prepare_examples`.

    Returns:
        The page. It needs nothing but itself.

    Raises:
        ValueError: ids and mask of an example differ in length.
    """
    parts = []
    for example in examples:
        ids = list(example["input_ids"])
        mask = list(example["loss_mask"])
        parts.append(f"<h2>{html.escape(example['id'])}</h2>")
        parts.append(f"<p>{len(ids)} tokens, {sum(mask)} learnt</p>")
        shown = []
        for run in _runs(tokenizer, ids, mask):
            text = html.escape(run.text)
            shown.append(f"<mark>{text}</mark>" if run.is_learnt else text)
        # A browser drops the first newline of a <pre>.
        parts.append(f"<pre>\n{''.join(shown)}</pre>")
    return PAGE.format(body="\n".join(parts))


def _runs(
    tokenizer: PreTrainedTokenizerBase, input_ids: list[int], loss_mask: list[int]
) -> list[_Run]:
    """The text in runs of equal mask values."""
    if len(input_ids) != len(loss_mask):
        raise ValueError(
            f"{len(input_ids)} input_ids and {len(loss_mask)} mask values; "
            "both must be of one example"
        )
    runs = []
    start = 0
    for end in range(1, len(input_ids) + 1):
        # A run of equal mask values is decoded as a whole: a character may span several tokens.
        is_run_end = end == len(input_ids) or loss_mask[end] != loss_mask[start]
        if is_run_end:
            text = tokenizer.decode(input_ids[start:end], skip_special_tokens=False)
            assert isinstance(text, str), "one list of ids is one text"
            runs.append(_Run(text, bool(loss_mask[start])))
            start = end
    return runs
