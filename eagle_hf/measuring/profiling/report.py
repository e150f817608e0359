"""A profile in tables: as text for the screen, and as metrics."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from eagle_hf.measuring.profiling.chrome_trace import NO_PHASE, Call
from eagle_hf.measuring.profiling.groups import GROUPS, Product
from eagle_hf.measuring.profiling.rounds import ROUND_PHASES, RoundProfile

SHOWN_PRODUCTS = 12


@dataclass
class Total:
    """Calls of one kind, taken together over all traced rounds.

    Attributes:
        phase, group: of the calls.
        name: of the operator; "" for a whole group.
        product: what it multiplies, where all calls multiply the same.
        calls: how many.
        seconds: of all of them.
    """

    phase: str
    group: str
    name: str = ""
    product: Product | None = None
    calls: int = 0
    seconds: float = 0.0

    def add(self, call: Call) -> None:
        """Count a call. What lies between operators is none."""
        self.calls += call.start is not None
        self.seconds += call.seconds

    @property
    def bytes_per_second(self) -> float | None:
        """At which its weights were read; None where they are not known."""
        if self.product is None or not self.product.weight_bytes or not self.seconds:
            return None
        return self.calls * self.product.weight_bytes / self.seconds

    @property
    def order(self) -> tuple[int, int, float]:
        """Sorts by phase, then by group, then the slowest first."""
        phases = (*ROUND_PHASES, NO_PHASE)
        return phases.index(self.phase), GROUPS.index(self.group), -self.seconds


def group_totals(calls: Iterable[Call]) -> list[Total]:
    """Add calls up by phase and group.

    Args:
        calls: of the traced rounds.

    Returns:
        A total for each, in the order of phases and groups.
    """

    def new_total(call: Call) -> Total:
        return Total(call.phase, call.group)

    return _totals(calls, lambda call: (call.phase, call.group), new_total)


def operator_totals(calls: Iterable[Call]) -> list[Total]:
    """Add calls up by phase, operator and, for matrix products, shape.

    Args:
        calls: of the traced rounds.

    Returns:
        A total for each, in the order of phases and groups, the slowest first.
    """

    def new_total(call: Call) -> Total:
        return Total(call.phase, call.group, call.name, call.product)

    return _totals(calls, lambda call: (call.phase, call.group, call.name, call.product), new_total)


def _totals(
    calls: Iterable[Call],
    key: Callable[[Call], Hashable],
    new_total: Callable[[Call], Total],
) -> list[Total]:
    """Add up the calls of each key."""
    totals: dict[Hashable, Total] = {}
    for call in calls:
        total = totals.setdefault(key(call), new_total(call))
        total.add(call)
    return sorted(totals.values(), key=lambda total: total.order)


def headline(profile: RoundProfile) -> list[str]:
    """Say in sentences what a round takes and what it might take."""
    timed = profile.timed
    limit = profile.limit
    what = "plain decoding" if profile.tree is None else f"the tree {profile.tree}"
    milliseconds = 1000 * timed.median
    megabytes = limit.round_bytes / 1e6
    gigabytes = limit.bytes_per_second / 1e9
    place = profile.machine
    return [
        f"{what} behind {profile.prompt_tokens} tokens, {place['dtype']}, on {place['device']}, "
        f"{place['threads']} threads",
        f"a round: {milliseconds:.2f} ms (median of {len(timed.seconds)}), {timed.tokens:.2f} "
        f"tokens, {milliseconds / timed.tokens:.2f} ms a token",
        f"the limit: {megabytes:.1f} MB of weights ({_weights_text(profile)}) at {gigabytes:.1f} "
        f"GB/s, measured here: {1000 * limit.seconds:.2f} ms",
        f"a round takes {profile.over_limit:.1f} times what reading its weights takes",
        f"under the profiler a round takes {profile.slowdown:.2f} times as long: the operators "
        "below add up to that time, in which Python and small operators weigh more than they do "
        "without it",
    ]


def _weights_text(profile: RoundProfile) -> str:
    """Whose weights a round reads."""
    limit = profile.limit
    text = f"target {limit.target_bytes / 1e6:.1f}"
    if profile.tree is None:
        return text
    return (
        f"{text}, head {limit.fusion_bytes / 1e6:.1f} + {limit.draft_forwards:.1f} forwards of "
        f"{limit.head_bytes / 1e6:.1f}"
    )


def profile_text(profile: RoundProfile) -> str:
    """Show a profile as text.

    Args:
        profile: what was measured.

    Returns:
        Sentences, and tables in Markdown: phases, groups, and the slowest matrix products.
    """
    lines = [*headline(profile), ""]
    lines += _phase_table(profile)
    lines.append("")
    lines += _group_table(profile)
    products = _slowest_products(profile)
    if products:
        lines.append("")
        lines += _product_table(profile, products)
    return "\n".join(lines)


def _phase_table(profile: RoundProfile) -> list[str]:
    """The phases without the profiler."""
    lines = ["| phase | ms a round | share |", "|---|---|---|"]
    for phase, seconds in profile.timed.phase_medians.items():
        share = seconds / profile.timed.median
        lines.append(f"| {phase} | {1000 * seconds:.2f} | {share:.0%} |")
    return lines


def _group_table(profile: RoundProfile) -> list[str]:
    """Groups of operators by phase, under the profiler."""
    rounds = len(profile.traced.seconds)
    whole = sum(profile.traced.seconds)
    lines = ["| phase | operators | calls a round | ms a round | share |", "|---|---|---|---|---|"]
    for total in group_totals(profile.traced.calls):
        calls = f"{total.calls / rounds:.0f}" if total.calls else ""
        milliseconds = 1000 * total.seconds / rounds
        share = total.seconds / whole
        lines.append(
            f"| {total.phase} | {total.group} | {calls} | {milliseconds:.2f} | {share:.1%} |"
        )
    return lines


def _slowest_products(profile: RoundProfile) -> list[Total]:
    """Matrix products with weights, the slowest first."""
    totals = operator_totals(profile.traced.calls)
    products = [total for total in totals if total.product is not None]
    return sorted(products, key=lambda total: -total.seconds)[:SHOWN_PRODUCTS]


def _product_table(profile: RoundProfile, products: list[Total]) -> list[str]:
    """How fast products read their weights."""
    rounds = len(profile.traced.seconds)
    lines = [
        "| phase | product (rows x inputs -> outputs) | calls a round | ms a round | GB/s |",
        "|---|---|---|---|---|",
    ]
    for total in products:
        milliseconds = 1000 * total.seconds / rounds
        lines.append(
            f"| {total.phase} | {total.product} | {total.calls / rounds:.1f} | "
            f"{milliseconds:.2f} | {speed_text(total)} |"
        )
    return lines


def speed_text(total: Total) -> str:
    """GB/s at which weights were read, nothing where that is not known."""
    speed = total.bytes_per_second
    return "" if speed is None else f"{speed / 1e9:.1f}"


def profile_metrics(profile: RoundProfile) -> dict[str, Any]:
    """Give a profile as what metrics.json holds.

    Args:
        profile: what was measured.

    Returns:
        Plain values; times in milliseconds.
    """
    rounds = len(profile.traced.seconds)
    limit = profile.limit
    phases = {}
    for phase, seconds in profile.timed.phase_medians.items():
        phases[phase] = 1000 * seconds
    groups = []
    for total in group_totals(profile.traced.calls):
        row = {
            "phase": total.phase,
            "group": total.group,
            "calls": total.calls / rounds,
            "ms": 1000 * total.seconds / rounds,
        }
        groups.append(row)
    products = []
    for total in _slowest_products(profile):
        speed = total.bytes_per_second
        row = {
            "phase": total.phase,
            "product": str(total.product),
            "calls": total.calls / rounds,
            "ms": 1000 * total.seconds / rounds,
            "gb_per_second": None if speed is None else speed / 1e9,
        }
        products.append(row)
    return {
        "machine": profile.machine,
        "prompt_tokens": profile.prompt_tokens,
        "tree": profile.tree,
        "round_ms": 1000 * profile.timed.median,
        "tokens_per_round": profile.timed.tokens,
        "phases_ms": phases,
        "weight_bytes": limit.round_bytes,
        "reading_gb_per_second": limit.bytes_per_second / 1e9,
        "limit_ms": 1000 * limit.seconds,
        "over_limit": profile.over_limit,
        "profiled_round_ms": 1000 * sum(profile.traced.seconds) / rounds,
        "groups": groups,
        "products": products,
    }
