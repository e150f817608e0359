"""The model card, built from metrics.json: no figure in it was typed.

metrics.json of a head's folder holds `trained` (facts of the training run), `settings` (what recipes/evaluate.py measured:
dtype, tree, temperature, new tokens, machine, and results by category) and, where it was measured, `scaling`. Text that comes
from there, or from whoever writes the card, can neither end the metadata nor become HTML.
"""

import hashlib
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.hub.export import ENGINES, NAMES
from eagle_hf.hub.publish import PLACEHOLDER
from eagle_hf.hub.serve import serve_command

TEMPLATE = Path(__file__).with_name("card.md.jinja")
CHAIN = "chain:4:1:4"
RELATION = "adapter"  # of those the Hub knows (adapter, finetune, merge, quantized) the one that is nothing without its base
BENCHMARKS = {
    "chat": ("MT-Bench, first turns", "HuggingFaceH4/mt_bench_prompts"),
    "code": ("HumanEval", "openai/openai_humaneval"),
    "math": ("GSM8K", "openai/gsm8k"),
}


def write_card(
    folder: str | Path,
    *,
    title: str,
    base_model: str,
    limits: str,
    license: str | None = None,
    datasets: Sequence[str] = (),
) -> None:
    """README.md of a head's folder, from its config.json and metrics.json; `limits` is Markdown, what a user must know.

    base_model, datasets: hub ids. ValueError where they are none, and where metrics.json is missing or holds no greedy
    measurement of the head's own tree.
    """
    folder = Path(folder)
    if not (folder / "metrics.json").is_file():
        raise ValueError(
            f"{folder} holds no metrics.json; measure the head first: recipes/evaluate.py"
        )
    for name in (base_model, *datasets):
        check_hub_id(name)
    metrics, config = (
        plain(json.loads((folder / "metrics.json").read_text())),
        Eagle3Config.from_pretrained(folder),
    )
    tree = str(config.tree)
    data = ModelCardData(
        base_model=base_model,
        base_model_relation=RELATION,
        library_name="eagle_hf",
        pipeline_tag="text-generation",
        license=license,
        model_name=title,
        tags=["eagle3", "speculative-decoding", "draft-model", "custom_generate"],
        datasets=list(datasets) or None,
        eval_results=eval_results(metrics, tree),
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=plain(title),
        base_model=base_model,
        tree=tree,
        limits=without_html(limits),
        results=results_table(metrics, tree),
        reading=reading(metrics, tree),
        trained=trained(metrics["trained"] | made_of(folder, config)),
        scaling=metrics.get("scaling", {}).get("summary"),
        serving=serving(config, base_model),
        repository=PLACEHOLDER,
    )
    card.save(folder / "README.md")


def check_hub_id(name: str) -> None:
    """Raise a ValueError unless `name` is a hub id; it stands in the card's code."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.ASCII):
        raise ValueError(f"{name!r} is no hub id; give one as user/name (letters, digits, - _ .)")


def plain(value):
    """Text of whatever origin, or a structure of it, as one line that Markdown shows as it is."""
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(value.split()), quote=False))


def without_html(markdown: str) -> str:
    """Markdown whose tags are shown instead of obeyed; inside of code too, where they then look odd."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", markdown)


def serving(config: Eagle3Config, base_model: str) -> str:
    """Every engine's launch command for this head, and what to know before."""
    commands, parts, sources = {}, [], {}
    for engine in ENGINES:
        try:
            commands[engine] = serve_command(base_model, PLACEHOLDER, engine, config=config)
        except ValueError as error:
            parts.append(f"### {NAMES[engine]}\n\nNot with this head: {plain(str(error))}.")
    for caveat in (caveat for command in commands.values() for caveat in command.caveats):
        sources.setdefault(caveat.text, []).append(caveat.source)
    everywhere = [text for text, told in sources.items() if len(told) == len(commands) > 1]
    for engine, command in commands.items():
        script, own = (
            "\n".join(command.lines),
            [caveat for caveat in command.caveats if caveat.text not in everywhere],
        )
        caveats = "\n".join(f"- {plain(caveat.text)} ({caveat.source})" for caveat in own)
        parts.append(
            f"### {NAMES[engine]}\n\n```sh\n{script}\n```\n\n{command.version}\n\n{caveats}"
        )
    if everywhere:
        shared = "\n".join(
            f"- {plain(text)} ({'; '.join(dict.fromkeys(sources[text]))})" for text in everywhere
        )
        parts.append(f"### On every engine\n\n{shared}")
    return "\n\n".join(parts)


def made_of(folder: Path, config: Eagle3Config) -> dict:
    """What config.json and the tokenizer beside the head add to the facts of its training."""
    facts = {"draft vocabulary": f"{config.draft_vocab_size:,} of {config.vocab_size:,} tokens"}
    if "trained_length" in config.eagle_hf:
        facts["longest conversation"] = f"{config.eagle_hf['trained_length']:,} tokens"
    if (folder / "chat_template.jinja").is_file():
        digest = hashlib.sha256((folder / "chat_template.jinja").read_bytes()).hexdigest()
        facts["chat template"] = (
            f"chat_template.jinja beside this card (sha256 {digest[:16]}); with another one it drafts worse"
        )
    return facts


