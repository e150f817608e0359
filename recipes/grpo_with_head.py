"""GRPO on sums, its rollouts drafted by a head that stands still and by one that follows.

Two runs from the same policy, on the same prompts. In each, every other step generates plainly, so
that both ways of generating are timed in turn on the same policy. The rewards are a rule: 1 for the
right number at the end of the answer, 0.1 for any number there.

The policy is trained by a LoRA, the callback is all that is added to a GRPO script:

    trainer.add_callback(SpeculativeRollouts(head))

Hardware: any that trains the policy.
Duration: 25 steps of 8 answers with 128 tokens, twice, on 2 CPU cores without bfloat16: 40 minutes.
Command:  python recipes/grpo_with_head.py --target smollm2 \\
              --head model_cards/smollm2-135m-instruct-eagle3 --output_dir outputs/grpo
Expected: a table of seconds a step, OUTPUT/tau.png with tau by step of both heads,
          OUTPUT/metrics.json, the following head in OUTPUT/head.
"""

import ast
import json
import math
import operator
import re
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer, TrlParser

from eagle_hf import Eagle3DraftHead, SpeculativeRollouts, load_target
from eagle_hf.data import gather_prompts, write_run

KINDS = ("basic_arithmetic", "gcd")
OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
CLOSE = 1e-6
ARMS = ("frozen", "following")


@dataclass
class GrpoArguments:
    """Which policy, which head, how long."""

    target: str = field(metadata={"help": "Hub id, folder, .gguf file, or smollm2."})
    head: str = field(metadata={"help": "The draft head: folder or hub id."})
    output_dir: str = field(metadata={"help": "Folder for the results."})
    prompt_files: list[str] = field(
        default_factory=lambda: ["train_math_reasoning_gym"],
        metadata={"help": f"Prompts; those of the kinds {', '.join(KINDS)} are taken."},
    )
    arms: list[str] = field(
        default_factory=lambda: list(ARMS), metadata={"help": "Of frozen and following."}
    )
    steps: int = field(default=25, metadata={"help": "Steps of the policy."})
    group: int = field(default=8, metadata={"help": "Answers to each prompt."})
    new_tokens: int = field(default=128, metadata={"help": "Longest answer, in tokens."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Of the policy's LoRA."})
    lora_rank: int = field(default=16, metadata={"help": "Of the policy's LoRA."})
    head_learning_rate: float = field(default=3e-4, metadata={"help": "Of the following head."})
    learn_share: float = field(
        default=0.1, metadata={"help": "Seconds of the head's learning per second of training."}
    )
    dtype: str = field(default="auto", metadata={"help": "The policy's; auto: the fastest here."})
    seed: int = field(default=0, metadata={"help": "Of prompts and answers."})

    def __post_init__(self) -> None:
        for arm in self.arms:
            if arm not in ARMS:
                raise ValueError(f"arms has {arm!r}; take of {', '.join(ARMS)}")


def solution(question: str) -> float | None:
    """The number that answers a question of KINDS; None for any other question."""
    found = re.fullmatch(r"Calculate ([-+*/() \d.]+?)\.", question.strip())
    if found:
        return value_of(ast.parse(found[1].strip(), mode="eval").body)
    found = re.search(r"\(GCD\) of these numbers: ([\d, ]+)\.", question)
    if found:
        return float(math.gcd(*[int(number) for number in found[1].split(",")]))
    return None


def value_of(node: ast.AST) -> float:
    """The value of a sum of numbers."""
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int | float), ast.dump(node)
        return float(node.value)
    if isinstance(node, ast.UnaryOp):
        return -value_of(node.operand)
    assert isinstance(node, ast.BinOp), ast.dump(node)
    left = value_of(node.left)
    right = value_of(node.right)
    return OPERATIONS[type(node.op)](left, right)


def reward(completions: list[Any], answer: list[float], **_: Any) -> list[float]:
    """1 for the right last number, 0.1 for any number, 0 for none."""
    rewards = []
    for completion, right in zip(completions, answer, strict=True):
        numbers = NUMBER.findall(completion[0]["content"].replace(",", ""))
        if not numbers:
            rewards.append(0.0)
            continue
        is_right = abs(float(numbers[-1]) - right) < CLOSE
        rewards.append(1.0 if is_right else 0.1)
    return rewards


def read_sums(files: list[str]) -> Dataset:
    """Prompts whose answer is a number that the rule knows."""
    rows = []
    for prompt in gather_prompts(files, None):
        question = prompt["turns"][0]
        answer = solution(question)
        if answer is not None:
            message = {"role": "user", "content": question}
            rows.append({"prompt": [message], "answer": answer})
    if not rows:
        raise ValueError(
            f"{files} hold no question of the kinds {', '.join(KINDS)}; take "
            "train_math_reasoning_gym"
        )
    return Dataset.from_list(rows)


def train(arguments: GrpoArguments, arm: str, sums: Dataset) -> list[dict[str, float]]:
    """Train the policy anew with a head that stands still or follows; returns the log's lines."""
    target, tokenizer = load_target(arguments.target, dtype=arguments.dtype, work="batch")
    head = Eagle3DraftHead.from_pretrained(arguments.head, dtype=target.dtype)
    folder = Path(arguments.output_dir, arm)
    trainer = GRPOTrainer(
        model=target.requires_grad_(True),
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(folder),
            max_steps=arguments.steps,
            per_device_train_batch_size=arguments.group,
            num_generations=arguments.group,
            max_completion_length=arguments.new_tokens,
            learning_rate=arguments.learning_rate,
            lr_scheduler_type="constant",
            beta=0.001,
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            seed=arguments.seed,
        ),
        train_dataset=sums,
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=arguments.lora_rank, lora_alpha=2 * arguments.lora_rank, target_modules="all-linear"
        ),
    )
    rollouts = SpeculativeRollouts(
        head,
        learn_every=1 if arm == "following" else 0,
        learn_share=arguments.learn_share,
        learning_rate=arguments.head_learning_rate,
        measure_every=2,
    )
    trainer.add_callback(rollouts)
    trainer.train()
    if arm == "following":
        head.save_pretrained(Path(arguments.output_dir, "head"))
    lines = [line for line in trainer.state.log_history if "rollout/seconds" in line]
    Path(folder, "log.json").write_text(json.dumps(lines, indent=1))
    return lines


