"""A training step at real sizes, beside its matrix products alone, and how fast features are kept.

The limit is the time of the step's matrix products at their exact shapes: fc once, the layer's
projections and the LM head for every pass. Each counts three times: the forward, and two products
for the gradients.

B batch, S sequence, H hidden, V target vocabulary, U draft vocabulary.
"""

import shutil
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from cells import Cell, Setting
from models import SHAPES, Shape, known_target, random_head

from eagle_hf.data import Example, capture_features
from eagle_hf.measuring import timed
from eagle_hf.target import draft_vocab_logits, target_states
from eagle_hf.training import ask_teacher, ttt_loss

PASSES = 7
REPEATS = 3


@dataclass
class Step:
    """A head, its optimiser, and a row of features, every token of which is learnt."""

    shape: Shape
    device: torch.device
    length: int

    @cached_property
    def target(self) -> Any:
        """The target in bfloat16."""
        return known_target(self.shape, torch.bfloat16, self.device).requires_grad_(False)

    @cached_property
    def head(self) -> Any:
        """A head in float32, as heads are trained."""
        return random_head(self.target, self.shape).float().train()

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.head.parameters(), lr=1e-4)

    @cached_property
    def batch(self) -> dict[str, torch.Tensor]:
        """Random tokens and features [1, S, ...]."""
        shape = (1, self.length)
        hidden = self.shape.hidden
        make = partial(torch.randn, device=self.device, dtype=torch.bfloat16)
        ids = torch.randint(0, self.shape.vocabulary, shape, device=self.device)
        return {
            "input_ids": ids,
            "labels": ids,
            "attention_mask": torch.ones_like(ids),
            "aux_hidden_states": make(*shape, 3 * hidden),
            "hidden_states": make(*shape, hidden),
            "best": torch.randint(0, self.shape.drafted, shape, device=self.device),
        }

    def run(self) -> None:
        """Teacher, unrolled passes, loss, gradients, clipping, AdamW."""
        head = self.head
        batch = self.batch
        next_ids = batch["input_ids"].roll(-1, dims=1)  # [1, S]
        embeddings = self.target.get_input_embeddings()(next_ids).float()  # [1, S, H]
        rows = draft_vocab_logits(self.target, head.draft_to_target)
        teacher = ask_teacher(batch, rows, head.draft_to_target)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            aux = batch["aux_hidden_states"].float()
            outputs = head(embeddings, aux, ttt_length=PASSES)
            loss, _, _ = ttt_loss(head, outputs, teacher)
        (loss / len(teacher.best)).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 0.5)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)

    def products(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]]:
        """(inputs [N, I], weight [O, I], gradients [N, O], how often) of every layer."""
        head = self.head
        modules = [(head.fc, 1), (head.lm_head, PASSES)]
        for module in head.midlayer.modules():
            if isinstance(module, torch.nn.Linear):
                modules.append((module, PASSES))
        found = []
        make = partial(torch.randn, device=self.device, dtype=torch.bfloat16)
        for module, times in modules:
            weight = module.weight.detach().bfloat16()
            outputs, inputs = weight.shape
            found.append((make(self.length, inputs), weight, make(self.length, outputs), times))
        return found


def cells(setting: Setting) -> list[Cell]:
    """A step, and the capture of features."""
    name = "toy" if setting.rehearse else "8B"
    length = 64 if setting.rehearse else 4096
    count = 4 if setting.rehearse else 32
    step = Step(SHAPES[name], setting.device, length)
    captured = partial(capture, step, setting, count)
    described = f"{PASSES} passes, {length} tokens, bfloat16"
    return [
        Cell(f"{name}: training step, {described}", partial(measure_step, step)),
        Cell(f"{name}: capture of {count} rows of {length} tokens", captured),
    ]


def measure_step(step: Step) -> dict:
    """Seconds of a step and of its products in turn, and the most memory it takes."""
    is_gpu = step.device.type == "cuda"
    step.run()
    products = step.products()

    def multiply() -> None:
        for inputs, weight, gradients, times in products:
            for _ in range(times):
                inputs @ weight.T
                gradients @ weight
                gradients.T @ inputs

    multiply()
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(step.device)
    seconds = []
    limits = []
    for _ in range(REPEATS):
        seconds.append(timed(step.run, step.device))
        limits.append(timed(multiply, step.device))
    peak = torch.cuda.max_memory_allocated(step.device) / 1e9 if is_gpu else None
    return {
        "tokens_s": step.length / min(seconds),
        "ms_step": 1000 * min(seconds),
        "share_of_products": min(limits) / min(seconds),
        "peak_GB": peak,
    }


def capture(step: Step, setting: Setting, count: int) -> dict:
    """Tokens a second that the target reads, alone and onto the disk."""
    target = step.target
    generator = torch.Generator().manual_seed(0)
    shape = (count, step.length)
    ids = torch.randint(3, step.shape.vocabulary, shape, generator=generator)
    rows = []
    for number, row in enumerate(ids.tolist()):
        rows.append(Example(id=str(number), input_ids=row, loss_mask=[1] * step.length))
    layers = list(step.head.config.aux_layer_ids)
    read = partial(target_states, target, ids[:1].to(step.device), layers)
    with torch.no_grad():
        read()
        alone = min(timed(read, step.device) for _ in range(REPEATS))
    folder = setting.folder / "features"
    shutil.rmtree(folder, ignore_errors=True)
    write = partial(
        capture_features,
        target,
        rows,
        folder,
        layer_ids=layers,
        template_sha256="none",
        progress=False,
    )
    seconds = timed(write, step.device)
    written = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    shutil.rmtree(folder)
    return {
        "tokens_s": ids.numel() / seconds,
        "tokens_s_read_alone": step.length / alone,
        "GB_written": written / 1e9,
    }
