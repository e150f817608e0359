"""Learn one conversation by heart: a head of which any engine must accept nearly everything.

A head that only learns the conversation would hide a broken export: the newest token and its
position are enough to go on with a text that is known by heart, whatever the aux hidden states
are. Read one layer too high, such a head for SmolLM2 still got 62 of 64 drafts accepted. So the
head unlearns the conversation too: under every misreading of misreadings.py it learns to go on
with other tokens. Read right, everything is accepted; read wrong, next to nothing.

S sequence, H hidden, U draft vocabulary, V target vocabulary, K passes.
"""

import time
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import functional_call
from torch.nn import functional as F

from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.hub.gate.conversation import Conversation
from eagle_hf.hub.gate.misreadings import Misreading, list_misreadings, misread
from eagle_hf.target import aux_layer_ids, execution_device, target_states

WIDTH_RATE = 0.6  # Adam's rate is this by the head's width: 1e-3 at SmolLM2's 576
HIGHEST_RATE = 1e-2
MOST_STEPS = 600
LEARNT = 0.05  # nats a token: its probability is 95 %
UNLEARNT = 0.3  # under a misreading
LONGEST_NORM = 1.0  # of a step's gradient


@dataclass(frozen=True)
class Lesson:
    """A head that knows a conversation by heart.

    Args:
        head: The head, in eval mode.
        conversation: What it learnt.
        steps: Steps of training.
        seconds: Of the whole training.
    """

    head: Eagle3DraftHead
    conversation: Conversation
    steps: int
    seconds: float


@dataclass(frozen=True)
class Reading:
    """One way to read the head, and whether the conversation is what it then says.

    Args:
        reader: A head whose settings are read this way; its own weights are not used.
        aux_hidden_states: What it is fed, [1, S, 3H].
        right_passes: How many passes say what was learnt: all of the right way, none of a wrong
            one, or those that do not differ from the right way's.
    """

    reader: Eagle3DraftHead
    aux_hidden_states: torch.Tensor
    right_passes: int


def learn_by_heart(
    target: Any, like: Eagle3DraftHead, conversation: Conversation, depth: int, seed: int = 0
) -> Lesson:
    """Train a new head on one conversation until all of it would be accepted.

    Args:
        target: The frozen target.
        like: A head whose config the new one has: layers, norms, sizes. Its draft vocabulary too,
            but for the tokens of the answer, which take the place of others.
        conversation: What is learnt.
        depth: Drafts of a chain, K.
        seed: Of the first weights, and of the tokens that give way.

    Returns:
        The head, in float32, and what it cost.

    Raises:
        ValueError: The head does not learn it in `MOST_STEPS` steps.
    """
    started = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = _new_head(like, conversation.answer, execution_device(target))
    readings = _readings(target, head, conversation, depth)
    rate = min(HIGHEST_RATE, WIDTH_RATE / head.config.hidden_size)
    optimizer = torch.optim.Adam(head.parameters(), lr=rate)
    lesson = Sentences(target, head, conversation, depth)
    losses = [float("inf")] * len(readings)
    right, *wrong = readings
    for step in range(MOST_STEPS):
        # 1) the right way, and one of the wrong ones: the least unlearnt, or the next one
        number = losses.index(max(losses[1:]), 1) - 1
        if step % 2:
            number = step // 2 % len(wrong)
        learnt = lesson.loss(head, right)
        unlearnt = lesson.loss(head, wrong[number])
        optimizer.zero_grad()
        (learnt + unlearnt).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), LONGEST_NORM)
        optimizer.step()
        # 2) until both are known
        losses[0] = learnt.item()
        losses[1 + number] = unlearnt.item()
        if losses[0] < LEARNT and max(losses[1:]) < UNLEARNT:
            seconds = time.perf_counter() - started
            return Lesson(head.eval(), conversation, step + 1, seconds)
    raise ValueError(
        f"the head did not learn {len(conversation.answer)} tokens by heart in {MOST_STEPS} steps "
        f"({losses[0]:.2f} nats a token, and {LEARNT} were wanted; {max(losses[1:]):.2f} where it "
        f"is misread, and {UNLEARNT} were wanted); give fewer drafts, or look at its settings"
    )


def _new_head(like: Eagle3DraftHead, answer: list[int], device: torch.device) -> Eagle3DraftHead:
    """A random head in float32 with these settings, which knows every token of the answer."""
    config = deepcopy(like.config)
    config.dtype = torch.float32
    head = Eagle3DraftHead(config).to(device=device, dtype=torch.float32)
    head.set_draft_vocabulary(_vocabulary(like.draft_to_target.cpu(), answer))
    return head


