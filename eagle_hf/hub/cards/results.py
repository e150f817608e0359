"""The measured results in a card: the table, what its words mean, and the entries of model-index.

tau: mean of accepted + 1 per round. alpha[k]: acceptance of the k-th draft of a chain, given that
the earlier ones were accepted.
"""

from typing import Any

from huggingface_hub import EvalResult

from eagle_hf.hub.cards.metrics import Metrics, Results, results_of

CHAIN = "chain:4:1:4"  # the tree whose alpha is shown
# Category -> the benchmark's name, and the id of its dataset.
BENCHMARKS = {
    "chat": ("MT-Bench, first turns", "HuggingFaceH4/mt_bench_prompts"),
    "code": ("HumanEval", "openai/openai_humaneval"),
    "math": ("GSM8K", "openai/gsm8k"),
}


def results_table(metrics: Metrics, tree: str) -> str:
    """The results of a head as a Markdown table.

    Args:
        metrics: What metrics.json holds.
        tree: The head's own, as "policy:depth:top_k:nodes".

    Returns:
        A row per temperature and category: tau and alpha of the dtype that was measured first, and
        the speed in every dtype.

    Raises:
        ValueError: The tree was not measured greedily.
    """
    greedy = results_of(metrics, tree)
    if not greedy:
        measured = set()
        for setting in metrics["settings"]:
            measured.add(f"{setting['tree']} at T={setting['temperature']:g}")
        raise ValueError(
            f"the head's own tree {tree} was not measured greedily, but "
            f"{', '.join(sorted(measured))}; run recipes/evaluate.py"
        )
    dtypes = list(greedy)
    columns = ["", "tau, tree", "tau, chain of 4", "alpha by depth of the chain"]
    columns += [f"speed in {dtype}" for dtype in dtypes]
    columns.append(f"identical in {dtypes[-1]}")
    lines = [_row(columns), "|" + "---|" * len(columns)]
    # Every temperature once, in the order in which they were measured.
    for temperature in dict.fromkeys(setting["temperature"] for setting in metrics["settings"]):
        trees = results_of(metrics, tree, temperature)
        chains = results_of(metrics, CHAIN, temperature)
        name = f"T={temperature:g}" if temperature else "greedy"
        for category in trees.get(dtypes[0], {}):
            chain = chains.get(dtypes[0], {}).get(category)
            cells = _cells(category, trees, chain, dtypes)
            lines.append(_row([f"{category}, {name}", *cells]))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def _cells(
    category: str, trees: dict[str, Results], chain: dict[str, Any] | None, dtypes: list[str]
) -> list[str]:
    """What stands in a category's row; cells of what was not measured are empty."""
    cells = [tau(trees[dtypes[0]][category]), tau(chain), alpha(chain)]
    for dtype in dtypes:
        cells.append(f"{speed(trees, dtype, category):.2f}x" if dtype in trees else "")
    # The last dtype is the most exact one.
    last = trees.get(dtypes[-1])
    cells.append(f"{last[category]['identical']:.0%}" if last else "")
    return cells


def speed(results: dict[str, Results], dtype: str, category: str) -> float:
    """Tokens per second with the head, over those of plain `generate` in its fastest dtype."""
    fast = results[dtype][category]["fast_tokens_per_second"]
    # Of the fastest dtype, even if it is another: without a head one would take that.
    plain = max(result[category]["plain_tokens_per_second"] for result in results.values())
    return fast / plain


def tau(result: dict[str, Any] | None) -> str:
    """Tau and its 95 % interval; empty where nothing was measured."""
    if result is None or result["tau"] is None:
        return ""
    low, high = result["tau_interval"]
    return f"{result['tau']:.2f} ({low:.2f}-{high:.2f})"


def alpha(result: dict[str, Any] | None) -> str:
    """Alpha by depth; empty where nothing was measured."""
    if not result:
        return ""
    return " ".join(f"{value:.2f}" for value in result["alpha"])


def explain_results(metrics: Metrics, tree: str) -> str:
    """What the table's words mean, and where it was measured."""
    counts = []
    for dtype, results in results_of(metrics, tree).items():
        counts.append(f"{results['all']['prompts']} in {dtype}")
    first = metrics["settings"][0]
    machine = first["machine"]
    choice = ", none of which the head was chosen on" if first["left_out"] else ""
    return (
        "tau: tokens per forward of the target, with its 95 % interval over prompts; the tree is "
        f"`{tree}`. alpha: acceptance of the chain's k-th draft where those before it were "
        "accepted. Speed: tokens per second of whole calls, prompt included, one request at a "
        "time, over plain `generate` in whichever dtype was faster. identical: answers equal to "
        "plain `generate`'s token by token. "
        f"Prompts: {', '.join(counts)}, {first['max_new_tokens']} new tokens each{choice}. "
        f"Machine: {machine['device']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"transformers {machine['transformers']}."
    )


def eval_results(metrics: Metrics, tree: str) -> list[EvalResult]:
    """Tau and speed of every category, greedy, for the card's model-index."""
    results = results_of(metrics, tree)
    dtype = next(iter(results))  # the one that was measured first
    found = []
    for category, result in results[dtype].items():
        # The mean of all categories is no benchmark.
        if category == "all" or result["tau"] is None:
            continue
        found.append(_eval_result(category, "tau", "tokens per round", result["tau"]))
        found.append(_eval_result(category, "speedup", f"speed in {dtype}", result["speedup"]))
    return found


def _eval_result(category: str, kind: str, name: str, value: float) -> EvalResult:
    """One figure, with the benchmark that it was measured on."""
    dataset_name, dataset = BENCHMARKS.get(category, (category, category))
    return EvalResult(
        task_type="text-generation",
        dataset_name=dataset_name,
        dataset_type=dataset,
        metric_type=kind,
        metric_name=name,
        metric_value=round(value, 3),
    )
