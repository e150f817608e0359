"""Assemble a head's Hub folder: weights in bf16, tree, metrics.json, plots and the card built from them; upload it where asked to.

Hardware: any, seconds. First: train.py, evaluate.py and, for the scaling plot, ablations.py and scaling.py.
Command:  python recipes/publish.py --config recipes/configs/smollm2_publish.yaml [--push_to user/name]
Expected: OUTPUT with config.json, model.safetensors, metrics.json, acceptance.png, scaling.png, README.md, custom_generate/ and the
tokenizer files that lie beside the head. Nothing leaves the machine without --push_to; who pushes is `hf auth login` or HF_TOKEN.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from trl import TrlParser

from eagle_hf import Eagle3DraftHead, TreeConfig, write_run
from eagle_hf.evaluation.offline import Summary
from eagle_hf.evaluation.report import plot
from eagle_hf.hub.cards import results_of, write_card
from eagle_hf.hub.publish import add_custom_generate, check_name, push_folder
from eagle_hf.provenance import weights_fingerprint


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
    max_steps: int = field(default=-1, metadata={"help": "Nothing here takes steps."})

    def __post_init__(self):
        if self.push_to is not None:
            check_name(self.push_to)


def collect_metrics(arguments: PublishArguments, sha256: str) -> dict:
    """metrics.json of the published folder, from those of the steps before; ValueError where they are of a head with another fingerprint."""
    run = json.loads(Path(arguments.head, "metrics.json").read_text())
    names = ("conversations", "response_tokens", "steps", "epoch")
    metrics = {"trained": arguments.trained | {name: run[name] for name in names if name in run}}
    metrics |= json.loads(Path(arguments.evaluation, "metrics.json").read_text())
    if metrics["head_sha256"] != sha256:
        raise ValueError(
            f"{arguments.evaluation} measured another head than {arguments.head}; measure this one: recipes/evaluate.py"
        )
    if arguments.scaling:
        metrics["scaling"] = json.loads(Path(arguments.scaling, "metrics.json").read_text())
    return metrics


def main():
    (arguments,) = TrlParser((PublishArguments,)).parse_args_and_config()
    folder = Path(arguments.output_dir)
    head = Eagle3DraftHead.from_pretrained(arguments.head, dtype=torch.bfloat16)
    if arguments.tree:
        head.tree = TreeConfig.parse(arguments.tree)
    metrics = collect_metrics(arguments, weights_fingerprint(head))
    head.save_pretrained(folder)
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
    summaries = next(iter(results_of(metrics, str(head.tree)).values()))
    plot(
        folder / "acceptance.png", {name: Summary(**summary) for name, summary in summaries.items()}
    )
    if arguments.scaling:
        shutil.copy(Path(arguments.scaling, "scaling.png"), folder)
    if arguments.push_to:
        commit = push_folder(
            folder, arguments.push_to, private=arguments.private, revision=arguments.revision
        )
        print(json.dumps({"pushed": commit.commit_url}))


if __name__ == "__main__":
    main()
