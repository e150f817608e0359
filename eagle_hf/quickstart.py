"""The whole plot in a quarter of an hour: the head that comes with the project at work, then one trained here.

Every step keeps its result in the folder and is skipped when that is already there; responses and training go on
from where they were interrupted. Chat prompts are the target's own (Magpie), code and maths prompts are bundled;
what is asked at the end was never trained on. A slow machine answers fewer prompts, so that the time stays the same.
"""

import json
import shutil
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from eagle_hf.compat import quiet_libraries
from eagle_hf.data.conversations import load_conversations
from eagle_hf.data.magpie import magpie_prompts
from eagle_hf.data.masking import eos_token_ids, tokenize_conversations
from eagle_hf.data.prompts import bundled_prompts, evenly_spread, read_prompts, write_prompts
from eagle_hf.data.responses import write_responses
from eagle_hf.data.sampling import generate_batch
from eagle_hf.data.suites import first_turn_ids, load_suite
from eagle_hf.decoding import automatic
from eagle_hf.evaluation.offline import Answer, Summary, by_category, evaluate
from eagle_hf.evaluation.report import screen_table, write_report
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.measuring.acceptance import measure_acceptance, save_acceptance
from eagle_hf.provenance import dtype_name, machine
from eagle_hf.target import load_target
from eagle_hf.target.dtypes import choose_dtype, default_device
from eagle_hf.training.arguments import Eagle3TrainingArguments
from eagle_hf.training.checkpoints import last_checkpoint
from eagle_hf.training.start import new_head
from eagle_hf.training.trainer import Eagle3Trainer

TARGET = "smollm2"
DRAFT_VOCAB_SIZE = 8192
RESPONSE_TOKENS = 160
MAGPIE_TOKENS = 64
BATCH = 48  # prompts answered at once
LEAST_PROMPTS = 60
WHOLE_SECONDS = 14 * 60  # that all steps may take with the default training budget
DEFAULT_MINUTES = 5.0
PILOT_TOKENS = (
    2,
    10,
)  # answered to a first batch, from whose seconds the speed of this machine follows
ACCEPTANCE_PROMPTS = (
    2  # of each category, on which the new head's acceptance is measured; none of them is shown
)
REFERENCE = Path(__file__).parents[1] / "model_cards" / "smollm2-135m-instruct-eagle3"


@dataclass(frozen=True)
class Show:
    """How much is measured: prompts of each category for speed and for equality, and new tokens of each answer."""

    fast_prompts: int
    exact_prompts: int
    fast_tokens: int
    exact_tokens: int


GLANCE = Show(fast_prompts=1, exact_prompts=1, fast_tokens=64, exact_tokens=24)
LOOK = Show(fast_prompts=4, exact_prompts=2, fast_tokens=64, exact_tokens=48)


class Targets:
    """The target in the dtypes that this machine does its works fastest in; each is opened once."""

    def __init__(self):
        self.device = default_device()
        self.tokenizer = None
        self._opened = {}

    def fastest_for(self, work: str):
        """The target in the dtype that `choose_dtype` names for a work."""
        return self.in_dtype(choose_dtype(self.device, work))

    def in_dtype(self, dtype: torch.dtype):
        if dtype not in self._opened:
            self._opened[dtype], self.tokenizer = load_target(
                TARGET, dtype=dtype, device=self.device
            )
        return self._opened[dtype]


def quickstart(
    folder: Path, minutes: float = DEFAULT_MINUTES, prompts: int = 480, train: bool = True
) -> None:
    """Show the project's own head at work; then run every step of training one that `folder` does not hold yet, and show that.

    Args:
        folder: where everything is kept.
        minutes: of training.
        prompts: answered for training, at most; fewer where the machine would need longer than a quarter of an hour.
        train: False stops after the project's own head.

    Raises:
        ValueError: for impossible budgets, and where the project's head is missing and nothing is to be trained.
    """
    if minutes <= 0 or prompts < 3:
        raise ValueError(
            f"minutes is {minutes} and prompts {prompts}; minutes must be positive and prompts at least 3"
        )
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with quiet_libraries():
        heading(1, "The target: SmolLM2-135M-Instruct, embedded")
        targets = Targets()
        target = targets.fastest_for("draft")
        print(
            f"{machine(target)['device']}: {dtype_name(target)} is what this machine decodes fastest in"
        )
        heading(2, "The head that comes with the project: the same prompts, with it and without")
        if (REFERENCE / "config.json").is_file():
            show(REFERENCE, folder / "reference", targets, GLANCE, started)
        elif train:
            print(
                "not in this installation: it lies in the repository, under model_cards; going on to train one"
            )
        else:
            raise ValueError(
                f"there is no head in {REFERENCE}; install from a clone of the repository, or train one"
            )
        if train:
            count = make_head(folder, targets, minutes, prompts, started)
            heading(6, "The head trained here: the same prompts, with it and without")
            show(folder / "head", folder / "report", targets, LOOK, started)
            if count is not None:
                print(
                    f"trained on {count} of {prompts} prompts for {minutes:g} minutes: more of both make a better head"
                )


