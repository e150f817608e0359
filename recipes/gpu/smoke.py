"""Every path of a device, once, on small models: does it run, and are the tokens plain decoding's?

B batch, S prompt tokens.
"""

import time
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import product
from typing import Any

import torch
from cells import Cell, Setting
from models import SHAPES, known_target, oracle, random_head
from speed import stance_of

from eagle_hf import SelfSpeculation, TreeConfig, WindowedDraft

NEW_TOKENS = 32
TREE = TreeConfig(depth=4, top_k=4, nodes=12)
CHAIN = TreeConfig("chain", depth=3)
FLOAT32 = torch.float32
BFLOAT16 = torch.bfloat16
FLOAT16 = torch.float16
FLASH = "flash_attention_2"
# (dtype, mode, who drafts, how the target attends): the compiler takes longest, so it meets each
# drafter once
PATHS = (
    (BFLOAT16, "compiled", ("head",), "sdpa"),
    (FLOAT32, "captured", ("head", "window", "itself"), "sdpa"),
    (BFLOAT16, "captured", ("head", "window"), "sdpa"),
    (FLOAT32, "eager", ("head", "model", "window", "itself"), "sdpa"),
    (FLOAT32, "fixed", ("head", "window", "itself"), "sdpa"),
    (BFLOAT16, "eager", ("head",), "sdpa"),
    (FLOAT16, "eager", ("head",), "sdpa"),
    (BFLOAT16, "eager", ("head",), FLASH),
    (BFLOAT16, "compiled", ("window", "itself"), "sdpa"),
)
BATCHES = {"1": [19], "8": [19, 3, 7, 19, 11, 2, 5, 13]}  # prompt tokens of each row


def prompts(target: Any, lengths: list[int]) -> dict[str, torch.Tensor]:
    """Random prompts of these lengths as one left-padded batch [B, S]."""
    generator = torch.Generator().manual_seed(1)
    shape = (len(lengths), max(lengths))
    ids = torch.randint(3, target.config.vocab_size, shape, generator=generator)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        mask[row, shape[1] - length :] = 1
    return {"input_ids": (ids * mask).to(target.device), "attention_mask": mask.to(target.device)}


def drafter(name: str, target: Any) -> Any:
    """What drafts for a target; the head's best proposal is right with a chance of 0.7."""
    if name == "head":
        return oracle(random_head(target, SHAPES["toy"]), target, 0.7)
    if name == "itself":
        return SelfSpeculation(4, 32)
    small = known_target(SHAPES["toy"], target.dtype, target.device)
    return WindowedDraft(small, window=None) if name == "model" else WindowedDraft(small, 4, 32)


def decode(target: Any, inputs: dict, mode: str, assistant: Any = None, **settings) -> torch.Tensor:
    """The new tokens, with one seed; `fixed` is what `compiled` compiles, run as it is."""
    torch.manual_seed(0)
    with stance_of(mode):
        output = target.generate(
            **inputs,
            assistant_model=assistant,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=None,
            pad_token_id=0,
            **settings,
        )
    return output[:, inputs["input_ids"].shape[1] :]


@dataclass(frozen=True)
class Path:
    """One way of decoding.

    Args:
        drafts: who drafts.
        mode: how forwards run, see `stance_of`.
        dtype: of target and drafter.
        attention: of the target.
        batch: a key of BATCHES.
        sampled: and not greedy.
    """

    drafts: str
    mode: str
    dtype: torch.dtype
    attention: str
    batch: str
    sampled: bool

    @property
    def name(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        way = "sampled" if self.sampled else "greedy"
        return f"{self.drafts}, {self.mode}, {dtype}, {self.attention}, batch {self.batch}, {way}"


def paths() -> list[Path]:
    """All ways; sampling is compared at batch 1 alone, where tokens are promised."""
    found = []
    for dtype, mode, names, attention in PATHS:
        for drafts, batch in product(names, BATCHES):
            found.append(Path(drafts, mode, dtype, attention, batch, sampled=False))
            if batch == "1":
                found.append(Path(drafts, mode, dtype, attention, batch, sampled=True))
    return found


def cells(setting: Setting) -> list[Cell]:
    """One cell a path."""
    return [Cell(path.name, partial(checked, path, setting)) for path in paths()]


def checked(path: Path, setting: Setting) -> dict:
    """Whether a path's tokens are plain decoding's, and what it accepts.

    Raises:
        ValueError: it cannot run here.
    """
    mode = path.mode
    if path.attention == FLASH and find_spec("flash_attn") is None:
        raise ValueError("flash_attn is not installed")
    if setting.device.type != "cuda" and mode != "eager":
        # on a CPU compile=True is another thing: minutes of a C++ compiler
        raise ValueError("fixed sizes and CUDA graphs exist on a CUDA GPU alone")
    target = known_target(SHAPES["toy"], path.dtype, setting.device)
    assistant = drafter(path.drafts, target)
    tree = TREE if path.drafts == "head" else CHAIN
    assistant.tree = replace(tree, compile=mode != "eager")
    target.set_attn_implementation(path.attention)
    inputs = prompts(target, BATCHES[path.batch])
    settings: dict[str, Any] = dict(do_sample=path.sampled)
    if path.sampled:
        # at this temperature the known token is likely, and others happen
        settings |= dict(temperature=target.config.hidden_size / 12, top_k=0)
    started = time.perf_counter()
    plain = decode(target, inputs, "eager", **settings)
    drafted = decode(target, inputs, mode, assistant, **settings)
    same = (plain == drafted).float().mean().item()
    return {
        "ok": same == 1.0,
        "same": same,
        "tau": assistant.last_run.tau,
        "seconds": round(time.perf_counter() - started, 2),
    }
