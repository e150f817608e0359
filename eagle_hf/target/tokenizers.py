"""Whose tokenizer and chat template a target is used with.

An adapter that was trained on another template, or with tokens of its own, is saved with its own
tokenizer beside it. The target's would render texts that the adapter never saw.
"""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.utils import has_file, logging
from transformers.utils.hub import cached_file

from eagle_hf.target.gguf import resolve

logger = logging.get_logger(__name__)

# files that hold the vocabulary of a saved tokenizer, the usual one first
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
TEMPLATE = "chat_template.jinja"


def open_tokenizer(
    target: str,
    adapter: str | Path | None,
    tokenizer: str | Path | None,
    options: dict[str, Any],
) -> Any:
    """Open the tokenizer that was asked for, else the adapter's, else the target's own.

    An adapter may also bring a chat template alone. A line on the logger says what it brought.

    Args:
        target: Folder or hub id of the target.
        adapter: Folder or hub id of the adapter laid over it, or None.
        tokenizer: Folder, hub id or other name of a target whose tokenizer is taken instead.
        options: Those of `from_pretrained`; the `revision` is the target's alone.

    Returns:
        The tokenizer.

    Raises:
        ValueError: What was asked for, or what the adapter brings, is no tokenizer.
        OSError: The target has none.
    """
    others = {key: value for key, value in options.items() if key != "revision"}
    if tokenizer is not None:
        return _open(resolve(tokenizer), others)
    if adapter is None:
        return AutoTokenizer.from_pretrained(target, **options)
    remedy = f"pass tokenizer={target!r} for the target's own"
    if any(_has_file(adapter, name, others) for name in VOCABULARIES):
        logger.warning(f"tokenizer and chat template are the adapter's, of {adapter}; {remedy}")
        return _open(adapter, others)
    if _has_file(adapter, TEMPLATE, others):
        logger.warning(f"the chat template is the adapter's, of {adapter}; {remedy}")
        template = _read_template(adapter, others)
        return AutoTokenizer.from_pretrained(target, chat_template=template, **options)
    return AutoTokenizer.from_pretrained(target, **options)


def warn_of_unknown_tokens(tokenizer: Any, model: Any) -> None:
    """Say so where a tokenizer knows more tokens than the model.

    Args:
        tokenizer: What texts are tokenised with.
        model: The causal LM that reads them.
    """
    known = model.config.get_text_config().vocab_size
    if len(tokenizer) > known:
        logger.warning(
            f"the tokenizer has {len(tokenizer)} tokens and the target {known}; texts that hold "
            f"the tokens from {known} on are refused"
        )


def _open(source: str | Path, options: dict[str, Any]) -> Any:
    """A tokenizer that is not the target's own."""
    try:
        return AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{source} holds no tokenizer that can be opened ({error!s:.300}); give the folder or "
            "hub id of one: tokenizer=..."
        ) from error


def _has_file(adapter: str | Path, name: str, options: dict[str, Any]) -> bool:
    """Whether an adapter's folder or repository holds a file of this name."""
    try:
        return has_file(adapter, name, token=options.get("token"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the adapter {adapter} cannot be found ({error!s:.300}); give the folder or hub id of "
            "a PEFT adapter"
        ) from error


def _read_template(adapter: str | Path, options: dict[str, Any]) -> str:
    """The chat template that an adapter brings."""
    file = cached_file(adapter, TEMPLATE, token=options.get("token"))
    assert file is not None, "it was there a moment ago"
    return Path(file).read_text(encoding="utf-8")