def heading(step: int, text: str) -> None:
    print(f"\n[{step}/6] {text}", flush=True)


def make_head(
    folder: Path, targets: Targets, minutes: float, prompts: int, started: float
) -> int | None:
    """Prompts, responses and training into folder/head; how many prompts, None where the folder holds the head already."""
    if (folder / "head" / "config.json").is_file():
        print(f"\n{folder / 'head'} is there from an earlier run; delete it to train again")
        return None
    count = affordable_prompts(folder / "prompts.json", targets, minutes, prompts, started)
    target, tokenizer = targets.fastest_for("batch"), targets.tokenizer
    fewer = (
        ""
        if count == prompts
        else f" ({prompts} would take this machine longer than a quarter of an hour)"
    )
    heading(3, f"Prompts: {count} user turns{fewer}, a third of them written by the target itself")
    asked = training_prompts(folder / f"prompts-{count}.jsonl", target, tokenizer, count)
    heading(4, "Responses: the target answers, because a head must learn this target's own words")
    report = write_responses(
        target,
        tokenizer,
        asked,
        folder / "responses",
        max_new_tokens=RESPONSE_TOKENS,
        batch_size=BATCH,
    )
    if report.skipped:
        print(f"{len(report.skipped)} prompts skipped, the first: {report.skipped[0][1]}")
    heading(5, f"Training for {minutes:g} minutes")
    train_head(folder, targets, minutes)
    return count


