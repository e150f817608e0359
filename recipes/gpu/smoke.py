"""Every path of a device, once, on small models: does it run, and are the tokens plain decoding's?

B batch, S prompt tokens.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from models import SHAPES, known_target, oracle, random_head
from speed import stance_of

from eagle_hf import SelfSpeculation, TreeConfig, WindowedDraft

NEW_TOKENS = 32
TREE = TreeConfig(depth=4, top_k=4, nodes=12)
CHAIN = TreeConfig("chain", depth=3)
FLOAT32 = torch.float32
BFLOAT16 = torch.bfloat16
FLOAT16 = torch.float16
# (dtype, mode, who drafts): the compiler takes longest, so it meets each drafter once
PATHS = (
    (BFLOAT16, "compiled", ("head",)),
    (FLOAT32, "captured", ("head", "window", "itself")),
    (BFLOAT16, "captured", ("head", "window")),
    (FLOAT32, "eager", ("head", "model", "window", "itself")),
    (FLOAT32, "fixed", ("head",)),
    (BFLOAT16, "eager", ("head",)),
    (FLOAT16, "eager", ("head",)),
    (BFLOAT16, "compiled", ("window", "itself")),
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


def smoke(device: torch.device) -> Iterator[dict]:
    """One record a path: its name, whether its tokens are plain decoding's, and what it accepts."""
    for dtype, mode, names in PATHS:
        if mode == "captured" and device.type != "cuda":
            continue
        target = known_target(SHAPES["toy"], dtype, device)
        for name, (batch, lengths) in product(names, BATCHES.items()):
            assistant = drafter(name, target)
            tree = TREE if name == "head" else CHAIN
            assistant.tree = replace(tree, compile=mode != "eager")
            inputs = prompts(target, lengths)
            label = f"{name}, {mode}, {str(dtype).removeprefix('torch.')}, batch {batch}"
            yield checked(f"{label}, greedy", target, inputs, mode, assistant, False)
            if batch == "1":
                yield checked(f"{label}, sampled", target, inputs, mode, assistant, True)


def checked(name: str, target: Any, inputs: dict, mode: str, assistant: Any, sampled: bool) -> dict:
    """The record of one path; an exception is one, too."""
    settings: dict[str, Any] = dict(do_sample=sampled)
    if sampled:
        # at this temperature the known token is likely, and others happen
        settings |= dict(temperature=target.config.hidden_size / 12, top_k=0)
    started = time.perf_counter()
    try:
        plain = decode(target, inputs, "eager", **settings)
        drafted = decode(target, inputs, mode, assistant, **settings)
    except Exception as error:  # a broken path must not hide the others
        text = f"{type(error).__name__}: {error}"
        return {"path": name, "ok": False, "error": text[:2000]}
    same = (plain == drafted).float().mean().item()
    return {
        "path": name,
        "ok": same == 1.0,
        "same": same,
        "tau": assistant.last_run.tau,
        "seconds": time.perf_counter() - started,
    }
