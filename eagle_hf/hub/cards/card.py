"""Write the card of a head's folder."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.hub.cards.markdown import check_hub_id, escape, escape_text, show_tags
from eagle_hf.hub.cards.metrics import Metrics
from eagle_hf.hub.cards.results import eval_results, explain_results, results_table
from eagle_hf.hub.cards.serving import describe_serving
from eagle_hf.hub.publish import PLACEHOLDER

TEMPLATE = Path(__file__).parents[1] / "card.md.jinja"
# Of the relations that the Hub knows (adapter, finetune, merge, quantized) the one that is nothing
# without its base.
RELATION = "adapter"
TAGS = ["eagle3", "speculative-decoding", "draft-model", "custom_generate"]


def write_card(
    folder: str | Path,
    *,
    title: str,
    base_model: str,
    limits: str,
    license: str | None = None,
    datasets: Sequence[str] = (),
) -> None:
    """Write README.md of a head's folder, from its config.json and metrics.json.

    Args:
        folder: The folder.
        title: Name of the head.
        base_model: Hub id of the target.
        limits: Markdown, what a user must know before using the head.
        license: The Hub's id of the license.
        datasets: Hub ids of the data that the head was trained on.

    Raises:
        ValueError: An id is none, or metrics.json is missing or holds no greedy measurement of the
            head's own tree.
    """
    folder = Path(folder)
    metrics = _read_metrics(folder)
    for name in (base_model, *datasets):
        check_hub_id(name)
    config = Eagle3Config.from_pretrained(folder)
    tree = str(config.tree)
    table = results_table(metrics, tree)  # refuses a tree that was not measured
    # 1) the metadata, which the Hub reads
    data = ModelCardData(
        base_model=base_model,
        base_model_relation=RELATION,
        library_name="eagle_hf",
        pipeline_tag="text-generation",
        license=license,
        model_name=title,
        tags=list(TAGS),
        datasets=list(datasets) or None,
        eval_results=eval_results(metrics, tree),
    )
    # 2) the text, which people read
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=escape_text(title),
        base_model=base_model,
        tree=tree,
        limits=show_tags(limits),
        results=table,
        reading=explain_results(metrics, tree),
        trained=_list_facts(metrics["trained"] | _facts_of_folder(folder, config)),
        scaling=metrics.get("scaling", {}).get("summary"),
        serving=describe_serving(config, base_model),
        repository=PLACEHOLDER,
    )
    card.save(folder / "README.md")


def _read_metrics(folder: Path) -> Metrics:
    """metrics.json of the folder, with all text in it escaped."""
    file = folder / "metrics.json"
    if not file.is_file():
        raise ValueError(
            f"{folder} holds no metrics.json; measure the head first: recipes/evaluate.py"
        )
    return escape(json.loads(file.read_text()))


def _facts_of_folder(folder: Path, config: Eagle3Config) -> dict[str, str]:
    """What config.json and the chat template add to the facts of the training run."""
    facts = {"draft vocabulary": f"{config.draft_vocab_size:,} of {config.vocab_size:,} tokens"}
    own = config.eagle_hf or {}
    if "trained_length" in own:
        facts["longest conversation"] = f"{own['trained_length']:,} tokens"
    template = folder / "chat_template.jinja"
    if template.is_file():
        digest = hashlib.sha256(template.read_bytes()).hexdigest()
        facts["chat template"] = (
            f"chat_template.jinja beside this card (sha256 {digest[:16]}); "
            "with another one it drafts worse"
        )
    return facts


def _list_facts(facts: dict[str, Any]) -> str:
    """The facts of the training run as a Markdown list."""
    lines = []
    for name, value in facts.items():
        lines.append(f"- {name.replace('_', ' ')}: {_format_fact(value)}")
    return "\n".join(lines)


def _format_fact(value: Any) -> str:
    """A number as people read it, and anything else as it is."""
    # By the exact type: True is no number here.
    if type(value) is int:
        return f"{value:,}"
    if type(value) is float:
        return f"{value:.1f}"
    return str(value)
