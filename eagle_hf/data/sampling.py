"""One batch through the target's own `generate`, left-padded, cut at the end of the turn.

The caller's random state is left alone: draws happen in a forked generator seeded per batch, so
a batch gives the same tokens whatever ran before it.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def evaluating(target) -> Iterator[None]:
    """The target without dropout inside the block, in its former mode after it."""
    was_training = target.training
    target.eval()
    try:
        yield
    finally:
        target.train(was_training)


def batch_seed(seed: int, *parts) -> int:
    """A seed that depends on `seed` and on what the batch holds, not on the batches before it."""
    digest = hashlib.sha256(repr((seed, *parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def generate_batch(
    target,
    prompts: list[list[int]],
    *,
    eos_token_ids: Iterable[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int = 0,
    assistant_model=None,
) -> list[list[int]]:
    """The tokens that follow each prompt, up to and including its end-of-turn token.

    A response without one was cut at `max_new_tokens`. Temperature 0 is greedy; settings not given here are
    those of the target's generation_config, as in any `target.generate`.
    """
    stop = sorted(eos_token_ids)
    sampling = {"do_sample": False}
    if temperature > 0:
        given = {"top_p": top_p, "top_k": top_k}
        given = {name: value for name, value in given.items() if value is not None}
        sampling = {"do_sample": True, "temperature": temperature, **given}
    input_ids, attention_mask = _left_pad(prompts, stop[0], target.device)
    devices = [target.device] if target.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), evaluating(target):
        torch.manual_seed(seed)
        output = target.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            max_new_tokens=max_new_tokens,
            assistant_model=assistant_model,
            eos_token_id=stop,
            pad_token_id=stop[0],
            **sampling,
        )
    return [_cut(row, frozenset(stop)) for row in output[:, input_ids.shape[1] :].tolist()]


def _left_pad(prompts: list[list[int]], pad: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, prompts))
    ids = [[pad] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _cut(row: list[int], stop: frozenset[int]) -> list[int]:
    end = next((p for p, token in enumerate(row) if token in stop), len(row))
    return row[: end + 1]
