"""The whole plot in a quarter of an hour: the head that comes with the project at work, then one trained here.

Every step keeps its result in the folder and is skipped when that is already there; responses and training go on
from where they were interrupted. Chat prompts are the target's own (Magpie), code and maths prompts are bundled;
what is asked at the end was never trained on.
"""

import shutil
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils import logging

from eagle_hf.data.conversations import load_conversations
from eagle_hf.data.magpie import magpie_prompts
from eagle_hf.data.masking import eos_token_ids, tokenize_conversations
from eagle_hf.data.prompts import bundled_prompts, evenly_spread, read_prompts, write_prompts
from eagle_hf.data.responses import write_responses
from eagle_hf.evaluation.offline import Summary, by_category, evaluate
from eagle_hf.evaluation.report import markdown_table, write_report
from eagle_hf.evaluation.suites import load_suite
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.identity import machine
from eagle_hf.target import load_target
from eagle_hf.training.arguments import Eagle3TrainingArguments
from eagle_hf.training.checkpoints import last_checkpoint
from eagle_hf.training.start import new_head
from eagle_hf.training.trainer import Eagle3Trainer

TARGET = "smollm2"
DRAFT_VOCAB_SIZE = 8192
RESPONSE_TOKENS = 160
REFERENCE = Path(__file__).parents[1] / "model_cards" / "smollm2-135m-instruct-eagle3"


@dataclass(frozen=True)
class Show:
    """How much is measured: prompts of each category in bf16 and in float32, and new tokens of each answer."""

    fast_prompts: int
    exact_prompts: int
    fast_tokens: int
    exact_tokens: int


GLANCE, LOOK = Show(1, 1, 64, 24), Show(4, 2, 64, 48)


def quickstart(folder: Path, minutes: float = 5.0, prompts: int = 480, train: bool = True) -> None:
    """Show the project's own head at work; then run every step of training one that `folder` does not hold yet, and show that.

    train=False stops after the first. The project's head lies in its repository, beside the package: a ValueError where it
    is missing and nothing is to be trained.
    """
    if minutes <= 0 or prompts < 3:
        raise ValueError(f"minutes is {minutes} and prompts {prompts}; minutes must be positive and prompts at least 3")
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    heading(1, "The target: SmolLM2-135M-Instruct, embedded")
    target, tokenizer = load_target(TARGET, dtype=torch.bfloat16)
    logging.disable_progress_bar()  # of loading and saving from here on: seconds each; the long steps have bars of their own
    heading(2, "The head that comes with the project: the same prompts, with it and without")
    if (REFERENCE / "config.json").is_file():
        show(REFERENCE, folder / "reference", target, tokenizer, GLANCE, started)
    elif train:
        print("not in this installation: it lies in the repository, under model_cards; going on to train one")
    else:
        raise ValueError(f"there is no head in {REFERENCE}; install from a clone of the repository, or train one")
    if train:
        make_head(folder, target, tokenizer, minutes, prompts)
        heading(6, "The head trained here: the same prompts, with it and without")
        show(folder / "head", folder / "report", target, tokenizer, LOOK, started)


def heading(step: int, text: str) -> None:
    print(f"\n[{step}/6] {text}", flush=True)


def make_head(folder: Path, target, tokenizer, minutes: float, prompts: int) -> None:
    """Prompts, responses and training into folder/head: whatever of it the folder does not hold yet."""
    if (folder / "head" / "config.json").is_file():
        print(f"\n{folder / 'head'} is there from an earlier run; delete it to train again")
        return
    heading(3, f"Prompts: {prompts} user turns, a third of them written by the target itself")
    asked = training_prompts(folder / f"prompts-{prompts}.jsonl", target, tokenizer, prompts)
    heading(4, "Responses: the target answers, because a head must learn this target's own words")
    report = write_responses(target, tokenizer, asked, folder / "responses", max_new_tokens=RESPONSE_TOKENS, batch_size=48)
    if report.skipped:
        print(f"{len(report.skipped)} prompts skipped, the first: {report.skipped[0][1]}")
    heading(5, f"Training for {minutes:g} minutes")
    train_head(folder, target, tokenizer, minutes)