def results_of(metrics: dict, tree: str, temperature: float = 0.0) -> dict[str, dict]:
    """Results by dtype of a tree at a temperature, in the order they were measured."""
    return {
        s["dtype"]: s["results"]
        for s in metrics["settings"]
        if s["tree"] == tree and s["temperature"] == temperature
    }


def results_table(metrics: dict, tree: str) -> str:
    """A row per temperature and category: tau and alpha of the dtype measured first, speed in every dtype."""
    own = results_of(metrics, tree)
    if not own:
        measured = sorted({f"{s['tree']} at T={s['temperature']:g}" for s in metrics["settings"]})
        raise ValueError(
            f"the head's own tree {tree} was not measured greedily, but {', '.join(measured)}; run recipes/evaluate.py"
        )
    dtypes = list(own)
    speeds = [f"speed in {dtype}" for dtype in dtypes]
    columns = [
        "",
        "tau, tree",
        "tau, chain of 4",
        "alpha by depth of the chain",
        *speeds,
        f"identical in {dtypes[-1]}",
    ]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for temperature in dict.fromkeys(s["temperature"] for s in metrics["settings"]):
        trees, chains = (
            results_of(metrics, tree, temperature),
            results_of(metrics, CHAIN, temperature),
        )
        for category in trees.get(dtypes[0], {}):
            label = f"{category}, {f'T={temperature:g}' if temperature else 'greedy'}"
            chain = chains.get(dtypes[0], {}).get(category)
            cells = [label, tau(trees[dtypes[0]][category]), tau(chain), alpha(chain)]
            cells += [
                f"{speed(trees, dtype, category):.2f}x" if dtype in trees else ""
                for dtype in dtypes
            ]
            exact = trees.get(dtypes[-1])
            lines.append(
                "| "
                + " | ".join([*cells, f"{exact[category]['identical']:.0%}" if exact else ""])
                + " |"
            )
    return "\n".join(lines)


def speed(results: dict[str, dict], dtype: str, category: str) -> float:
    """Tokens per second with the head in a dtype, over those of plain generate in whichever dtype was faster."""
    plain = max(result[category]["plain_tokens_per_second"] for result in results.values())
    return results[dtype][category]["fast_tokens_per_second"] / plain


def tau(result: dict | None) -> str:
    """Tau and its 95 % interval; empty where nothing was measured."""
    if result is None or result["tau"] is None:
        return ""
    return "{:.2f} ({:.2f}-{:.2f})".format(result["tau"], *result["tau_interval"])


def alpha(result: dict | None) -> str:
    return " ".join(f"{value:.2f}" for value in result["alpha"]) if result else ""


def reading(metrics: dict, tree: str) -> str:
    """What the table's words mean, and where it was measured."""
    counts = ", ".join(
        f"{result['all']['prompts']} in {dtype}"
        for dtype, result in results_of(metrics, tree).items()
    )
    first, machine = metrics["settings"][0], metrics["settings"][0]["machine"]
    return (
        f"tau: tokens per forward of the target, with its 95 % interval over prompts; the tree is `{tree}`. alpha: acceptance of the chain's k-th "
        "draft where those before it were accepted. Speed: tokens per second of whole calls, prompt included, one request at a time, over plain "
        "`generate` in whichever dtype was faster. identical: answers equal to plain `generate`'s token by token. "
        f"Prompts: {counts}, {first['max_new_tokens']} new tokens each{', none of which the head was chosen on' if first['left_out'] else ''}. "
        f"Machine: {machine['device']}, {machine['threads']} threads, torch {machine['torch']}, transformers {machine['transformers']}."
    )


def trained(facts: dict) -> str:
    """The facts of the training run as a list."""
    shown = {int: "{:,}", float: "{:.1f}"}
    return "\n".join(
        f"- {name.replace('_', ' ')}: {shown.get(type(value), '{}').format(value)}"
        for name, value in facts.items()
    )


def eval_results(metrics: dict, tree: str) -> list[EvalResult]:
    """Tau and speed of every category, greedy, for the card's model-index."""
    results = results_of(metrics, tree)
    dtype, found = next(iter(results)), []
    for category, result in results[dtype].items():
        if category == "all" or result["tau"] is None:
            continue
        name, dataset = BENCHMARKS.get(category, (category, category))
        place = dict(task_type="text-generation", dataset_name=name, dataset_type=dataset)
        values = {
            "tau": ("tokens per round", result["tau"]),
            "speedup": (f"speed in {dtype}", result["speedup"]),
        }
        found += [
            EvalResult(**place, metric_type=kind, metric_name=label, metric_value=round(value, 3))
            for kind, (label, value) in values.items()
        ]
    return found
