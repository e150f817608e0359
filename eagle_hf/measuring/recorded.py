"""Rounds along an answer that the target has given before: nothing is generated.

Verified drafting does not change what the target says, so a recorded answer fixes its rounds for
any drafter. The target reads the answer once, in one forward. The drafter drafts where a round
begins, and the walk down its tree follows the recorded tokens. `traces.py` drafts at every token,
for policies that are not known yet; here the tree is known, and only its rounds are run.

That holds for sampled answers too. A draft is accepted with the probability that the target gives
it, by sample_match and by an engine's rejection of a drafter that proposes its best guesses.

    answer     a0 | a1 a2 a3 | a4 | a5 a6     a0 comes from the prefill and belongs to no round
    accepted         2         0    1         three rounds, six tokens, tau 2.0
"""

from dataclasses import replace

import torch

from eagle_hf.decoding.assistants.base import choose_policy
from eagle_hf.decoding.growth import grow
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.decoding.verify import Verdict, verify
from eagle_hf.head.trees import TreeConfig
from eagle_hf.measuring.traces import start_drafter
from eagle_hf.target import execution_device


def replayed_tree(tree: TreeConfig) -> TreeConfig:
    """Choose the tree that stands for another one in a replay.

    A plan's choices depend on a machine's costs, and a replay has none: the plan's bounds are
    drafted as a dynamic tree.

    Args:
        tree: as saved with a head.

    Returns:
        A tree that needs no plan, whose drafts are not drawn.
    """
    if tree.needs_plan:
        return TreeConfig("dynamic", tree.depth, tree.top_k, tree.nodes)
    return replace(tree, acceptance="sample_match", compile=False)


@torch.no_grad()
def replay_answer(
    target, assistant, prompt: torch.Tensor, answer: torch.Tensor, tree: TreeConfig
) -> DecodingStats:
    """Count the rounds that an assistant needs for an answer.

    Args:
        target: the model that gave it.
        assistant: a draft head, a WindowedDraft or a SelfSpeculation.
        prompt: [1, S].
        answer: [n], the end-of-turn token included.
        tree: what is drafted; see `replayed_tree`.

    Returns:
        Its rounds and tokens; none for an answer of a single token.
    """
    device = execution_device(target)
    answer = answer.to(device)
    drafter, aux = start_drafter(target, assistant, prompt.to(device), answer, tree)
    policy = choose_policy(tree, None)
    tokens = answer.tolist()
    stats = DecodingStats()
    place = 0  # of the newest committed token in the answer
    while place + 1 < len(tokens):
        draft = grow(drafter, answer[None, place], policy, tree.depth)
        verdict = _verdict(draft.tree.children(0), draft.tree.depths[0].tolist(), tokens[place:])
        stats.count(verdict.trials, verdict.accepted, len(verdict.tokens))
        emitted = len(verdict.tokens)
        own = None if aux is None else aux[:, place : place + emitted]
        drafter.accept(own, [list(range(emitted))], [verdict.tokens])
        place += emitted
    return stats


def _verdict(children: list[dict[int, int]], depths: list[int], tokens: list[int]) -> Verdict:
    """The walk down a tree whose root is the first of the tokens, and which they all follow."""
    emitted: list[int] = []

    def choose(node: int) -> int:
        return tokens[depths[node] + 1]

    def emit(token: int) -> bool:
        emitted.append(token)
        return len(emitted) + 1 >= len(tokens)

    return verify(children, choose, emit)
