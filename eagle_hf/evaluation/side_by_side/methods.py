"""Ways of decoding that can be measured side by side, by the names that a command line gives them.

    plain                  the target alone
    lookup                 prompt look-up: transformers copies drafts from the text (arXiv
                           2304.04487)
    assistant:MODEL        transformers' assisted generation, another model drafts a chain
    early-exit:LAYER       transformers' own early exit: the target's first layers draft
    head[@TREE]            the draft head
    window:MODEL[@TREE]    another model drafts, behind a window
    itself[@TREE]          the target drafts, behind a window of its own cache

TREE is `policy:depth:top_k:nodes`; without it a method drafts as it does by itself.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from eagle_hf.compat import wrapped_candidates
from eagle_hf.decoding.assistants import SelfSpeculation
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.evaluation.models import open_draft_model, open_head
from eagle_hf.head.trees import TreeConfig
from eagle_hf.target import execution_device, load_target, unwrap

LOOKUP_TOKENS = 10  # drafts of prompt look-up a round, as its README has them
PLAIN = "plain"
NAMES = ("plain", "lookup", "assistant", "early-exit", "head", "window", "itself")
WITH_SOURCE = ("assistant", "early-exit", "window")
WITH_TREE = ("head", "window", "itself")


@dataclass(frozen=True)
class Method:
    """One way of decoding, not opened yet.

    Attributes:
        kind: one of NAMES.
        source: the model or head that drafts, or the layer after which the target does; "" where
            neither is named.
        tree: what is drafted; None where the method decides.
    """

    kind: str
    source: str = ""
    tree: TreeConfig | None = None

    @classmethod
    def parse(cls, text: str) -> "Method":
        """Make the method that a text names.

        Args:
            text: as listed above.

        Raises:
            ValueError: There is no such method, or it lacks something.
        """
        named, _, tree = text.partition("@")
        kind, _, source = named.partition(":")
        if kind not in NAMES:
            raise ValueError(f"the method is {text!r}; take of {', '.join(NAMES)}")
        if bool(source) != (kind in WITH_SOURCE):
            wanted = "a layer" if kind == "early-exit" else "a model"
            rule = f"needs {wanted} behind a colon" if kind in WITH_SOURCE else "takes no model"
            raise ValueError(f"the method is {text!r}; {kind} {rule}")
        if tree and kind not in WITH_TREE:
            raise ValueError(f"the method is {text!r}; trees are drafted by {', '.join(WITH_TREE)}")
        if kind == "early-exit" and not source.isdigit():
            raise ValueError(f"the method is {text!r}; give the layer's number: early-exit:4")
        return cls(kind, source, TreeConfig.parse(tree) if tree else None)

    def __str__(self) -> str:
        text = f"{self.kind}:{self.source}" if self.source else self.kind
        return f"{text}@{self.tree}" if self.tree else text


@dataclass
class OpenMethod:
    """A method that can be run.

    Attributes:
        name: the method's text.
        arguments: of `generate`.
        assistant: one of ours, which keeps its last run's statistics; None for transformers' own.
    """

    name: str
    arguments: dict[str, Any]
    assistant: Any = None

    def generate(self, target: Any, **settings: Any) -> tuple[Any, DecodingStats]:
        """What `target.generate` returns, and its rounds; without drafts there are none."""
        watched = DecodingStats()
        with nullcontext() if self.assistant is not None else counted_rounds(target, watched):
            output = target.generate(**settings, **self.arguments)
        return output, watched if self.assistant is None else self.assistant.last_run


def open_method(
    method: Method, target: Any, tokenizer: PreTrainedTokenizerBase, head: str | None
) -> OpenMethod:
    """Open what a method drafts with.

    Args:
        method: which.
        target: the opened target.
        tokenizer: its tokenizer.
        head: folder or hub id of the draft head, None where there is none.

    Raises:
        ValueError: It does not fit the target, or there is nothing of that name.
    """
    openers: dict[str, Callable[[], OpenMethod]] = {
        PLAIN: lambda: OpenMethod(PLAIN, {}),
        "lookup": lambda: OpenMethod("lookup", {"prompt_lookup_num_tokens": LOOKUP_TOKENS}),
        "assistant": lambda: _open_assistant(method, target, tokenizer),
        "early-exit": lambda: _open_early_exit(method, target),
        "head": lambda: _open_head(method, target, head),
        "window": lambda: _open_window(method, target, tokenizer),
        "itself": lambda: _with_tree(method, SelfSpeculation()),
    }
    return openers[method.kind]()


def open_methods(
    methods: Mapping[str, Method],
    target: Any,
    tokenizer: PreTrainedTokenizerBase,
    head: str | None = None,
) -> tuple[list[OpenMethod], dict[str, str]]:
    """Open methods; those that do not fit the target are left out.

    Args:
        methods: which, by the names that they get.
        target, tokenizer, head: as in `open_method`.

    Returns:
        (opened methods, why others are not by their names).
    """
    opened = []
    failures = {}
    for name, method in methods.items():
        try:
            opened.append(replace(open_method(method, target, tokenizer, head), name=name))
        except (ValueError, OSError) as error:
            failures[name] = first_line(error)
    return opened, failures


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


def _open_head(method: Method, target: Any, head: str | None) -> OpenMethod:
    """The draft head, with the tree of the method or the one that is fastest here."""
    source = method.source or head
    if source is None:
        raise ValueError(f"the method is {method}, but there is no head; give one by --head")
    opened = open_head(source, target, tree=method.tree or "auto")
    return OpenMethod(str(method), {"assistant_model": opened}, opened)


def _open_window(method: Method, target: Any, tokenizer: PreTrainedTokenizerBase) -> OpenMethod:
    """Another model behind a window."""
    return _with_tree(method, open_draft_model(method.source, target, tokenizer))


def _with_tree(method: Method, assistant: Any) -> OpenMethod:
    """An assistant of ours that drafts the method's tree."""
    if method.tree is not None:
        assistant.tree = replace(method.tree)
    return OpenMethod(str(method), {"assistant_model": assistant}, assistant)


@contextmanager
def counted_rounds(target: Any, stats: DecodingStats) -> Generator[None]:
    """Count the rounds of transformers' own assisted generation inside the block.

    Its first round reads the prompt as well, and counts.
    """
    with wrapped_candidates(unwrap(target), lambda made: CountedCandidates(made, stats)):
        yield


class CountedCandidates:
    """A candidate generator of transformers that counts drafts and how many are accepted."""

    def __init__(self, generator: Any, stats: DecodingStats):
        self._generator = generator
        self._stats = stats
        self._drafted = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def get_candidates(self, input_ids, *args, **kwargs):
        """Drafts behind a text [1, S], as transformers asks for them."""
        candidates, logits = self._generator.get_candidates(input_ids, *args, **kwargs)
        self._drafted = candidates.shape[1] - input_ids.shape[1]
        return candidates, logits

    def update_candidate_strategy(self, input_ids, scores, num_matches):
        """What transformers says after a round."""
        accepted = int(num_matches)
        trials = min(self._drafted, accepted + 1)
        self._stats.count(trials, accepted, accepted + 1)
        return self._generator.update_candidate_strategy(input_ids, scores, num_matches)
