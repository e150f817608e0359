"""Simulated speedups of drafters over plain decoding: one setting, one drafter, one figure.

A round drafts, verifies, and emits `tau` tokens on average. Plain decoding emits one per forward:

    speedup = tau * plain_seconds / (draft_seconds + verify_seconds)

`eagle_hf.planning.roofline` gives the formula of a forward, and how far to trust it.
"""

from eagle_hf.planning.machines import Efficiency, ModelShape
from eagle_hf.planning.simulated import (
    Setting,
    Simulated,
    forward_seconds,
    held_bytes,
    require_memory,
)


def chain_tokens(alpha: float, gamma: int) -> float:
    """Compute the expected tokens of a round with a chain of drafts, the bonus included.

    The sum of alpha^k for k = 0 .. gamma, that is (1 - alpha^(gamma + 1)) / (1 - alpha), from arXiv
    2211.17192. For alpha = 0.8 and gamma = 2 it is 1 + 0.8 + 0.64 = 2.44.

    Args:
        alpha: The probability that a draft is accepted, given that the ones before it were.
        gamma: The number of drafts.

    Returns:
        Tokens per round.

    Raises:
        ValueError: If `alpha` is no probability or `gamma` is negative.
    """
    if not 0 <= alpha <= 1 or gamma < 0:
        raise ValueError(
            f"alpha {alpha} and gamma {gamma} arrived; "
            "alpha is a probability, gamma a number of drafts"
        )
    return float(sum(alpha**k for k in range(gamma + 1)))


def speedup(
    setting: Setting,
    efficiency: Efficiency,
    tau: float,
    draft_seconds: float,
    draft_bytes: float,
    verified: int,
    what: str,
) -> Simulated:
    """Simulate the speedup of any drafter over plain decoding.

    Args:
        setting: What is served, and on what.
        efficiency: What software gets out of the machine.
        tau: The tokens a round emits on average.
        draft_seconds: The seconds a round drafts.
        draft_bytes: The bytes the drafter holds on each GPU.
        verified: The tokens the target verifies in a round, the root included.
        what: The drafter, for the text.

    Returns:
        The speedup.

    Raises:
        ValueError: If target and drafter do not fit into the memory.
    """
    target_bytes = held_bytes(setting.target, setting.batch, setting.length, setting.gpus)
    require_memory(target_bytes + draft_bytes, setting.machine, f"{setting}, with its drafter,")
    plain_seconds = _target_seconds(setting, efficiency, 1)
    verify_seconds = _target_seconds(setting, efficiency, verified)
    times = (
        f"{tau:.2f} tokens for {draft_seconds * 1e3:.1f} + {verify_seconds * 1e3:.1f} ms, "
        f"a plain step {plain_seconds * 1e3:.1f} ms"
    )
    value = tau * plain_seconds / (draft_seconds + verify_seconds)
    return Simulated(value, "x", f"{setting}, {what}; {times}")


def self_speculation(
    setting: Setting, efficiency: Efficiency, gamma: int, alpha: float, window: int
) -> Simulated:
    """Simulate a target that drafts for itself from a window of its cache (MagicDec).

    The window's cache is a copy beside the target's own.

    Args:
        setting: What is served, and on what.
        efficiency: What software gets out of the machine.
        gamma: The drafts of a round, a chain.
        alpha: The probability that a draft is accepted, given that the ones before it were.
        window: The cached tokens that drafting reads.

    Returns:
        The speedup over plain decoding.

    Raises:
        ValueError: If it does not fit into the memory, or `alpha` or `gamma` is impossible.
    """
    return draft_model(setting, efficiency, setting.target, gamma, alpha, window)


