"""Assemble a head's Hub folder: weights in bfloat16, tree, metrics, plots, card; then upload it.

First: train.py, evaluate.py and, for the scaling plot, ablations.py and scaling.py. Nothing leaves
the machine without --push_to. `hf auth login` or HF_TOKEN says who pushes.

Hardware: any.
Duration: seconds.
Command:  python recipes/publish.py --config recipes/configs/smollm2_publish.yaml
          with --push_to user/name to upload
Expected: OUTPUT with config.json, model.safetensors, metrics.json, acceptance.png, scaling.png,
          README.md, custom_generate/ and the tokenizer files that lie beside the head.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from trl import TrlParser

from eagle_hf import Eagle3DraftHead, TreeConfig
from eagle_hf.data import write_run
from eagle_hf.evaluation import Summary, draw_acceptance, read_metrics, weights_fingerprint
from eagle_hf.hub import add_custom_generate, check_name, push_folder, results_of, write_card

TRAINED = ("conversations", "response_tokens", "steps", "epoch")


@dataclass
class PublishArguments:
    """Which head, what was measured of it, what the card must say besides."""

    head: str = field(metadata={"help": "Folder that train.py wrote."})
    evaluation: str = field(metadata={"help": "Folder that evaluate.py wrote."})
    output_dir: str = field(metadata={"help": "The folder to make."})
    title: str = field(metadata={"help": "Name of the head."})
    base_model: str = field(metadata={"help": "Hub id of the target."})
    limits: str = field(metadata={"help": "Markdown: what a user must know before using it."})
    trained: dict = field(
        default_factory=dict,
        metadata={"help": "Facts of the training to show first: sources of the data, hardware."},
    )
    license: str | None = field(default=None, metadata={"help": "Hub id of the license."})
    scaling: str | None = field(default=None, metadata={"help": "Folder that scaling.py wrote."})
    tree: str | None = field(
        default=None,
        metadata={"help": "policy:depth:top_k:nodes to save; default: the head's own."},
    )
    datasets: list[str] = field(
        default_factory=list, metadata={"help": "Hub ids of the data it was trained on."}
    )
    push_to: str | None = field(
        default=None,
        metadata={"help": "Upload the folder to this repository, user/name, made where it is new."},
    )
    private: bool | None = field(default=None, metadata={"help": "Make that repository private."})
    revision: str | None = field(
        default=None, metadata={"help": "Branch to push to, made where it is new; default: main."}
    )

    def __post_init__(self) -> None:
        if self.push_to is not None:
            check_name(self.push_to)


def collect_metrics(arguments: PublishArguments, fingerprint: str) -> dict[str, Any]:
    """metrics.json of the published folder, from those of the earlier steps.

    Args:
        arguments: names their folders.
        fingerprint: of the head that is published.

    Returns:
        `trained`, the content of the evaluation's file, and `scaling` where there is one.

    Raises:
        ValueError: where another head was evaluated.
    """
    run = json.loads(Path(arguments.head, "metrics.json").read_text())
    counts = {name: run[name] for name in TRAINED if name in run}
    metrics = {"trained": arguments.trained | counts}
    metrics |= read_metrics(arguments.evaluation)
    if metrics["head_fingerprint"] != fingerprint:
        raise ValueError(
            f"{arguments.evaluation} measured another head than {arguments.head}; measure this "
            "one: recipes/evaluate.py"
        )
    if arguments.scaling:
        metrics["scaling"] = json.loads(Path(arguments.scaling, "metrics.json").read_text())
    return metrics


def draw_plots(folder: Path, metrics: dict[str, Any], tree: str, scaling: str | None) -> None:
    """acceptance.png of the tree in the dtype measured first, and a copy of scaling.png."""
    by_dtype = results_of(metrics, tree)
    results = next(iter(by_dtype.values()))
    summaries = {}
    for category, result in results.items():
        summaries[category] = Summary(**result)
    draw_acceptance(folder / "acceptance.png", summaries)
    if scaling:
        shutil.copy(Path(scaling, "scaling.png"), folder)


def main() -> None:
    (arguments,) = TrlParser((PublishArguments,)).parse_args_and_config()
    folder = Path(arguments.output_dir)

    # 1) the head, with its tree
    head = Eagle3DraftHead.from_pretrained(arguments.head, dtype=torch.bfloat16)
    if arguments.tree:
        head.tree = TreeConfig.parse(arguments.tree)
    metrics = collect_metrics(arguments, weights_fingerprint(head))
    head.save_pretrained(folder)

    # 2) what was measured, and the card that shows it
    write_run(folder, asdict(arguments), metrics)
    add_custom_generate(folder)
    write_card(
        folder,
        title=arguments.title,
        base_model=arguments.base_model,
        limits=arguments.limits,
        license=arguments.license,
        datasets=arguments.datasets,
    )
    draw_plots(folder, metrics, str(head.tree), arguments.scaling)

    # 3) the upload
    if arguments.push_to:
        commit = push_folder(
            folder, arguments.push_to, private=arguments.private, revision=arguments.revision
        )
        print(json.dumps({"pushed": commit.commit_url}))


if __name__ == "__main__":
    main()