def affordable_prompts(
    kept: Path, targets: Targets, minutes: float, asked: int, started: float
) -> int:
    """How many of the prompts asked for this machine answers in time; measured once and kept in a file."""
    if kept.is_file():
        known = json.loads(kept.read_text())
        if known["asked"] == asked:
            return known["count"]
    target = targets.fastest_for("batch")
    questions = load_suite(("code", "math"), BATCH // 2)
    ids = [
        first_turn_ids(targets.tokenizer, question)["input_ids"][0].tolist()
        for question in questions
    ]
    count = asked
    if asked > LEAST_PROMPTS:
        spent = time.perf_counter() - started
        left = (
            WHOLE_SECONDS
            + 60 * (minutes - DEFAULT_MINUTES)
            - spent
            - 60 * minutes
            - look_seconds(targets)
        )
        count = max(
            LEAST_PROMPTS, min(asked, int(left / seconds_a_prompt(target, targets.tokenizer, ids)))
        )
    scratch = kept.with_suffix(".tmp")
    scratch.write_text(json.dumps({"asked": asked, "count": count}))
    scratch.rename(kept)
    return count


def seconds_a_prompt(target, tokenizer, ids: list[list[int]]) -> float:
    """What a prompt costs from writing a third of it to reading the answer's states, by a short batch of these prompts."""
    stop, seconds = eos_token_ids(target, tokenizer), []
    for count in PILOT_TOKENS:
        began = time.perf_counter()
        generate_batch(target, ids, eos_token_ids=stop, max_new_tokens=count)
        seconds.append(time.perf_counter() - began)
    short, long = PILOT_TOKENS
    step = (
        max(0.0, seconds[1] - seconds[0]) / (long - short) / len(ids)
    )  # seconds a token of one row
    prompt = max(0.0, seconds[0] / len(ids) - short * step)
    read = prompt / (sum(map(len, ids)) / len(ids))  # seconds a token that is read at once
    states = prompt + RESPONSE_TOKENS * read
    return (
        prompt + RESPONSE_TOKENS * step + states + MAGPIE_TOKENS * step / 2
    )  # of three samples, two make a prompt


def look_seconds(targets: Targets) -> float:
    """About what the last show and measuring acceptance take, from one token's cost in both dtypes."""
    fast = targets.fastest_for("draft")
    exact = targets.in_dtype(torch.float32)
    seconds = 0.0
    for target, prompts, tokens in (
        (fast, LOOK.fast_prompts, LOOK.fast_tokens),
        (exact, LOOK.exact_prompts, LOOK.exact_tokens),
    ):
        began = time.perf_counter()
        start = torch.full((1, 32), 5, device=target.device)
        target.generate(
            start,
            attention_mask=torch.ones_like(start),
            max_new_tokens=8,
            do_sample=False,
            pad_token_id=0,
        )
        seconds += 2 * 3 * prompts * tokens * (time.perf_counter() - began) / 8
    return 1.5 * seconds


def training_prompts(path: Path, target, tokenizer, count: int) -> list[dict]:
    """A third chat (Magpie), a third code, a third maths; kept in a file."""
    if not path.exists():
        own = count - 2 * (count // 3)
        asked = magpie_prompts(target, tokenizer, own, batch_size=64, max_new_tokens=MAGPIE_TOKENS)
        for name in ("train_code_codeio", "train_math_reasoning_gym"):
            rows = read_prompts(bundled_prompts(name))[0]
            rows = sorted(rows, key=lambda row: len(row["turns"][0]))
            asked += evenly_spread(
                rows[: len(rows) * 3 // 4], count // 3
            )  # long ones cost more than they teach
        write_prompts(path, asked)
    return read_prompts(path)[0]


def train_head(folder: Path, targets: Targets, minutes: float) -> None:
    """A head after `minutes` of training on the folder's conversations, saved to folder/head."""
    target, tokenizer = targets.fastest_for("prefill"), targets.tokenizer
    rows = load_conversations(folder / "responses")
    limit = target.config.max_position_embeddings
    examples, _ = tokenize_conversations(
        rows, tokenizer, eos_token_ids=eos_token_ids(target, tokenizer), max_length=limit
    )
    torch.manual_seed(0)
    head, covered = new_head(target, examples, DRAFT_VOCAB_SIZE, fill_by_rank=True, fc_norm=True)
    responses = sum(sum(example["loss_mask"]) for example in examples)
    print(
        f"{responses} response tokens; a draft vocabulary of {DRAFT_VOCAB_SIZE} covers {covered:.1%} of them"
    )
    arguments = Eagle3TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_minutes=minutes,
        num_train_epochs=1000,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        ttt_curriculum=[1, 2, 4],
        learn_prompts=True,
        use_cpu=targets.device.type == "cpu",
        report_to="none",
        disable_tqdm=False,  # quiet libraries would hide the bar
        seed=0,
        target_states_gb=4.0,
        train_sampling_strategy="group_by_length",
        logging_steps=20,
        save_steps=100,
        save_total_limit=1,
    )
    trainer = Eagle3Trainer(model=head, target=target, args=arguments, train_dataset=examples)
    trainer.states.fill(trainer.train_dataset)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder / "checkpoints"))
    save_with_acceptance(head, folder / "head", targets)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def save_with_acceptance(head, folder: Path, targets: Targets) -> None:
    """The head in bfloat16, with how often its guesses were taken on prompts that are neither trained on nor shown."""
    target = targets.fastest_for("draft")
    questions = load_suite(per_category=ACCEPTANCE_PROMPTS, leave_out=LOOK.fast_prompts)
    starts = [first_turn_ids(targets.tokenizer, question)["input_ids"] for question in questions]
    scratch = folder.with_suffix(".tmp")
    head.to(torch.bfloat16).save_pretrained(scratch)
    saved = Eagle3DraftHead.from_pretrained(scratch, dtype=target.dtype).to(target.device).eval()
    save_acceptance(scratch, measure_acceptance(target, saved, starts))
    scratch.rename(folder)


