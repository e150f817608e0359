"""The answers of an example: where they begin and end."""

from itertools import groupby
from operator import itemgetter

from eagle_hf.data.rows import Example


def answer_spans(example: Example) -> list[tuple[int, int]]:
    """Find the answers that have rounds: those behind a prompt, with at least two tokens.

    Args:
        example: tokenised, with a loss mask.

    Returns:
        (begin, end) of each in its tokens, in order.
    """
    spans = []
    for is_answer, group in groupby(enumerate(example["loss_mask"]), key=itemgetter(1)):
        places = [place for place, _ in group]
        begin = places[0]
        end = places[-1] + 1
        if is_answer and begin > 0 and end - begin > 1:
            spans.append((begin, end))
    return spans
