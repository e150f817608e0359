"""Which drafter suits a target: do they fit, what does a draft cost, how often is it accepted.

Two-model speculation and heads, judged alike: by a chain of a few drafts a round. What a round
should take is added up from forwards that are timed by themselves, and compared with what was
measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from eagle_hf.data.rows import Message
from eagle_hf.data.templates.template import render_text
from eagle_hf.decoding.assistants import WindowedDraft
from eagle_hf.evaluation.side_by_side.kept import GroupAnswer
from eagle_hf.evaluation.side_by_side.methods import OpenMethod
from eagle_hf.evaluation.side_by_side.rows import summarise
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.measuring import measure_costs
from eagle_hf.target import context_length

# Where the forwards are timed: rows, and tokens in the cache.
BATCH = 1
CONTEXT = 128
# Rendered by both templates, to compare them.
SAMPLE: list[Message] = [
    {"role": "user", "content": "How far is the moon?"},
    {"role": "assistant", "content": "384,400 km."},
    {"role": "user", "content": "And the sun?"},
]


@dataclass(frozen=True)
class Pair:
    """A target and one drafter.

    Attributes:
        drafter: its name.
        size: the drafter's weights as a share of the target's.
        notes: where they do not fit well, a sentence each.
        draft_cost: seconds of one draft as a share of the target's forward over one token.
        tau: tokens a round.
        accepted: share of its drafts that the target keeps.
        predicted: speed over plain decoding, from tau and the forwards' seconds.
        measured: speed over plain decoding.
        interval: of that, 95 %.
        verdict: one sentence.
    """

    drafter: str
    size: float
    notes: list[str]
    draft_cost: float
    tau: float
    accepted: float
    predicted: float
    measured: float
    interval: tuple[float, float]
    verdict: str


def notes_on(method: OpenMethod, target: Any, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Where a drafter does not fit its target well, a sentence each.

    Args:
        method: opened, with one of our assistants.
        target: who verifies.
        tokenizer: the target's.
    """
    notes = []
    drafter = method.assistant.model if isinstance(method.assistant, WindowedDraft) else None
    if isinstance(method.assistant, Eagle3DraftHead):
        drafted = method.assistant.config.draft_vocab_size
        whole = target.config.get_text_config().vocab_size
        if drafted < whole:
            notes.append(f"it drafts {drafted} of {whole} tokens")
        return notes
    if drafter is None:
        return notes
    mine = drafter.config.get_text_config().vocab_size
    if method.assistant.vocab_size is None:
        notes.append(
            "the tokenizers differ: tokens that the target reads otherwise are never accepted"
        )
    elif mine != target.config.get_text_config().vocab_size:
        notes.append(
            f"one vocabulary in two sizes: {method.assistant.vocab_size} tokens mean the same"
        )
    if method.tokenizer is not None:
        notes += _template_notes(method.tokenizer, tokenizer)
    reach = context_length(drafter)
    window = method.assistant.window
    if reach is not None and window is None and reach < (context_length(target) or 0):
        notes.append(f"it reads no more than {reach} tokens; give it a window")
    return notes


def _template_notes(own: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Whether a drafter was taught conversations in the form in which the target reads them."""
    if not tokenizer.chat_template:
        return []
    if not own.chat_template:
        return ["it has no chat template: it may not know conversations in the target's form"]
    if _rendered(own) == _rendered(tokenizer):
        return []
    return ["the chat templates differ: it reads conversations in a form that it was not taught"]


def _rendered(tokenizer: PreTrainedTokenizerBase) -> str:
    """The sample as a template renders it, or why it does not."""
    try:
        return render_text(tokenizer, SAMPLE, add_generation_prompt=True)
    except ValueError as error:
        return str(error)


def judge(
    method: OpenMethod,
    target: Any,
    tokenizer: PreTrainedTokenizerBase,
    answers: Sequence[GroupAnswer],
    chain: int,
) -> Pair:
    """A target and a drafter that has answered.

    Args:
        method: opened, with one of our assistants.
        target: who verifies.
        tokenizer: the target's.
        answers: of plain decoding and of this method, to the same prompts.
        chain: drafts a round.

    Raises:
        ValueError: No answer was long enough for a round.
    """
    measured = summarise(method.name, answers)
    if measured["tau"] is None:
        raise ValueError(
            "every answer ended before a round was needed; give prompts with longer answers"
        )
    costs = measure_costs(
        target, method.assistant, [BATCH], [CONTEXT], tokens=(1, chain + 1), widths=(1, 2)
    ).at(BATCH, CONTEXT)
    one_token = float(costs.target[0])
    seconds = costs.round_seconds(chain, [1] * chain)
    tau = measured["tau"]
    draft_cost = float(costs.draft[0]) / one_token
    round_cost = seconds / one_token
    low, high = measured["speedup_interval"]
    outcome = "no clear difference"
    if low > 1:
        outcome = "faster"
    elif high < 1:
        outcome = "slower"
    return Pair(
        drafter=method.name,
        size=weight_bytes(method, target) / bytes_of(target),
        notes=notes_on(method, target, tokenizer),
        draft_cost=draft_cost,
        tau=tau,
        accepted=measured["acceptance"]["vllm"]["draft_acceptance_rate"],
        predicted=tau / round_cost,
        measured=measured["speedup"],
        interval=(low, high),
        verdict=(
            f"{outcome}: a round takes {round_cost:.2f} times a token of the target and gives "
            f"{tau:.2f} tokens; a draft takes {draft_cost:.2f}"
        ),
    )


def bytes_of(model: Any) -> int:
    """Bytes of a model's weights."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def weight_bytes(method: OpenMethod, target: Any) -> int:
    """Bytes of the weights that a method drafts with."""
    assistant = method.assistant
    if isinstance(assistant, Eagle3DraftHead):
        return bytes_of(assistant)
    return bytes_of(assistant.model) if isinstance(assistant, WindowedDraft) else bytes_of(target)


def pair_table(pairs: Sequence[Pair], failures: dict[str, str]) -> str:
    """The fastest first, as Markdown; then those that do not fit."""
    lines = [
        "| | drafter | size | a draft | accepted | tau | predicted | measured | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ranked = sorted(pairs, key=lambda pair: -pair.measured)
    for rank, pair in enumerate(ranked, 1):
        low, high = pair.interval
        sentences = [pair.verdict, *pair.notes]
        cells = [
            str(rank),
            pair.drafter,
            f"{pair.size:.1%}",
            f"{pair.draft_cost:.2f}",
            f"{pair.accepted:.0%}",
            f"{pair.tau:.2f}",
            f"{pair.predicted:.2f}x",
            f"{pair.measured:.2f}x ({low:.2f}-{high:.2f})",
            "; ".join(sentences),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for name, reason in failures.items():
        lines.append(f"| | {name} | | | | | | | does not fit: {reason.replace('|', '/')} |")
    return "\n".join(lines)