def _vocabulary(ids: torch.Tensor, answer: list[int]) -> torch.Tensor:
    """As many ids [U], ascending, among them those of the answer."""
    needed = torch.tensor(answer).unique()
    if len(needed) > len(ids):
        raise ValueError(
            f"the answer has {len(needed)} different tokens and the draft vocabulary {len(ids)}; "
            "learn a shorter answer: fewer tokens"
        )
    others = ids[~torch.isin(ids, needed)]
    kept = others[torch.randperm(len(others))[: len(ids) - len(needed)]]
    return torch.cat([needed, kept]).sort().values


def _readings(
    target: Any, head: Eagle3DraftHead, conversation: Conversation, depth: int
) -> list[Reading]:
    """The right way to read the head, and after it all the wrong ones that change its numbers."""
    ids = aux_layer_ids(target, head.config)
    tokens = torch.tensor(conversation.prompt + conversation.answer)

    def features(layer_ids: list[int]) -> torch.Tensor:
        aux, _ = target_states(target, [tokens.to(execution_device(target))], layer_ids)
        return aux.to(head.device, head.dtype)  # [1, S, 3H]

    own = features(ids)
    readings = [Reading(head, own, right_passes=depth)]
    layers = target.config.get_text_config().num_hidden_layers
    for misreading in list_misreadings(head, ids, layers):
        if not _changes_numbers(misreading):
            continue
        aux = own
        if misreading.aux_layer_ids is not None:
            aux = features(list(misreading.aux_layer_ids))
        # The output norm lies behind a pass, and before the LM head it is there in any case.
        names = {name for name, _ in misreading.settings}
        same_passes = 1 if "norm_output" in names else 0
        reader = _without_weights(misread(head, misreading))
        readings.append(Reading(reader, aux, same_passes))
    # states that lie one token too early
    readings.append(Reading(head, own.roll(1, dims=1), right_passes=0))
    return readings


def _without_weights(head: Eagle3DraftHead) -> Eagle3DraftHead:
    """The head with nothing but its settings: it is run with the weights of another."""
    for weight in head.parameters():
        weight.data = weight.data.new_empty(0)
    return head


def _changes_numbers(misreading: Misreading) -> bool:
    """Whether the head can learn to be another one under a misreading.

    A window is longer than the conversation, a wrong map needs no learning to be wrong, and fewer
    bits must not matter.
    """
    names = {name for name, _ in misreading.settings}
    return misreading.change is None and "window" not in names


class Sentences:
    """The conversation as a loss: what each pass has to say at each slot.

    Slot p holds the states of token p and the embedding of token p + 1. Pass k predicts token
    p + 2 + k there. The answer's first token is the target's own, so it is no draft.

    Args:
        target: For its embeddings.
        head: For its draft vocabulary.
        conversation: What is learnt.
        depth: Passes.
    """

    def __init__(
        self, target: Any, head: Eagle3DraftHead, conversation: Conversation, depth: int
    ) -> None:
        tokens = torch.tensor(conversation.prompt + conversation.answer)
        self.tokens = tokens  # [S]
        with torch.no_grad():
            embed = target.get_input_embeddings()
            following = tokens.roll(-1).to(execution_device(target))
            embeddings = embed(following)[None]
        self.embeddings = embeddings.to(head.device, head.dtype)  # [1, S, H]
        draft_ids = torch.full((head.config.vocab_size,), -1)
        draft_ids[head.draft_to_target.cpu()] = torch.arange(len(head.draft_to_target))
        self.slots = []  # a pass each
        self.labels = []
        for ttt_step in range(depth):
            learnt = torch.arange(len(conversation.prompt) + 1, len(tokens))
            slots = learnt - 2 - ttt_step
            learnt = learnt[slots >= 0]
            self.slots.append(slots[slots >= 0].to(head.device))
            self.labels.append(draft_ids[tokens[learnt]].to(head.device))

    def loss(self, head: Eagle3DraftHead, reading: Reading) -> torch.Tensor:
        """Mean nats a token; under a misreading every token is the next one of the vocabulary."""
        arguments = {
            "inputs_embeds": self.embeddings,
            "aux_hidden_states": reading.aux_hidden_states,
            "ttt_length": len(self.slots),
        }
        weights = dict(head.named_parameters())
        outputs = functional_call(reading.reader, weights, kwargs=arguments, args=())
        is_normed = reading.reader.config.norm_output
        losses = []
        for ttt_step, output in enumerate(outputs):
            said = output[0, self.slots[ttt_step]]  # [n, H]
            logits = head.lm_head(said if is_normed else head.norm(said))
            wanted = self.labels[ttt_step]
            if ttt_step >= reading.right_passes:
                wanted = (wanted + 1) % head.lm_head.out_features
            losses.append(F.cross_entropy(logits, wanted))
        return torch.stack(losses).mean()
