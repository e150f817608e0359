"""When speculation begins to gain: large batches in closed form, any setting by bisection.

With large batches, FLOP/s limit the projections, bandwidth limits attention, and what layers cost
besides vanishes. Everything is then counted in the time of one token's projections. In that time,
n* cached tokens are read (`critical_tokens`). With n cached tokens, a window of w, chains of gamma
and T tokens a round:

    plain step      n* + n
    draft forward   n* + w                    gamma of them in a round
    verification    (gamma + 1) n* + n

    speedup = T (n* + n) / (gamma (n* + w) + (gamma + 1) n* + n)

This follows from MagicDec (arXiv 2408.11049), section 3.
"""

from collections.abc import Callable

from eagle_hf.planning.machines import Efficiency
from eagle_hf.planning.simulated import Setting, Simulated
from eagle_hf.planning.speedups import chain_tokens


def critical_tokens(setting: Setting, efficiency: Efficiency) -> float:
    """Compute n*, the cached tokens that are read in the time of one token's projections.

    (2 P / K) (W / F), with the symbols of `eagle_hf.planning.roofline`.

    Args:
        setting: What is served, and on what. Batch and length do not matter.
        efficiency: What software gets out of the machine.

    Returns:
        Tokens, simulated.
    """
    target = setting.target
    bandwidth = setting.machine.bandwidth * efficiency.memory
    flops = setting.machine.flops * efficiency.compute
    return 2 * target.matrix_parameters / target.kv_bytes_per_token * (bandwidth / flops)


def large_batch_ceiling(
    setting: Setting, efficiency: Efficiency, gamma: int, alpha: float, window: int
) -> Simulated:
    """Simulate the speedup that self-speculation approaches as the batch grows.

    Args:
        setting: What is served, and on what. Its batch and its machine's memory do not matter.
        efficiency: What software gets out of the machine.
        gamma: The drafts of a round, a chain.
        alpha: The probability that a draft is accepted, given that the ones before it were.
        window: The cached tokens that drafting reads.

    Returns:
        The speedup over plain decoding, by the formula of this module.

    Raises:
        ValueError: If `alpha` is no probability or `gamma` is negative.
    """
    critical = critical_tokens(setting, efficiency)
    length = setting.length
    drafting = gamma * (critical + window)
    verification = (gamma + 1) * critical
    cost = drafting + verification + length
    value = chain_tokens(alpha, gamma) * (critical + length) / cost
    basis = (
        f"{setting.target.name} on {setting.machine.name}, large batches at length {length}, "
        f"window {window}, chain of {gamma} at alpha {alpha:.2f}"
    )
    return Simulated(value, "x", basis)


def large_batch_break_even(
    setting: Setting, efficiency: Efficiency, gamma: int, alpha: float, window: int
) -> Simulated:
    """Simulate the length from which `large_batch_ceiling` exceeds 1.

    The formula of this module, solved for n: ((2 gamma + 1 - T) n* + gamma w) / (T - 1).

    Args:
        setting: What is served, and on what. Batch, length and the machine's memory do not matter.
        efficiency: What software gets out of the machine.
        gamma: The drafts of a round, a chain.
        alpha: The probability that a draft is accepted, given that the ones before it were.
        window: The cached tokens that drafting reads.

    Returns:
        The length in tokens.

    Raises:
        ValueError: If no draft is ever accepted, or `alpha` or `gamma` is impossible.
    """
    tau = chain_tokens(alpha, gamma)
    if tau <= 1:
        raise ValueError(
            f"alpha {alpha} and gamma {gamma} arrived; without accepted drafts no length breaks "
            "even, so raise them above 0"
        )
    extra_projections = (2 * gamma + 1 - tau) * critical_tokens(setting, efficiency)
    length = (extra_projections + gamma * window) / (tau - 1)
    basis = (
        f"{setting.target.name} on {setting.machine.name}, break-even of large batches, "
        f"window {window}, chain of {gamma} at alpha {alpha:.2f}"
    )
    return Simulated(length, " tokens", basis)


def break_even_length(predict: Callable[[int], Simulated], limit: int) -> Simulated:
    """Find the shortest length at which a speedup is 1 or more, by bisection.

    Args:
        predict: The speedup at a length. It must rise with the length.
        limit: The longest length to try.

    Returns:
        The length in tokens.

    Raises:
        ValueError: If the speedup at `limit` is below 1.
    """
    at_limit = predict(limit)
    if at_limit.value < 1:
        raise ValueError(
            f"no length up to {limit} breaks even: {at_limit}; "
            "raise the limit, or shorten the chain"
        )
    # The speedup is 1 or more at `high`, and below 1 at `low`, where 0 stands for no length at all.
    low = 0
    high = limit
    while high - low > 1:
        middle = (low + high) // 2
        if predict(middle).value >= 1:
            high = middle
        else:
            low = middle
    return Simulated(high, " tokens", f"break-even; {predict(high).basis}")
