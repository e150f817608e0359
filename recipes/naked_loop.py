"""What Eagle3Trainer does, on one page: training-time test without the Trainer, to read, to copy, to change.

Hardware: as recipes/train.py; one process, float32, no checkpoints.
Command:  python recipes/naked_loop.py --target smollm2 --dataset outputs/smollm2-data/responses --output_dir outputs/naked --max_steps 200
Expected: the losses of recipes/train.py with the same batches, as a test checks; a head that `from_pretrained` opens.
"""

from dataclasses import asdict, dataclass, field

import torch
from transformers import get_scheduler
from trl import TrlParser

from eagle_hf import (
    default_device,
    eos_token_ids,
    load_conversations,
    load_target,
    new_head,
    tokenize_conversations,
    write_run,
)
from eagle_hf.target import aux_layer_ids, draft_rows
from eagle_hf.training.batches import TargetStates, collate
from eagle_hf.training.loss import ask_teacher, ttt_loss


@dataclass
class Arguments:
    """Everything there is to set."""

    target: str = field(metadata={"help": "Hub id, folder, .gguf file, or smollm2."})
    dataset: str = field(
        metadata={
            "help": "conversations.jsonl, its folder, or a hub dataset with a messages column."
        }
    )
    output_dir: str = field(metadata={"help": "Where the head goes."})
    draft_vocab_size: int = field(default=8192, metadata={"help": "Tokens the head can propose."})
    batch_size: int = field(default=4, metadata={"help": "Conversations a step."})
    max_steps: int = field(default=200, metadata={"help": "Optimiser steps."})
    learning_rate: float = field(
        default=1e-4, metadata={"help": "At the start; it falls linearly to zero."}
    )
    ttt_length: int = field(default=3, metadata={"help": "Unrolled passes."})
    seed: int = field(default=0, metadata={"help": "Of the head's random weights."})


def train(
    target, head, examples, steps: int, batch_size: int, learning_rate: float, ttt_length: int
):
    """Yield the loss per learnt token of every step; the examples are taken in their order, again and again."""
    states = TargetStates(target, aux_layer_ids(target, head.config))
    rows = draft_rows(target, head.draft_to_target)  # of the target's LM head
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0
    )
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=steps)
    head.train()
    for step in range(steps):
        batch = collate(
            [examples[(step * batch_size + i) % len(examples)] for i in range(batch_size)]
        )
        batch = {name: part.to(target.device) for name, part in batch.items() if name != "id"}
        batch |= states(batch)  # the target runs, frozen: three streams, final states, argmax
        teacher = ask_teacher(batch, rows, head.draft_to_target)
        embeddings = target.get_input_embeddings()(
            batch["input_ids"].roll(-1, dims=1)
        )  # slot p sees token p + 1
        outputs = head(
            embeddings.to(head.dtype),
            batch["aux_hidden_states"].to(head.dtype),
            ttt_length=ttt_length,
        )
        loss, hits, trials = ttt_loss(head, outputs, teacher)
        loss = loss / (batch["labels"] != -100).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        yield loss.item()


def main():
    (arguments,) = TrlParser((Arguments,)).parse_args_and_config()
    device = default_device()
    target, tokenizer = load_target(arguments.target, dtype=torch.float32, device=device)
    limit, ends = (
        target.config.get_text_config().max_position_embeddings,
        eos_token_ids(target, tokenizer),
    )
    examples, _ = tokenize_conversations(
        load_conversations(arguments.dataset), tokenizer, eos_token_ids=ends, max_length=limit
    )
    torch.manual_seed(arguments.seed)
    head, covered = new_head(target, examples, arguments.draft_vocab_size, fill_by_rank=True)
    settings = (
        arguments.max_steps,
        arguments.batch_size,
        arguments.learning_rate,
        arguments.ttt_length,
    )
    for step, loss in enumerate(train(target, head.to(device), examples, *settings)):
        print(f"step {step}: loss {loss:.4f}", flush=True)
    head.save_pretrained(arguments.output_dir)
    write_run(
        arguments.output_dir,
        asdict(arguments),
        {"loss": loss, "steps": arguments.max_steps, "coverage": covered},
    )


if __name__ == "__main__":
    main()
