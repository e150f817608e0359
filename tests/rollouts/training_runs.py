"""A tiny policy, trained by TRL for some steps: with its rollouts drafted, or not."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tiny import tiny_target, word_tokenizer
from trl import GRPOConfig, GRPOTrainer

PROMPTS = ["w5 w6", "w7", "w8 w9 w10", "w11 w12", "w13", "w14 w15"]
COMMON = dict(
    learning_rate=1e-2,
    logging_steps=1,
    save_strategy="no",
    report_to="none",
    use_cpu=True,
    bf16=False,
    seed=0,
    disable_tqdm=True,
    dataloader_pin_memory=False,
    gradient_checkpointing=False,
)


def reward(completions: list[str], **_: Any) -> list[float]:
    """The share of a completion's words that have an even number."""
    shares = []
    for text in completions:
        numbers = [int(word.removeprefix("w")) for word in text.split()]
        even = sum(number % 2 == 0 for number in numbers)
        shares.append(even / max(len(numbers), 1))
    return shares


def prompts(count: int) -> Dataset:
    """So many prompts, the same ones again and again."""
    return Dataset.from_list([{"prompt": PROMPTS[i % len(PROMPTS)]} for i in range(count)])


def policy(seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """A tiny random causal LM."""
    return tiny_target(seed=seed, dtype=dtype).train()


def grpo(
    folder: Path,
    model: Any,
    callbacks: list,
    steps: int = 4,
    peft_config: LoraConfig | None = None,
    **settings: Any,
) -> GRPOTrainer:
    """A GRPO trainer of two prompts a step, with groups of four."""
    arguments = COMMON | dict(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=10,
    )
    return GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=GRPOConfig(**(arguments | settings)),
        train_dataset=prompts(64),
        processing_class=word_tokenizer(),
        callbacks=callbacks,
        peft_config=peft_config,
    )


def lora() -> LoraConfig:
    """A small LoRA of the policy."""
    return LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """A copy of a model's weights."""
    return {name: part.detach().clone() for name, part in model.state_dict().items()}


def logged(trainer: Any, name: str) -> list[float]:
    """The values of one name in a trainer's log."""
    return [line[name] for line in trainer.state.log_history if name in line]
