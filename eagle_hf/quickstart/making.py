"""Steps 3 to 5 of the quickstart: prompts, the target's responses, and training on them.

Chat prompts are the target's own (Magpie, arXiv 2406.08464), code and maths prompts are bundled.
"""

import shutil
from pathlib import Path
from typing import Any

import torch

from eagle_hf.data import load_conversations, load_suite, prepare_examples
from eagle_hf.data.prompts.suites import first_turn_ids
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.measuring.acceptance import measure_acceptance, save_acceptance
from eagle_hf.pipeline import (
    AnswerStepSettings,
    DataConfig,
    LocalExecutor,
    PromptSettings,
    RunTarget,
    run_data,
)
from eagle_hf.quickstart.budget import BATCH, MAGPIE_TOKENS, RESPONSE_TOKENS, affordable_prompts
from eagle_hf.quickstart.screens import LOOK, print_heading
from eagle_hf.quickstart.targets import TARGET, Targets
from eagle_hf.training import Eagle3Trainer, Eagle3TrainingArguments, last_checkpoint, new_head

DRAFT_VOCAB_SIZE = 8192
BUNDLED = ("train_code_codeio", "train_math_reasoning_gym")
# prompts of each category that acceptance is measured on; none of them is shown
ACCEPTANCE_PROMPTS = 2


def make_head(
    folder: Path, targets: Targets, minutes: float, prompts: int, started: float
) -> int | None:
    """Collect prompts, let the target answer them, and train a head into folder/head.

    Args:
        folder: where every step keeps its result.
        targets: the target.
        minutes: of training.
        prompts: at most.
        started: `time.perf_counter()` at the start of the quickstart.

    Returns:
        The number of prompts, None where the folder already holds a head.
    """
    if (folder / "head" / "config.json").is_file():
        print(f"\n{folder / 'head'} is there from an earlier run; delete it to train again")
        return None
    count = affordable_prompts(folder / "prompts.json", targets, minutes, prompts, started)
    config = data_config(folder, count)
    run_target = RunTarget(config, opened=(targets.fastest_for("batch"), targets.tokenizer))
    executor = LocalExecutor(run_target)

    fewer = ""
    if count != prompts:
        fewer = f" ({prompts} would take this machine longer than a quarter of an hour)"
    print_heading(
        3, f"Prompts: {count} user turns{fewer}, a third of them written by the target itself"
    )
    run_data(config, run_target, executor, only=["prompts"])

    print_heading(
        4, "Responses: the target answers, because a head must learn this target's own words"
    )
    run_data(config, run_target, executor)

    print_heading(5, f"Training for {minutes:g} minutes")
    train_head(folder, targets, minutes)
    return count


def data_config(folder: Path, count: int) -> DataConfig:
    """Say what data is made: a third chat, a third code, a third maths.

    Args:
        folder: of the quickstart.
        count: of all prompts.

    Returns:
        The settings of a data run into folder/data.
    """
    of_each = count // 3
    return DataConfig(
        target=TARGET,
        output_dir=str(folder / "data"),
        # Without privacy: nobody wrote these prompts.
        steps=["prompts", "answers", "conversations"],
        prompts=PromptSettings(
            sources=list(BUNDLED),
            per_source=of_each,
            # The longest quarter costs more than it teaches.
            shortest_share=0.75,
            magpie=count - 2 * of_each,
            magpie_max_new_tokens=MAGPIE_TOKENS,
            magpie_batch_size=64,
        ),
        answers=AnswerStepSettings(max_new_tokens=RESPONSE_TOKENS, batch_size=BATCH),
    )


def train_head(folder: Path, targets: Targets, minutes: float) -> None:
    """Train a head on the folder's conversations, and save it to folder/head.

    Args:
        folder: holds the data; checkpoints are kept there meanwhile.
        targets: the target.
        minutes: of training.
    """
    # 1) conversations as token ids
    target = targets.fastest_for("prefill")
    conversations = load_conversations(folder / "data" / "conversations")
    examples, _ = prepare_examples(target, targets.tokenizer, conversations)

    # 2) a new head
    torch.manual_seed(0)
    head, covered = new_head(target, examples, DRAFT_VOCAB_SIZE, fill_by_rank=True, fc_norm=True)
    response_tokens = 0
    for example in examples:
        response_tokens += sum(example["loss_mask"])
    print(
        f"{response_tokens} response tokens; a draft vocabulary of {DRAFT_VOCAB_SIZE} covers "
        f"{covered:.1%} of them"
    )

    # 3) training
    arguments = training_arguments(folder / "checkpoints", targets.device, minutes)
    trainer = Eagle3Trainer(model=head, target=target, args=arguments, train_dataset=examples)
    trainer.states.fill(trainer.train_dataset)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder / "checkpoints"))
    save_with_acceptance(head, folder / "head", targets)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def training_arguments(
    folder: Path, device: torch.device, minutes: float
) -> Eagle3TrainingArguments:
    """The settings of the quickstart's training.

    Args:
        folder: of the checkpoints.
        device: where the target is.
        minutes: of training.

    Returns:
        The arguments.
    """
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_minutes": minutes,
        "num_train_epochs": 1000,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "ttt_curriculum": [1, 2, 4],
        "learn_prompts": True,
        "use_cpu": device.type == "cpu",
        "report_to": "none",
        "disable_tqdm": False,  # quiet libraries would hide the bar
        "seed": 0,
        "target_states_gb": 4.0,
        "train_sampling_strategy": "group_by_length",
        "logging_steps": 20,
        "save_steps": 100,
        "save_total_limit": 1,
    }
    return Eagle3TrainingArguments(**settings)


def save_with_acceptance(head: Eagle3DraftHead, folder: Path, targets: Targets) -> None:
    """Save the head in bfloat16, with its acceptance on prompts that are not trained on or shown.

    Args:
        head: the trained head.
        folder: where it goes; it appears whole or not at all.
        targets: the target.
    """
    target = targets.fastest_for("draft")
    starts = []
    for question in load_suite(per_category=ACCEPTANCE_PROMPTS, leave_out=LOOK.fast_prompts):
        starts.append(first_turn_ids(targets.tokenizer, question)["input_ids"])  # [1, S]
    scratch = folder.with_suffix(".tmp")
    head.to(torch.bfloat16).save_pretrained(scratch)
    saved = Eagle3DraftHead.from_pretrained(scratch, dtype=target.dtype).to(target.device).eval()
    save_acceptance(scratch, measure_acceptance(target, saved, starts))
    scratch.rename(folder)
