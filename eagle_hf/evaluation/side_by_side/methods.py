"""Opening the ways of decoding that names.py lists."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from eagle_hf.data.answers.keys import ServerKeys
from eagle_hf.decoding.assistants import SelfSpeculation
from eagle_hf.decoding.assistants.nobody import Nobody
from eagle_hf.decoding.checks import check_target
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.evaluation.models import open_drafter, open_head
from eagle_hf.evaluation.offline import sampling_at
from eagle_hf.evaluation.side_by_side.calls import GroupCall, Outcome, answer_lengths
from eagle_hf.evaluation.side_by_side.counted import counted_rounds
from eagle_hf.evaluation.side_by_side.names import LOOP, PLAIN, Method
from eagle_hf.evaluation.side_by_side.served import ServedMethod
from eagle_hf.measuring.timing import timed
from eagle_hf.target import execution_device, load_target, unwrap

LOOKUP_TOKENS = 10  # drafts of prompt look-up a round, as its README has them


@dataclass
class OpenMethod:
    """A method that can be run.

    Attributes:
        name: the method's text.
        arguments: of `generate`.
        assistant: one of ours, which keeps its last run's statistics; None for transformers' own.
        tokenizer: of another model that drafts; None where none does.
    """

    name: str
    arguments: dict[str, Any]
    assistant: Any = None
    tokenizer: PreTrainedTokenizerBase | None = None

    def answer(self, call: GroupCall) -> Outcome:
        """Answer a group.

        Raises:
            Exception: Whatever `generate` raises.
        """
        settings: dict[str, Any] = {
            "max_new_tokens": call.max_new_tokens,
            "do_sample": False,
            "pad_token_id": call.tokenizer.pad_token_id,
            "return_dict_in_generate": True,
        }
        settings |= sampling_at(call.setting.temperature)
        if self.name == PLAIN:
            # scores judge a difference, logits tell the entropy; keeping them costs plain decoding
            # nothing
            settings |= {"output_scores": True, "output_logits": True}
        results = []

        def generate() -> None:
            results.append(self.generate(call.target, **call.inputs, **settings))

        torch.manual_seed(call.seed)
        seconds = timed(generate, execution_device(call.target))
        output, stats = results[0]
        new = output.sequences[:, call.prompt_tokens :]
        tokens = sum(answer_lengths(new, call.tokenizer.pad_token_id))
        return Outcome(seconds, tokens, stats, output)

    def generate(self, target: Any, **settings: Any) -> tuple[Any, DecodingStats]:
        """What `target.generate` returns, and its rounds; without drafts there are none."""
        watched = DecodingStats()
        with nullcontext() if self.assistant is not None else counted_rounds(target, watched):
            output = target.generate(**settings, **self.arguments)
        return output, watched if self.assistant is None else self.assistant.last_run


def open_method(
    method: Method,
    target: Any,
    tokenizer: PreTrainedTokenizerBase,
    head: str | None = None,
    vocab_size: int | None = None,
    keys: ServerKeys | None = None,
) -> OpenMethod | ServedMethod:
    """Open what a method drafts with.

    Args:
        method: which.
        target: the opened target.
        tokenizer: its tokenizer.
        head: folder or hub id of the draft head, None where there is none.
        vocab_size: of the target, for the head; as in `Eagle3DraftHead.from_pretrained`.
        keys: of servers.

    Raises:
        ValueError: It does not fit the target, or there is nothing of that name.
    """
    openers: dict[str, Callable[[], OpenMethod | ServedMethod]] = {
        PLAIN: lambda: OpenMethod(PLAIN, {}),
        LOOP: lambda: _with_tree(method, Nobody()),
        "lookup": lambda: OpenMethod("lookup", {"prompt_lookup_num_tokens": LOOKUP_TOKENS}),
        "assistant": lambda: _open_assistant(method, target, tokenizer),
        "early-exit": lambda: _open_early_exit(method, target),
        "head": lambda: _open_head(method, target, head, vocab_size),
        "window": lambda: _open_window(method, target, tokenizer),
        "itself": lambda: _with_tree(method, SelfSpeculation()),
        "server": lambda: _open_server(method, keys or ServerKeys()),
    }
    return openers[method.kind]()


def open_methods(
    methods: Mapping[str, Method],
    target: Any,
    tokenizer: PreTrainedTokenizerBase,
    head: str | None = None,
    vocab_size: int | None = None,
    keys: ServerKeys | None = None,
) -> tuple[list[OpenMethod | ServedMethod], dict[str, str]]:
    """Open methods; those that do not fit the target are left out.

    Args:
        methods: which, by the names that they get.
        target, tokenizer, head, vocab_size, keys: as in `open_method`.

    Returns:
        (opened methods, why others are not by their names).
    """
    opened = []
    failures = {}
    for name, method in methods.items():
        try:
            found = open_method(method, target, tokenizer, head, vocab_size, keys)
            _check_fit(found, target)
            opened.append(replace(found, name=name))
        except (ValueError, OSError) as error:
            failures[name] = first_line(error)
    return opened, failures


def _check_fit(method: OpenMethod | ServedMethod, target: Any) -> None:
    """Raise a ValueError where one of our assistants cannot draft for the target.

    It would say so at its first answer, once for every setting.
    """
    if isinstance(method, OpenMethod) and method.assistant is not None:
        check_target(target, method.assistant)


def first_line(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def _open_assistant(method: Method, target: Any, tokenizer: PreTrainedTokenizerBase) -> OpenMethod:
    """transformers' assisted generation; across vocabularies it needs both tokenizers."""
    model, own_tokenizer = load_target(
        method.source, dtype=target.dtype, device=execution_device(target)
    )
    arguments: dict[str, Any] = {"assistant_model": model}
    if own_tokenizer.get_vocab() != tokenizer.get_vocab():
        arguments |= {"tokenizer": tokenizer, "assistant_tokenizer": own_tokenizer}
    return OpenMethod(str(method), arguments)


def _open_early_exit(method: Method, target: Any) -> OpenMethod:
    """transformers' early exit, which runs the target with fewer layers."""
    layer = int(method.source)
    layers = unwrap(target).config.get_text_config().num_hidden_layers
    if not 0 < layer < layers:
        raise ValueError(
            f"early-exit:{layer} of a target with {layers} layers; take 1 to {layers - 1}"
        )
    return OpenMethod(str(method), {"assistant_early_exit": layer})


def _open_server(method: Method, keys: ServerKeys) -> ServedMethod:
    """A server, which must list the model."""
    return ServedMethod.open(str(method), method.source, keys.of(method.label))


def _open_head(method: Method, target: Any, head: str | None, vocab_size: int | None) -> OpenMethod:
    """The draft head, with the tree of the method or the one that is fastest here."""
    source = method.source or head
    if source is None:
        raise ValueError(f"the method is {method}, but there is no head; give one by --head")
    opened = open_head(source, target, tree=method.tree or "auto", vocab_size=vocab_size)
    return OpenMethod(str(method), {"assistant_model": opened}, opened)


def _open_window(method: Method, target: Any, tokenizer: PreTrainedTokenizerBase) -> OpenMethod:
    """Another model behind a window."""
    drafter, own_tokenizer = open_drafter(method.source, target, tokenizer)
    return replace(_with_tree(method, drafter), tokenizer=own_tokenizer)


def _with_tree(method: Method, assistant: Any) -> OpenMethod:
    """An assistant of ours that drafts the method's tree."""
    if method.tree is not None:
        assistant.tree = replace(method.tree)
    return OpenMethod(str(method), {"assistant_model": assistant}, assistant)
