"""Train heads that differ in one setting each, for equal minutes, and compare their tau.

`train` holds settings of recipes/train.py. Each of `runs` says what it changes: further settings,
or `start`, first weights other than `new_head`'s. `trained` names a folder of train.py's instead,
which is only measured. The first run is the one that the others are compared with, on the same
held-out prompts. A run that has its tau.json is not repeated, so an interrupted command goes on.

Hardware: any; `jobs` runs at a time share the processor's cores.
Duration: a run takes its minutes of training, and one or two for measuring.
Command:  python recipes/ablations.py --config recipes/configs/smollm2_ablations.yaml
Expected: OUTPUT/NAME/ with each head and its tau.json, and a table on the screen and in
          OUTPUT/table.md.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from trl import TrlParser

from eagle_hf import DecodingStats, Eagle3DraftHead, load_target, new_head
from eagle_hf.data import Features, load_suite, with_template_variables, write_run
from eagle_hf.evaluation import collect_stats, read_acceptance, write_acceptance
from eagle_hf.measuring import tau_difference, tau_interval

TRAIN = Path(__file__).with_name("train.py")
HEAD_SHAPE = ("fill_by_rank", "fc_norm", "norm_output", "hidden_act")


@dataclass
class AblationArguments:
    """What is trained, what each run changes, and how it is measured."""

    output_dir: str = field(metadata={"help": "Folder for the runs and the table."})
    train: dict = field(metadata={"help": "Settings of recipes/train.py that all runs share."})
    runs: dict = field(
        metadata={"help": "Name: what this run changes. The first one is the basis."}
    )
    jobs: int = field(
        default=1, metadata={"help": "Runs at a time; each gets its share of the cores."}
    )
    categories: list[str] = field(
        default_factory=lambda: ["chat", "code", "math"],
        metadata={"help": "Bundled categories or .jsonl files."},
    )
    per_category: int = field(default=20, metadata={"help": "Held-out prompts of each category."})
    max_new_tokens: int = field(default=48, metadata={"help": "Tokens of each answer."})
    max_steps: int = field(
        default=-1,
        metadata={"help": "Training steps of each run, whatever its minutes (smoke tests)."},
    )
    only: str | None = field(default=None, metadata={"help": "This run alone, in this process."})

    def folder(self, name: str) -> Path:
        """Where a run keeps its head."""
        return Path(self.output_dir, name)

    def is_measured(self, name: str) -> bool:
        """Whether a run is finished."""
        return (self.folder(name) / "tau.json").is_file()


def randomise_lm_head(head: Eagle3DraftHead) -> None:
    """A random LM head instead of the target's rows."""
    torch.nn.init.normal_(head.lm_head.weight, std=head.config.initializer_range)


def average_in_fc(head: Eagle3DraftHead) -> None:
    """An fc that passes the mean of the aux hidden states on."""
    set_fc(head, (1 / 3, 1 / 3, 1 / 3))


def pass_last_in_fc(head: Eagle3DraftHead) -> None:
    """An fc that passes the last aux hidden states on."""
    set_fc(head, (0, 0, 1))


def set_fc(head: Eagle3DraftHead, shares: tuple[float, ...]) -> None:
    """An fc that passes so much of each layer's aux hidden states on."""
    identity = torch.eye(head.fc.out_features)  # [H, H]
    head.fc.weight.copy_(torch.cat([share * identity for share in shares], dim=1))  # [H, 3H]


STARTS: dict[str, Callable[[Eagle3DraftHead], None]] = {
    "lm_head: random": randomise_lm_head,
    "fc: mean": average_in_fc,
    "fc: last": pass_last_in_fc,
}


def open_target(settings: dict) -> tuple[Any, Any]:
    """(target, tokenizer) that a run's settings of recipes/train.py name."""
    return load_target(
        settings["target"], settings.get("adapter"), tokenizer=settings.get("tokenizer")
    )


def save_start(settings: dict, start: str, folder: Path) -> str:
    """Save a new head whose first weights are changed as STARTS says; its folder."""
    if start not in STARTS:
        raise ValueError(f"start is {start!r}; choose one of {', '.join(STARTS)}")
    target, _ = open_target(settings)
    torch.manual_seed(settings.get("seed", 42))
    examples = list(Features(settings["features"]).examples())
    shape = {name: settings[name] for name in HEAD_SHAPE if name in settings}
    head, _ = new_head(target, examples, settings["draft_vocab_size"], **shape)
    with torch.no_grad():
        STARTS[start](head)
    head.save_pretrained(folder)
    return str(folder)


