"""A float32 target, a head for it, examples sampled from it, and short runs over them."""

import pytest
import torch
from tiny import tiny_head, tiny_target

from eagle_hf import Eagle3Trainer, Eagle3TrainingArguments


@pytest.fixture(scope="module")
def target():
    return tiny_target(dtype=torch.float32)


@pytest.fixture
def head(target):
    return tiny_head(target)


@pytest.fixture(scope="module")
def examples(target):
    """Tokenised conversations sampled from the target.

    Four prompt tokens, the rest response, lengths 20 to 39.
    """
    torch.manual_seed(0)
    prompts = torch.randint(3, 31, (24, 4))
    ids = target.generate(prompts, max_new_tokens=36, do_sample=True, top_k=0, eos_token_id=None)
    conversations = []
    for i in range(20):
        conversation = {
            "id": f"c{i}",
            "input_ids": ids[i, : 20 + i].tolist(),
            "loss_mask": [0] * 4 + [1] * (16 + i),
        }
        conversations.append(conversation)
    return conversations


def make_arguments(folder, **overrides):
    """The arguments of a run of six steps, float32, on the CPU."""
    settings = dict(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        max_steps=6,
        learning_rate=3e-3,
        ttt_length=3,
        report_to="none",
        save_strategy="no",
        logging_steps=2,
        disable_tqdm=True,
        use_cpu=True,
        seed=1,
        bf16=False,
    )
    return Eagle3TrainingArguments(**settings | overrides)


@pytest.fixture
def arguments():
    """arguments(folder, **overrides)."""
    return make_arguments


@pytest.fixture
def trained():
    """trained(target, head, rows, folder, resume=None, eval_dataset=None, **overrides).

    Gives the trainer, after training.
    """

    def run(target, head, rows, folder, resume=None, eval_dataset=None, **overrides):
        trainer = Eagle3Trainer(
            model=head,
            target=target,
            args=make_arguments(folder, **overrides),
            train_dataset=rows,
            eval_dataset=eval_dataset,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run