def training_prompts(path: Path, target, tokenizer, count: int) -> list[dict]:
    """A third chat (Magpie), a third code, a third maths; kept in a file."""
    if not path.exists():
        asked = magpie_prompts(target, tokenizer, count - 2 * (count // 3), batch_size=64, max_new_tokens=64)
        for name in ("train_code_codeio", "train_math_reasoning_gym"):
            rows = read_prompts(bundled_prompts(name))[0]
            rows = sorted(rows, key=lambda row: len(row["turns"][0]))[: len(rows) * 3 // 4]  # long ones cost more than they teach
            asked += evenly_spread(rows, count // 3)
        write_prompts(path, asked)
    return read_prompts(path)[0]


def train_head(folder: Path, target, tokenizer, minutes: float) -> None:
    """A head after `minutes` of training on the folder's conversations, saved to folder/head."""
    rows = load_conversations(folder / "responses")
    limit = target.config.max_position_embeddings
    examples, _ = tokenize_conversations(rows, tokenizer, eos_token_ids=eos_token_ids(target, tokenizer), max_length=limit)
    torch.manual_seed(0)
    head, covered = new_head(target, examples, DRAFT_VOCAB_SIZE, fill_by_rank=True, fc_norm=True)
    responses = sum(sum(example["loss_mask"]) for example in examples)
    print(f"{responses} response tokens; a draft vocabulary of {DRAFT_VOCAB_SIZE} covers {covered:.1%} of them")
    arguments = Eagle3TrainingArguments(
        output_dir=str(folder / "checkpoints"), max_minutes=minutes, num_train_epochs=1000, per_device_train_batch_size=4,
        learning_rate=1e-3, ttt_curriculum=[1, 2, 4], learn_prompts=True, bf16=True, use_cpu=not torch.cuda.is_available(), report_to="none", seed=0,
        target_states_gb=4.0, train_sampling_strategy="group_by_length", logging_steps=20, save_steps=100, save_total_limit=1,
    )
    trainer = Eagle3Trainer(model=head, target=target, args=arguments, train_dataset=examples)
    trainer.states.fill(trainer.train_dataset)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder / "checkpoints"))
    scratch = folder / "head.tmp"
    head.to(torch.bfloat16).save_pretrained(scratch)
    scratch.rename(folder / "head")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def show(saved: Path, report: Path, target, tokenizer, amount: Show, started: float) -> None:
    """What a saved head does: speed in bf16, equality in float32; the report goes to a folder."""
    head = Eagle3DraftHead.from_pretrained(saved, dtype=torch.bfloat16).eval()
    answers = evaluate(target, tokenizer, head, load_suite(per_category=amount.fast_prompts), max_new_tokens=amount.fast_tokens)
    summaries = by_category(answers)
    write_report(report, summaries, {"target": TARGET, "tree": str(head.tree), "temperature": 0, **machine(target)})
    print(f"\n{markdown_table(summaries)}\n\nNow in float32, where equality is a promise:")
    exact_target, _ = load_target(TARGET, dtype=torch.float32)
    exact_head = Eagle3DraftHead.from_pretrained(saved, dtype=torch.float32).eval()
    exact = evaluate(exact_target, tokenizer, exact_head, load_suite(per_category=amount.exact_prompts), max_new_tokens=amount.exact_tokens)
    show_side_by_side(tokenizer, exact)
    last_screen(saved, summaries["all"], by_category(exact)["all"], exact, time.perf_counter() - started)


def show_side_by_side(tokenizer, answers) -> None:
    """The first lines of one answer per category, both ways."""
    shown = {answer.prompt["category"]: answer for answer in reversed(answers)}
    for category, answer in shown.items():
        print(f"\n{category}: {textwrap.shorten(answer.prompt['turns'][0], 100)}")
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in (answer.plain_ids, answer.fast_ids)]
        columns = [textwrap.wrap(text, 56)[:5] for text in texts]
        print(f"  {'generate':<58}with the head")
        for row in range(max(map(len, columns))):
            left, right = (column[row] if row < len(column) else "" for column in columns)
            print(f"  {left:<58}{right}")


def last_screen(saved: Path, fast: Summary, exact: Summary, answers, seconds: float) -> None:
    """Tau, speed, equality, and what to do next."""
    differing = [answer for answer in answers if answer.difference is not None]
    errors = [answer for answer in differing if not answer.difference.is_tie]
    print(f"\n{'=' * 78}")
    print(f"tau: {fast.tau:.2f} tokens per round of the target ({fast.prompts} prompts never trained on, bf16, greedy)")
    print(f"speed: {fast.speedup:.2f}x generate in bf16, {exact.speedup:.2f}x in float32")
    for name, summary in (("bf16", fast), ("float32", exact)):
        if summary.speedup < 1:
            print(f"speculation does not pay in {name} on this machine: reading several tokens at once costs it too much")
    print(f"outputs identical: {'no' if errors else 'yes'} ({len(answers)} answers in float32)")
    for answer in differing:
        print(f"  {answer.prompt['id']} parts at token {answer.difference.position}, top-2 gap {answer.difference.gap:.1e}")
    print(f"the head: {saved}  ({seconds / 60:.1f} minutes so far)")
    print(f'use it: target.generate(**inputs, assistant_model=Eagle3DraftHead.from_pretrained("{saved}"))')