def show(saved: Path, report: Path, targets: Targets, amount: Show, started: float) -> None:
    """What a saved head does: speed in the fastest dtype, equality in float32; the report goes to a folder."""
    target = targets.fastest_for("draft")
    head, answers = answered(
        saved, target, targets.tokenizer, amount.fast_prompts, amount.fast_tokens
    )
    summaries = by_category(answers)
    write_report(
        report,
        summaries,
        {"target": TARGET, "tree": "by machine", "temperature": 0, **machine(target)},
    )
    print(f"\n{screen_table(summaries)}")
    exact_target = targets.in_dtype(torch.float32)
    exact = answers
    if exact_target is not target:
        print("\nNow in float32, where equality is a promise:")
        _, exact = answered(
            saved, exact_target, targets.tokenizer, amount.exact_prompts, amount.exact_tokens
        )
    show_side_by_side(targets.tokenizer, exact)
    last_screen(saved, target, head, summaries["all"], exact, time.perf_counter() - started)


def answered(
    saved: Path, target, tokenizer, prompts: int, tokens: int
) -> tuple[Eagle3DraftHead, list[Answer]]:
    """The head, and the answers of a target with it and without to so many prompts of each category."""
    head = Eagle3DraftHead.from_pretrained(saved, dtype=target.dtype).to(target.device).eval()
    return head, evaluate(
        target, tokenizer, head, load_suite(per_category=prompts), max_new_tokens=tokens
    )


def show_side_by_side(tokenizer, answers: list[Answer]) -> None:
    """The first lines of one answer per category, both ways, in 80 columns."""
    shown = {answer.prompt["category"]: answer for answer in reversed(answers)}
    for category, answer in shown.items():
        print(f"\n{category}: {textwrap.shorten(answer.prompt['turns'][0], 70)}")
        texts = [
            tokenizer.decode(ids, skip_special_tokens=True)
            for ids in (answer.plain_ids, answer.fast_ids)
        ]
        columns = [textwrap.wrap(text, 36)[:5] for text in texts]
        print(f"  {'generate':<39}with the head")
        for row in range(max(map(len, columns))):
            left, right = (column[row] if row < len(column) else "" for column in columns)
            print(f"  {left:<39}{right}")


def last_screen(
    saved: Path, target, head, fast: Summary, exact: list[Answer], seconds: float
) -> None:
    """Tau, speed, equality, and what to do next.

    fast: measured on `target` with `head`, in the fastest dtype; exact: the answers in float32.
    """
    name, exact_summary = dtype_name(target), by_category(exact)["all"]
    differing = [answer for answer in exact if answer.difference is not None]
    errors = [answer for answer in differing if not answer.difference.is_tie]
    faster_plain = max(fast.plain_tokens_per_second, exact_summary.plain_tokens_per_second)
    print(f"\n{'=' * 78}")
    print(
        f"tau: {fast.tau:.2f} tokens per round of the target ({fast.prompts} prompts never trained on, {name}, greedy)"
    )
    print(
        f"speed: {fast.fast_tokens_per_second:.1f} tokens/s in {name}, {fast.speedup:.2f}x generate; "
        f"{exact_summary.speedup:.2f}x in float32\n"
        f"       {fast.fast_tokens_per_second / faster_plain:.2f}x the faster of both dtypes without a head"
    )
    if fast.speedup < 1.03:
        print(textwrap.fill(why_it_does_not_pay(target, head, fast.tau), 78))
    print(f"outputs identical: {'no' if errors else 'yes'} ({len(exact)} answers in float32)")
    for answer in differing:
        print(
            f"  {answer.prompt['id']} parts at token {answer.difference.position}, top-2 gap {answer.difference.gap:.1e}"
        )
    print(f"the head: {saved}  ({seconds / 60:.1f} minutes so far)")
    print(
        f'use it: head = Eagle3DraftHead.from_pretrained("{saved}")\n        target.generate(**inputs, assistant_model=head)'
    )


def why_it_does_not_pay(target, head, tau: float) -> str:
    """One sentence: what reading several tokens costs here, and what would pay."""
    costs = automatic.costs(target, head, rows=1)
    cell = costs.at(1, 0)
    eight = cell.target[7] / cell.target[0]
    return (
        f"Speculation hardly pays here: reading 8 tokens costs {eight:.1f} times one, and a round brings {tau:.2f}; "
        "it would with a CPU that computes in bfloat16 natively (AVX512-BF16, AMX), a GPU, or a head trained on more data."
    )
