"""Train heads that differ in one setting each, for equal minutes on the same features, and compare their tau.

Hardware: any; a run takes its minutes and one or two for measuring, and `jobs` runs share the processor's cores.
Command:  python recipes/ablations.py --config recipes/configs/smollm2_ablations.yaml
Expected: OUTPUT/NAME/ with each head and its tau.json, and a table on the screen and in OUTPUT/table.md. A run that has its
tau.json is not repeated, so an interrupted command goes on.

`train` holds settings of recipes/train.py, each of `runs` what it changes: further settings, or `start`, first weights other
than `new_head`'s; `trained` names a folder of train.py's instead, which is only measured. The first run is the one that the others are compared with, on the same held-out prompts.
"""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import yaml
from trl import TrlParser

from eagle_hf import DecodingStats, Eagle3DraftHead, Features, load_target, new_head, write_run
from eagle_hf.data.suites import load_suite
from eagle_hf.evaluation.offline import acceptance
from eagle_hf.evaluation.report import read_acceptance, write_acceptance
from eagle_hf.measuring.intervals import tau_difference, tau_interval

TRAIN = Path(__file__).with_name("train.py")


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


def fc_weights(head, *shares) -> torch.Tensor:
    """An fc that passes on so much of each stream."""
    return torch.cat([share * torch.eye(head.fc.out_features) for share in shares], dim=1)


STARTS = {
    "lm_head: random": lambda head: torch.nn.init.normal_(
        head.lm_head.weight, std=head.config.initializer_range
    ),
    "fc: mean": lambda head: head.fc.weight.copy_(fc_weights(head, 1 / 3, 1 / 3, 1 / 3)),
    "fc: last": lambda head: head.fc.weight.copy_(fc_weights(head, 0, 0, 1)),
}


def started(settings: dict, start: str, folder: Path) -> str:
    """The folder of a new head whose first weights are changed as STARTS says."""
    if start not in STARTS:
        raise ValueError(f"start is {start!r}; choose one of {', '.join(STARTS)}")
    target, _ = load_target(settings["target"])
    torch.manual_seed(settings.get("seed", 42))
    examples = list(Features(settings["features"]).examples())
    shape = {
        name: settings[name]
        for name in ("fill_by_rank", "fc_norm", "norm_output")
        if name in settings
    }
    head, _ = new_head(target, examples, settings["draft_vocab_size"], **shape)
    with torch.no_grad():
        STARTS[start](head)
    head.save_pretrained(folder)
    return str(folder)


def run(arguments: AblationArguments, name: str) -> None:
    """Train and measure one head, leaving OUTPUT/NAME/tau.json."""
    folder = Path(arguments.output_dir, name)
    settings = arguments.train | arguments.runs[name] | {"output_dir": str(folder)}
    start, trained = settings.pop("start", None), settings.pop("trained", None)
    if arguments.max_steps > 0:
        settings["max_steps"] = arguments.max_steps
    folder.mkdir(parents=True, exist_ok=True)
    if start:
        settings["head"] = started(settings, start, folder / "start")
    if trained:
        shutil.copy(Path(trained, "metrics.json"), folder)
    else:
        Path(folder, "train.yaml").write_text(yaml.safe_dump(settings))
        with Path(folder, "train.log").open("w") as log:
            subprocess.run(
                [sys.executable, TRAIN, "--config", folder / "train.yaml"],
                stdout=log,
                stderr=log,
                check=True,
            )
    target, tokenizer = load_target(settings["target"])
    head = Eagle3DraftHead.from_pretrained(
        trained or folder, dtype=target.dtype, tree="saved"
    ).eval()
    prompts = load_suite(arguments.categories, arguments.per_category)
    stats = acceptance(
        target, tokenizer, head, prompts, max_new_tokens=arguments.max_new_tokens, progress=False
    )
    write_acceptance(folder / "tau.json", head.tree, prompts, stats)


def compared(ours, basis) -> tuple[str, str]:
    """The interval of the difference, prompt by prompt, and what it says.

    Overlapping intervals of the taus themselves show no difference; the paired one may, and is named where it alone does.
    """
    (low, high), (other_low, other_high), (worst, best) = (
        tau_interval(ours),
        tau_interval(basis),
        tau_difference(ours, basis),
    )
    seen = "better" if worst > 0 else "worse" if best < 0 else None
    overlap = low <= other_high and other_low <= high
    verdict = (
        (f"no difference seen (paired: {seen})" if overlap else seen)
        if seen
        else "no difference seen"
    )
    return f"{worst:+.3f} to {best:+.3f}", verdict


def table(arguments: AblationArguments) -> str:
    """One row a finished run: tau, its interval, the difference to the first run."""
    names = [
        name for name in arguments.runs if Path(arguments.output_dir, name, "tau.json").is_file()
    ]
    basis = read_acceptance(Path(arguments.output_dir, names[0], "tau.json"))
    lines = [
        "| run | changes | steps | tau | 95 % | against the first, 95 % | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        ours = read_acceptance(
            Path(arguments.output_dir, name, "tau.json"),
            like=Path(arguments.output_dir, names[0], "tau.json"),
        )
        low, high = tau_interval(ours)
        against, verdict = ("", "") if name == names[0] else compared(ours, basis)
        changed = (
            ", ".join(f"{key} {value}" for key, value in arguments.runs[name].items())
            or "the basis"
        )
        steps = json.loads(Path(arguments.output_dir, name, "metrics.json").read_text())["steps"]
        tau = sum(ours, DecodingStats(rows=0)).tau
        lines.append(
            f"| {name} | {changed} | {steps} | {tau:.3f} | {low:.3f} to {high:.3f} | {against} | {verdict} |"
        )
    return "\n".join(lines)


def main():
    (arguments,) = TrlParser((AblationArguments,)).parse_args_and_config()
    if arguments.only:
        return run(arguments, arguments.only)
    waiting = [
        name
        for name in arguments.runs
        if not Path(arguments.output_dir, name, "tau.json").is_file()
    ]
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )  # those this process may use
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, cores // arguments.jobs))}
    command = [sys.executable, *sys.argv, "--only"]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for name, done in zip(
            waiting,
            pool.map(lambda name: subprocess.run([*command, name], env=environment), waiting),
        ):
            print(
                f"{name}: {'done' if done.returncode == 0 else f'failed, see {arguments.output_dir}/{name}/train.log'}",
                flush=True,
            )
    text = table(arguments)
    print(text)
    Path(arguments.output_dir, "table.md").write_text(text + "\n")
    write_run(
        arguments.output_dir,
        asdict(arguments),
        {"failed": [n for n in waiting if not Path(arguments.output_dir, n, "tau.json").is_file()]},
    )


if __name__ == "__main__":
    main()
