"""Score a target with lm-eval, plainly and with its head: the scores must be the same.

lm-eval is used as it is. Its Hugging Face model takes any object with a `generate`, and the object
here hands a head to the target's. Every task is scored both ways at every batch size, and answers
are compared text by text. Tasks that compare likelihoods generate nothing, so a head has no part in
them: they are refused.

Without --tasks it scores `reading`, 24 questions that lie beside this recipe. Tasks of lm-eval's
own may be named, which fetch their data.

Hardware: any.
Duration: for SmolLM2-135M on 2 CPU cores two minutes.
Install:  pip install -c constraints.txt lm_eval
Command:  python recipes/score_with_lm_eval.py --target smollm2 \\
              --head model_cards/smollm2-135m-instruct-eagle3 --output_dir outputs/lm-eval
Expected: a row for each task, score and batch size, the two scores of a row equal in float32, and
          OUTPUT/metrics.json.
"""

from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from trl import TrlParser

from eagle_hf import DecodingStats, Eagle3DraftHead
from eagle_hf.data import write_run
from eagle_hf.evaluation import machine, open_head, open_target

OWN_TASKS = Path(__file__).parent / "lm_eval_task"
COLUMNS = ("task", "score", "batch", "plain", "with the head", "same answers", "tau")


@dataclass
class ScoreArguments:
    """Which head, for whom, on which tasks."""

    target: str = field(metadata={"help": "Hub id, folder, .gguf file, or smollm2."})
    head: str = field(metadata={"help": "Folder or hub id of the draft head."})
    output_dir: str = field(metadata={"help": "Folder for metrics.json."})
    tasks: list[str] = field(
        default_factory=lambda: ["reading"], metadata={"help": "Of lm-eval, or of include_path."}
    )
    include_path: str = field(
        default=str(OWN_TASKS), metadata={"help": "Folder of further tasks, as lm-eval reads it."}
    )
    batch_sizes: list[int] = field(default_factory=lambda: [1, 4], metadata={"help": "Prompts."})
    limit: int | None = field(default=None, metadata={"help": "Questions of a task; default: all."})
    chat: bool = field(default=False, metadata={"help": "Ask through the chat template."})
    dtype: str = field(
        default="float32", metadata={"help": "Of the models; equality is a promise in float32."}
    )


class WithHead:
    """A target that drafts whenever it generates; in all else it is the target.

    Args:
        target: the causal LM.
        head: what is given to its `generate` as `assistant_model`.

    Attributes:
        total: rounds and acceptance of all calls.
    """

    def __init__(self, target: Any, head: Eagle3DraftHead):
        self.target = target
        self.head = head
        self.total = DecodingStats(rows=0)

    def generate(self, **inputs: Any) -> Any:
        """What the target's `generate` returns."""
        output = self.target.generate(assistant_model=self.head, **inputs)
        self.total = self.total + self.head.last_run
        return output

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.target(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)


def open_tasks(arguments: ScoreArguments) -> Any:
    """lm-eval's list of tasks: those of the folder, and its own where one of them is named.

    Raises:
        ValueError: lm-eval is not installed.
    """
    if find_spec("lm_eval") is None:
        raise ValueError("scoring needs lm-eval, which is not installed; pip install lm_eval")
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=arguments.include_path, include_defaults=False)
    if set(arguments.tasks) <= set(manager.all_tasks):
        return manager
    return TaskManager(include_path=arguments.include_path)


def score(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    manager: Any,
    batch_size: int,
    arguments: ScoreArguments,
) -> dict[str, Any]:
    """What lm-eval returns for a target, or for one with a head.

    Raises:
        ValueError: a task generates nothing.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    results = simple_evaluate(
        HFLM(model, tokenizer=tokenizer, batch_size=batch_size),
        tasks=arguments.tasks,
        task_manager=manager,
        limit=arguments.limit,
        apply_chat_template=arguments.chat,
        bootstrap_iters=0,
        log_samples=True,
    )
    for task, config in results["configs"].items():
        if config["output_type"] != "generate_until":
            raise ValueError(
                f"{task} is scored by {config['output_type']}: nothing is generated, so a head has "
                "no part in it; name tasks with the output_type generate_until"
            )
    return results


def answers_of(results: dict[str, Any], task: str) -> dict[int, list[str]]:
    """The texts that were generated for each question, by its number."""
    return {sample["doc_id"]: sample["resps"][0] for sample in results["samples"][task]}


def compare(
    plain: dict[str, Any], fast: dict[str, Any], batch_size: int, tau: float
) -> list[dict[str, Any]]:
    """A row for each score of each task."""
    rows = []
    for task in plain["samples"]:
        plain_answers = answers_of(plain, task)
        fast_answers = answers_of(fast, task)
        same = sum(fast_answers[number] == text for number, text in plain_answers.items())
        for name, value in plain["results"][task].items():
            is_score = isinstance(value, float) and "_stderr" not in name
            if is_score:
                rows.append(
                    {
                        "task": task,
                        "score": name,
                        "batch": batch_size,
                        "plain": value,
                        "with_head": fast["results"][task][name],
                        "questions": len(plain_answers),
                        "same_answers": same,
                        "tau": tau,
                    }
                )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        cells = [
            row["task"],
            row["score"],
            str(row["batch"]),
            f"{row['plain']:.4f}",
            f"{row['with_head']:.4f}",
            f"{row['same_answers']} of {row['questions']}",
            f"{row['tau']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    (arguments,) = TrlParser((ScoreArguments,)).parse_args_and_config()
    # 1) open everything; what is cheap to refuse comes first
    manager = open_tasks(arguments)
    target, tokenizer = open_target(arguments.target, dtype=arguments.dtype)
    head = open_head(arguments.head, target, tree="saved")  # the same drafts on every machine

    # 2) score every batch size both ways
    rows = []
    for batch_size in arguments.batch_sizes:
        drafting = WithHead(target, head)
        plain = score(target, tokenizer, manager, batch_size, arguments)
        fast = score(drafting, tokenizer, manager, batch_size, arguments)
        rows += compare(plain, fast, batch_size, drafting.total.tau)

    # 3) report
    print(table(rows))
    metrics = {"identical": all(row["plain"] == row["with_head"] for row in rows), "rows": rows}
    write_run(arguments.output_dir, asdict(arguments), metrics | {"machine": machine(target)})


if __name__ == "__main__":
    main()
