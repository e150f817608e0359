"""Models of real shapes without real weights, and a head whose acceptance is set by hand.

The target's next token is a known permutation of the newest one: every block adds so little to the
residual stream that the embedding of the newest token stays the strongest, and the LM head is that
embedding under another number. So no two logits are near each other in any dtype, plain and drafted
decoding must agree to the token, and a drafter can be told what the target will say.

B batch, k nodes, U draft vocabulary, H hidden.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from eagle_hf import Eagle3Config, Eagle3DraftHead, SelfSpeculation, TreeConfig
from eagle_hf.decoding.assistants.base import DraftContext
from eagle_hf.decoding.assistants.eagle import EagleAssistant, EagleDrafter
from eagle_hf.decoding.assistants.self_speculation import SelfDrafter

BLOCK_SCALE = 0.02  # of what a block adds, beside the embedding's 1


@dataclass(frozen=True)
class Shape:
    """A Llama by its sizes."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    groups: int
    vocabulary: int
    drafted: int  # of these the head proposes


SHAPES = {
    "toy": Shape(128, 256, 3, 4, 2, 512, 256),
    "toy words": Shape(128, 256, 3, 4, 2, 49152, 256),
    "135M": Shape(576, 1536, 30, 9, 3, 49152, 8192),
    "1B": Shape(2048, 8192, 16, 32, 8, 128256, 32000),
    "8B": Shape(4096, 14336, 32, 32, 8, 128256, 32000),
}


def permutation(size: int) -> torch.Tensor:
    """One cycle through all token ids [size]: the token that follows each."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    following = torch.empty_like(order)
    following[order] = order.roll(-1)
    return following


@torch.no_grad()
def known_target(shape: Shape, dtype: torch.dtype, device: torch.device) -> LlamaForCausalLM:
    """A Llama of a shape, whose greedy continuation is `permutation`, built on its device."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        max_position_embeddings=131072,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    with torch.device(device):
        target = LlamaForCausalLM(config).to(dtype).eval()
    embeddings = target.get_input_embeddings().weight
    embeddings.normal_()
    following = permutation(shape.vocabulary).to(device)
    # a norm of about sqrt(H) on both sides: the right logit is about H, the others sqrt(H)
    target.lm_head.weight[following] = embeddings
    for layer in target.model.layers:
        layer.self_attn.o_proj.weight.mul_(BLOCK_SCALE)
        layer.mlp.down_proj.weight.mul_(BLOCK_SCALE)
    return target


def random_head(target: LlamaForCausalLM, shape: Shape) -> Eagle3DraftHead:
    """A head of the true shape, for `drafted` tokens of the target's, with random weights."""
    config = Eagle3Config.from_target(target, draft_vocab_size=shape.drafted)
    with torch.device(target.device):
        head = Eagle3DraftHead(config).to(target.dtype).eval()
    head.set_draft_vocabulary(torch.arange(shape.drafted))
    return head.to(target.device)


def oracle(head: Eagle3DraftHead, target: LlamaForCausalLM, chance: float) -> "OracleAssistant":
    """The head as an assistant whose drafts are right with a given chance."""
    following = permutation(target.config.vocab_size).to(target.device)
    return OracleAssistant(head, head.tree, following, chance)


class OracleAssistant(EagleAssistant):
    """A head that runs in full, and whose best proposal is then overwritten.

    Args:
        head: costs what such a head costs.
        tree: what is drafted.
        following: the target's next tokens [V].
        chance: of the best proposal's being that token; no other proposal is.
    """

    def __init__(
        self, head: Eagle3DraftHead, tree: TreeConfig, following: torch.Tensor, chance: float
    ):
        super().__init__(head, tree)
        self.following = following
        self.chance = chance

    @property
    def owner(self) -> Any:
        return self

    def with_tree(self, tree: TreeConfig) -> "OracleAssistant":
        return OracleAssistant(self.head, tree, self.following, self.chance)

    def drafter(self, context: DraftContext) -> "OracleDrafter":
        return OracleDrafter(self, context)


class Overwriting:
    """Overwrites a drafter's proposals on the device, without waiting for it.

    Attributes:
        following: the target's next tokens [V].
        chance: of the best proposal's being right; no other is.
        generator: of draws of its own: sampling must not notice.
        read: [B] or [B, k], whose children are proposed next.
    """

    following: torch.Tensor
    chance: float
    generator: torch.Generator
    read: torch.Tensor

    def will_overwrite(self, following: torch.Tensor, chance: float) -> None:
        """What is overwritten from now on."""
        self.following = following
        self.chance = chance
        self.generator = torch.Generator(following.device).manual_seed(0)

    def draft(self, root: torch.Tensor, max_depth: int, lengths: Any = ()) -> Any:
        self.read = root
        return super().draft(root, max_depth, lengths)  # ty: ignore[missing-attribute]

    def step(self, tokens, hidden, level, ancestors):
        self.read = tokens
        return super().step(tokens, hidden, level, ancestors)  # ty: ignore[missing-attribute]

    def propose(self, hidden: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        _, ids = super().propose(hidden, k)  # ty: ignore[missing-attribute]
        right = self.following[self.read]
        if right.dim() < ids.dim() - 1:
            right = right[:, None]  # a fixed tree's root as a level of one node
        draws = torch.rand(right.shape, generator=self.generator, device=ids.device)
        hit = draws < self.chance
        wrong = (right + 1) % len(self.following)
        ids = ids.masked_fill(ids == right[..., None], 0)
        ids[..., 0] = torch.where(hit, right, wrong)
        others = math.log(max(1 - self.chance, 1e-6) / max(k - 1, 1))
        scores = torch.full(ids.shape, others, device=ids.device)
        scores[..., 0] = math.log(self.chance)
        return scores, ids


class OracleDrafter(Overwriting, EagleDrafter):
    """A head's drafter whose acceptance is set by hand."""

    def __init__(self, assistant: OracleAssistant, context: DraftContext):
        super().__init__(assistant.head, context)
        self.will_overwrite(assistant.following, assistant.chance)


class OracleSelf(SelfSpeculation):
    """The target as its own drafter, whose acceptance is set by hand.

    Args:
        target: of known tokens.
        chance: of a draft's being right.
        window: tokens of its window, up to 16 sinks among them.
        gamma: drafts of a chain.
    """

    def __init__(self, target: LlamaForCausalLM, chance: float, window: int, gamma: int):
        sinks = min(16, window // 4)
        super().__init__(sinks, window - sinks, gamma)
        self.following = permutation(target.config.vocab_size).to(target.device)
        self.chance = chance

    def drafter(self, context: DraftContext) -> "OracleSelfDrafter":
        return OracleSelfDrafter(self, context)


class OracleSelfDrafter(Overwriting, SelfDrafter):
    """The drafter of `OracleSelf`."""

    def __init__(self, assistant: OracleSelf, context: DraftContext):
        super().__init__(context, assistant.window)
        self.will_overwrite(assistant.following, assistant.chance)


def chance_of(tau: float, depth: int) -> float:
    """The chance of a draft's being right with which chains of a depth make tau tokens a round.

    Raises:
        ValueError: no chance makes so many or so few.
    """
    if not 1 < tau < depth + 1:
        raise ValueError(f"chains of {depth} make 1 to {depth + 1} tokens a round, not {tau}")
    low = 0.0
    high = 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if sum(middle**level for level in range(depth + 1)) < tau:
            low = middle
        else:
            high = middle
    return low
