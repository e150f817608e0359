"""Opening what is measured: the target on this machine's device, and a drafter beside it."""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from eagle_hf.decoding.assistants import WindowedDraft
from eagle_hf.decoding.compiling import compile_target
from eagle_hf.evaluation.arguments import SettingArguments
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.trees import TreeConfig
from eagle_hf.target import default_device, execution_device, load_target


def open_target(
    name: str | Path,
    adapter: str | Path | None = None,
    *,
    tokenizer: str | Path | None = None,
    dtype: str | torch.dtype = "auto",
    work: str = "draft",
    compile: bool = False,
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Open a target on the device that this process has (see `default_device`).

    Args:
        name: hub id, folder, `.gguf` file, or "smollm2".
        adapter: hub id or folder of a PEFT adapter laid over it.
        tokenizer, dtype, work: as in `load_target`.
        compile: give it to `compile_target`.

    Returns:
        (target, tokenizer); the target is frozen and in eval mode.

    Raises:
        ValueError: where it cannot be opened, or compiled.
    """
    target, opened_tokenizer = load_target(
        name, adapter, tokenizer=tokenizer, dtype=dtype, device=default_device(), work=work
    )
    if compile:
        compile_target(target)
    return target, opened_tokenizer


def open_set_target(arguments: SettingArguments) -> tuple[Any, PreTrainedTokenizerBase]:
    """Open the target of a setting, as `open_target` does."""
    return open_target(
        arguments.target,
        arguments.adapter,
        tokenizer=arguments.tokenizer,
        dtype=arguments.dtype,
        compile=arguments.compile,
    )


def open_head(
    source: str | Path,
    target: Any,
    *,
    tree: TreeConfig | str = "auto",
    vocab_size: int | None = None,
) -> Eagle3DraftHead:
    """Open a head for a target: in its dtype, on its device, in eval mode.

    Args:
        source: folder or hub id of the head.
        target: the opened target.
        tree, vocab_size: as in `Eagle3DraftHead.from_pretrained`.

    Returns:
        The head.

    Raises:
        ValueError, OSError: for what is no head.
    """
    head = Eagle3DraftHead.from_pretrained(
        source, dtype=target.dtype, tree=tree, vocab_size=vocab_size
    )
    return head.to(execution_device(target)).eval()


def open_draft_model(
    name: str | Path,
    target: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    sinks: int = 16,
    window: int | None = 496,
) -> WindowedDraft:
    """Open a smaller causal LM as a drafter, in the target's dtype and on its device.

    The models may pad one vocabulary to different sizes. Where the tokenizers differ, a note on
    stderr says in how many entries.

    Args:
        name: hub id, folder or `.gguf` file of the smaller model.
        target: the opened target.
        tokenizer: the target's.
        sinks: first tokens that its window keeps.
        window: newest tokens that it keeps, None for its whole cache.

    Returns:
        The drafter.

    Raises:
        ValueError: where the model cannot be opened.
    """
    drafter, _ = open_drafter(name, target, tokenizer, sinks=sinks, window=window)
    return drafter


def open_drafter(
    name: str | Path,
    target: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    sinks: int = 16,
    window: int | None = 496,
) -> tuple[WindowedDraft, PreTrainedTokenizerBase]:
    """Open a smaller causal LM as a drafter, and its tokenizer.

    Args:
        name, target, tokenizer, sinks, window: as in `open_draft_model`.

    Returns:
        (drafter, the tokenizer of its model).
    """
    model, own_tokenizer = load_target(name, dtype=target.dtype, device=execution_device(target))
    own_entries = own_tokenizer.get_vocab().items()
    differing = len(own_entries ^ tokenizer.get_vocab().items())
    if differing:
        print(
            f"note: the tokenizers differ in {differing} entries; tokens that the target reads "
            "otherwise are never accepted",
            file=sys.stderr,
        )
        return WindowedDraft(model, sinks, window), own_tokenizer
    draft_size = model.config.get_text_config().vocab_size
    target_size = target.config.get_text_config().vocab_size
    common = min(len(tokenizer), draft_size, target_size)
    return WindowedDraft(model, sinks, window, vocab_size=common), own_tokenizer