def draft_model(
    setting: Setting,
    efficiency: Efficiency,
    draft: ModelShape,
    gamma: int,
    alpha: float,
    window: int,
    draft_gpus: int | None = None,
) -> Simulated:
    """Simulate a draft model that drafts a chain, one forward per token.

    Args:
        setting: What is served, and on what.
        efficiency: What software gets out of the machine.
        draft: The draft model. The target itself shares its weights with the target.
        gamma: The drafts of a round, a chain.
        alpha: The probability that a draft is accepted, given that the ones before it were.
        window: The cached tokens that drafting reads. From the setting's length on, all of them.
        draft_gpus: The number of the setting's GPUs that draft; all of them by default.

    Returns:
        The speedup over plain decoding.

    Raises:
        ValueError: If it does not fit into the memory, or `alpha` or `gamma` is impossible.
    """
    cached = min(window, setting.length)
    gpus = draft_gpus or setting.gpus
    step_seconds = forward_seconds(
        draft, setting.machine, efficiency, setting.batch, cached, tokens=1, gpus=gpus
    )
    draft_bytes = held_bytes(draft, setting.batch, cached, gpus)
    drafter = draft.name
    if draft == setting.target:
        drafter = "self-speculation"
        # The target already holds these weights.
        draft_bytes -= draft.parameter_bytes / gpus
    return speedup(
        setting,
        efficiency,
        tau=chain_tokens(alpha, gamma),
        draft_seconds=gamma * step_seconds,
        draft_bytes=draft_bytes,
        verified=gamma + 1,
        what=f"{drafter} with window {cached}, chain of {gamma} at alpha {alpha:.2f}",
    )


def eagle_shape(target: ModelShape, draft_vocab: int) -> ModelShape:
    """Describe an EAGLE-3 head by the shape of its target.

    A head is one of the target's layers with its own LM head. Its Q, K and V read two states, the
    embedding and the features, and `fc` turns three aux hidden states into one.

    Args:
        target: The target.
        draft_vocab: The size of the draft vocabulary.

    Returns:
        The head's shape.
    """
    # Q, K and V have inputs of size 2 * hidden. The layer counts one half of their matrices.
    second_half = target.hidden * (target.heads + 2 * target.kv_heads) * target.head_dim
    fc = 3 * target.hidden**2
    return ModelShape(
        name=f"EAGLE-3 head of {target.name}",
        layers=1,
        hidden=target.hidden,
        heads=target.heads,
        kv_heads=target.kv_heads,
        head_dim=target.head_dim,
        intermediate=target.intermediate,
        vocab=draft_vocab,
        # The head uses the target's embeddings and holds none.
        tied=True,
        extra=second_half + fc,
    )


def eagle_head(
    setting: Setting,
    efficiency: Efficiency,
    tau: float,
    nodes: int,
    depth: int,
    top_k: int,
    draft_vocab: int,
    window: int | None = None,
) -> Simulated:
    """Simulate an EAGLE-3 head that drafts a tree, one forward per level.

    Choosing the tree's nodes is taken to cost nothing.

    Args:
        setting: What is served, and on what.
        efficiency: What software gets out of the machine.
        tau: The tokens a round emits on average, measured, or expected by
            `eagle_hf.planning.sequoia`.
        nodes: The nodes of the tree, without the root.
        depth: The levels of the tree, below the root.
        top_k: The nodes expanded per level.
        draft_vocab: The size of the draft vocabulary.
        window: The cached tokens that drafting reads; all of them by default.

    Returns:
        The speedup over plain decoding.

    Raises:
        ValueError: If target and head do not fit into the memory.
    """
    head = eagle_shape(setting.target, draft_vocab)
    cached = min(window or setting.length, setting.length)
    # The first level reads the tokens of the last round, later levels the expanded nodes.
    level_tokens = [tau] + [top_k] * (depth - 1)
    draft_seconds = 0.0
    for tokens in level_tokens:
        draft_seconds += forward_seconds(
            head, setting.machine, efficiency, setting.batch, cached, tokens, setting.gpus
        )
    return speedup(
        setting,
        efficiency,
        tau=tau,
        draft_seconds=draft_seconds,
        draft_bytes=held_bytes(head, setting.batch, cached, setting.gpus),
        verified=nodes + 1,
        what=f"EAGLE-3 tree of {nodes} nodes, depth {depth}",
    )


def _target_seconds(setting: Setting, efficiency: Efficiency, tokens: int) -> float:
    """Simulate a target forward of `tokens` new tokens per sequence."""
    return forward_seconds(
        setting.target,
        setting.machine,
        efficiency,
        setting.batch,
        setting.length,
        tokens,
        setting.gpus,
    )
