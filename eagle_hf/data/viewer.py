"""A loss mask for the eye: which part of a conversation a draft head learns."""

from transformers import PreTrainedTokenizerBase

GREEN = "\x1b[32m"
DIM = "\x1b[2m"
RESET = "\x1b[0m"


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
    if len(input_ids) != len(loss_mask):
        raise ValueError(
            f"{len(input_ids)} input_ids and {len(loss_mask)} mask values; "
            "both must be of one example"
        )
    parts = []
    start = 0
    for end in range(1, len(input_ids) + 1):
        # A run of equal mask values is decoded as a whole: a character may span several tokens.
        is_run_end = end == len(input_ids) or loss_mask[end] != loss_mask[start]
        if is_run_end:
            colour = GREEN if loss_mask[start] else DIM
            text = tokenizer.decode(input_ids[start:end], skip_special_tokens=False)
            parts.append(f"{colour}{text}{RESET}")
            start = end
    return "".join(parts)
