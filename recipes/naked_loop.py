"""What Eagle3Trainer does, on one page: training-time test without the Trainer.

To read, to copy, to change. Training-time test is from the EAGLE-3 paper (arXiv 2503.01840): the
head is unrolled on its own outputs, as it will draft.

Hardware: as recipes/train.py; one process, float32, no checkpoints.
Duration: as recipes/train.py with as many steps.
Command:  python recipes/naked_loop.py --target smollm2 \\
              --dataset outputs/smollm2-data/conversations --output_dir outputs/naked \\
              --max_steps 200
Expected: the losses of recipes/train.py with the same batches, as a test checks, and a head that
          `from_pretrained` opens.

B batch, S sequence, H hidden.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from transformers import get_scheduler
from trl import TrlParser

from eagle_hf import Eagle3DraftHead, new_head
from eagle_hf.data import Example, load_conversations, prepare_examples, write_run
from eagle_hf.evaluation import open_target
from eagle_hf.target import aux_layer_ids, draft_vocab_logits
from eagle_hf.training import TargetStates, ask_teacher, collate, ttt_loss


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
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of another tokenizer; default: the target's."},
    )
    draft_vocab_size: int = field(default=8192, metadata={"help": "Tokens the head can propose."})
    batch_size: int = field(default=4, metadata={"help": "Conversations a step."})
    max_steps: int = field(default=200, metadata={"help": "Optimiser steps."})
    learning_rate: float = field(
        default=1e-4, metadata={"help": "At the start; it falls linearly to zero."}
    )
    ttt_length: int = field(default=3, metadata={"help": "Unrolled passes."})
    seed: int = field(default=0, metadata={"help": "Of the head's random weights."})


def train(
    target: Any,
    head: Eagle3DraftHead,
    examples: list[Example],
    steps: int,
    batch_size: int,
    learning_rate: float,
    ttt_length: int,
) -> Iterator[float]:
    """Yield the loss per learnt token of every step; the examples are taken in turn."""
    states = TargetStates(target, aux_layer_ids(target, head.config))
    teacher_logits = draft_vocab_logits(target, head.draft_to_target)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0
    )
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=steps)
    head.train()
    for step in range(steps):
        # 1) a batch of conversations
        batch = next_batch(examples, step * batch_size, batch_size, target.device)

        # 2) the target runs, frozen: aux hidden states [B, S, 3H], final states [B, S, H], argmax
        batch |= states.run_target(batch)
        teacher = ask_teacher(batch, teacher_logits, head.draft_to_target)

        # 3) the head drafts as it will at decoding; slot p sees the embedding of token p + 1
        next_ids = batch["input_ids"].roll(-1, dims=1)  # [B, S]
        embeddings = target.get_input_embeddings()(next_ids)  # [B, S, H]
        outputs = head(
            embeddings.to(head.dtype),
            batch["aux_hidden_states"].to(head.dtype),
            ttt_length=ttt_length,
        )

        # 4) the loss over all passes, and a step
        loss, _, _ = ttt_loss(head, outputs, teacher)
        loss = loss / (batch["labels"] != -100).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        yield loss.item()


def next_batch(
    examples: list[Example], start: int, size: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """The next examples, beginning again after the last, as one padded batch on a device."""
    chosen = [examples[(start + offset) % len(examples)] for offset in range(size)]
    batch = {}
    for name, part in collate(chosen).items():
        if name != "id":
            batch[name] = part.to(device)
    return batch


def main() -> None:
    (arguments,) = TrlParser((Arguments,)).parse_args_and_config()
    target, tokenizer = open_target(
        arguments.target, tokenizer=arguments.tokenizer, dtype=torch.float32
    )
    conversations = load_conversations(arguments.dataset)
    examples, _ = prepare_examples(target, tokenizer, conversations)
    torch.manual_seed(arguments.seed)
    head, covered = new_head(target, examples, arguments.draft_vocab_size, fill_by_rank=True)
    losses = train(
        target,
        head.to(target.device),
        examples,
        steps=arguments.max_steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        ttt_length=arguments.ttt_length,
    )
    loss = None
    for step, loss in enumerate(losses):
        print(f"step {step}: loss {loss:.4f}", flush=True)
    head.save_pretrained(arguments.output_dir)
    metrics = {"loss": loss, "steps": arguments.max_steps, "coverage": covered}
    write_run(arguments.output_dir, asdict(arguments), metrics)


if __name__ == "__main__":
    main()