def run(arguments: AblationArguments, name: str) -> None:
    """Train and measure one head, leaving OUTPUT/NAME/tau.json."""
    folder = arguments.folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    settings = arguments.train | arguments.runs[name] | {"output_dir": str(folder)}
    start = settings.pop("start", None)
    trained = settings.pop("trained", None)
    if arguments.max_steps > 0:
        settings["max_steps"] = arguments.max_steps
    if start:
        settings["head"] = save_start(settings, start, folder / "start")
    if trained:
        shutil.copy(Path(trained, "metrics.json"), folder)
    else:
        train(settings, folder)
    measure(arguments, settings, trained or folder, folder / "tau.json")


def train(settings: dict, folder: Path) -> None:
    """Train a head with recipes/train.py in a process of its own."""
    config = folder / "train.yaml"
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, TRAIN, "--config", config]
    with (folder / "train.log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=log, check=True)


def measure(arguments: AblationArguments, settings: dict, saved: str | Path, out: Path) -> None:
    """Measure a saved head's tau on the held-out prompts."""
    target, tokenizer = open_target(settings)
    head = Eagle3DraftHead.from_pretrained(saved, dtype=target.dtype, tree="saved").eval()
    prompts = load_suite(arguments.categories, arguments.per_category)
    variables = settings.get("chat_template_kwargs")
    prompts = with_template_variables(prompts, tokenizer, variables)
    stats = collect_stats(
        target, tokenizer, head, prompts, max_new_tokens=arguments.max_new_tokens, progress=False
    )
    write_acceptance(out, head.tree, prompts, stats)


def compare(ours: list[DecodingStats], basis: list[DecodingStats]) -> tuple[str, str]:
    """The interval of the difference, prompt by prompt, and what it says.

    Overlapping intervals of the taus themselves show no difference. The paired interval may show
    one, and is named where it alone does.
    """
    worst, best = tau_difference(ours, basis)
    interval = f"{worst:+.3f} to {best:+.3f}"
    is_better = worst > 0
    is_worse = best < 0
    if not is_better and not is_worse:
        return interval, "no difference seen"
    verdict = "better" if is_better else "worse"
    low, high = tau_interval(ours)
    basis_low, basis_high = tau_interval(basis)
    intervals_overlap = low <= basis_high and basis_low <= high
    if intervals_overlap:
        verdict = f"no difference seen (paired: {verdict})"
    return interval, verdict


def table(arguments: AblationArguments) -> str:
    """One line a finished run: tau, its interval, the difference to the first run."""
    finished = [name for name in arguments.runs if arguments.is_measured(name)]
    basis_file = arguments.folder(finished[0]) / "tau.json"
    basis = read_acceptance(basis_file)
    lines = [
        "| run | changes | steps | tau | 95 % | against the first, 95 % | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in finished:
        folder = arguments.folder(name)
        stats = read_acceptance(folder / "tau.json", like=basis_file)
        changes = [f"{key} {value}" for key, value in arguments.runs[name].items()]
        steps = json.loads((folder / "metrics.json").read_text())["steps"]
        tau = sum(stats, DecodingStats(rows=0)).tau
        low, high = tau_interval(stats)
        against, verdict = ("", "") if name == finished[0] else compare(stats, basis)
        cells = [
            name,
            ", ".join(changes) or "the basis",
            str(steps),
            f"{tau:.3f}",
            f"{low:.3f} to {high:.3f}",
            against,
            verdict,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_all(arguments: AblationArguments, names: list[str]) -> None:
    """Run each in a process of its own, `jobs` at a time, and say how it ended."""
    threads = max(1, usable_cores() // arguments.jobs)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, *sys.argv, "--only"]

    def run_one(name: str) -> int:
        return subprocess.run([*command, name], env=environment).returncode

    with ThreadPoolExecutor(arguments.jobs) as pool:
        for name, status in zip(names, pool.map(run_one, names), strict=True):
            log = f"{arguments.output_dir}/{name}/train.log"
            outcome = "done" if status == 0 else f"failed, see {log}"
            print(f"{name}: {outcome}", flush=True)


def main() -> None:
    (arguments,) = TrlParser((AblationArguments,)).parse_args_and_config()
    if arguments.only:
        run(arguments, arguments.only)
        return
    waiting = [name for name in arguments.runs if not arguments.is_measured(name)]
    run_all(arguments, waiting)
    text = table(arguments)
    print(text)
    Path(arguments.output_dir, "table.md").write_text(text + "\n")
    failed = [name for name in waiting if not arguments.is_measured(name)]
    write_run(arguments.output_dir, asdict(arguments), {"failed": failed})


if __name__ == "__main__":
    main()