def summary(lines: list[dict[str, float]]) -> dict[str, float | None]:
    """What a run comes to; its first step, which warms up, is left out of the seconds."""
    timed = lines[1:]
    drafted = [line for line in timed if line["rollout/drafted"]]
    plain = [line for line in timed if not line["rollout/drafted"]]
    taus = [line["rollout/tau"] for line in lines if "rollout/tau" in line]
    quarter = max(1, len(taus) // 4)
    return {
        "generating_plain_s": mean_of(plain, "rollout/seconds"),
        "generating_drafted_s": mean_of(drafted, "rollout/seconds"),
        "generating_speed": median_speed(timed),
        "step_plain_s": mean_of(plain, "step_time"),
        "step_drafted_s": mean_of(drafted, "step_time"),
        "head_s": sum(line.get("rollout/head_seconds", 0.0) for line in lines) / len(lines),
        "tau_first": sum(taus[:quarter]) / quarter if taus else None,
        "tau_last": sum(taus[-quarter:]) / quarter if taus else None,
        "kl_last": lines[-1].get("kl"),
        "reward_first": mean_of(lines[:quarter], "reward"),
        "reward_last": mean_of(lines[-quarter:], "reward"),
    }


def mean_of(lines: list[dict[str, float]], name: str) -> float | None:
    """The mean of a figure over lines; None without lines."""
    values = [line[name] for line in lines if name in line]
    return sum(values) / len(values) if values else None


def median_speed(lines: list[dict[str, float]]) -> float | None:
    """Plain over drafted seconds per token, in pairs of neighbours; the median."""
    speeds = []
    for first, second in zip(lines, lines[1:], strict=False):
        if bool(first["rollout/drafted"]) == bool(second["rollout/drafted"]):
            continue
        drafted, plain = (first, second) if first["rollout/drafted"] else (second, first)
        speeds.append(seconds_per_token(plain) / seconds_per_token(drafted))
    return statistics.median(speeds) if speeds else None


def seconds_per_token(line: dict[str, float]) -> float:
    """Of the longest answer of a step."""
    return line["rollout/seconds"] / line["completions/max_length"]


def draw(runs: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Tau by step, and how far the policy has moved."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (taus, distances) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 5))
    for (arm, lines), marker in zip(runs.items(), "os", strict=False):
        drafted = [line for line in lines if "rollout/tau" in line]
        taus.plot(
            [line["step"] for line in drafted],
            [line["rollout/tau"] for line in drafted],
            marker=marker,
            label=f"{arm} head",
        )
        distances.plot(
            [line["step"] for line in lines],
            [line.get("kl", math.nan) for line in lines],
            label=arm,
        )
    taus.set_ylabel("tokens a round")
    taus.legend()
    distances.set_ylabel("KL from the first policy")
    distances.set_xlabel("step")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def table(metrics: dict[str, dict[str, float | None]]) -> str:
    """The summaries as Markdown, a column for each run."""
    rows = [f"| | {' | '.join(metrics)} |", "|---|" + "---|" * len(metrics)]
    for name in next(iter(metrics.values())):
        cells = []
        for values in metrics.values():
            value = values[name]
            cells.append("-" if value is None else f"{value:.3f}")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    (arguments,) = TrlParser((GrpoArguments,)).parse_args_and_config()
    sums = read_sums(arguments.prompt_files)
    runs = {}
    for arm in arguments.arms:
        runs[arm] = train(arguments, arm, sums)
    metrics = {arm: summary(lines) for arm, lines in runs.items()}
    draw(runs, Path(arguments.output_dir, "tau.png"))
    write_run(arguments.output_dir, asdict(arguments), metrics)
    print(table(metrics))
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
