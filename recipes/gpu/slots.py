"""Many texts continued at once: rows of one static cache, filled again as soon as a text ends.

On a GPU one token of all rows is one replay of a CUDA graph, and no row waits for the longest.

R rows, T slots of a row, P longest prompt of a filling, V vocabulary, g key heads, D head width.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, Cache
from transformers.cache_utils import DynamicLayer

from eagle_hf.compat import GENERATE_CACHE

ATTENTION = "eagle_hf_slots"
STEPS = 16  # tokens of every row between two looks at which rows have ended
FILLED_TOGETHER = 128  # rows
MULTIPLE = 64  # prompts are padded to multiples of this
LEAST_SHARE = 0.05  # of the best token's probability, below which a token is not sampled


@dataclass(eq=False)
class Text:
    """A text to be continued.

    Args:
        ids: the tokens so far.
        limit: tokens, prompt and continuation together.
        temperature: 0 is greedy.
        note: what the caller wants back.
    """

    ids: list[int]
    limit: int
    temperature: float = 0.0
    note: Any = None


def attend(module, query, key, value, attention_mask, scaling: float, **kwargs):
    """Attention over a prompt, or from one token of every row to its own slots."""
    if query.shape[2] == 1:
        return attend_slots(query, key, value, attention_mask, scaling), None
    repeats = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(repeats, dim=1)
    value = value.repeat_interleave(repeats, dim=1)
    output = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    return output.transpose(1, 2), None


def attend_slots(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """Two batched products, that read every key and value once.

    Args:
        query: [R, h, 1, D].
        key: [R, g, T, D].
        value: [R, g, T, D].
        mask: [R, 1, 1, T], True where a row may look.
        scale: factor of the scores.

    Returns:
        [R, 1, h, D].
    """
    rows, groups, slots, width = key.shape
    grouped = query.reshape(rows * groups, -1, width)  # [R g, h / g, D]
    scores = grouped @ key.view(rows * groups, slots, width).transpose(1, 2)
    scores = scores.view(rows, groups, -1, slots).float() * scale
    weights = scores.masked_fill_(~mask, float("-inf")).softmax(-1).to(value.dtype)
    output = weights.view(rows * groups, -1, slots) @ value.view(rows * groups, slots, width)
    return output.view(rows, 1, -1, width)


class SlotLayer(DynamicLayer):
    """Keys and values [R, g, T, D] of one layer; the cache says where new ones go."""

    def __init__(self, cache: "SlotCache", keys: torch.Tensor):
        super().__init__()
        self.cache = cache
        self.keys = keys
        self.values = torch.zeros_like(keys)
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        if self.cache.filled is not None:
            self.keys[self.cache.filled, :, : key_states.shape[2]] = key_states
            self.values[self.cache.filled, :, : key_states.shape[2]] = value_states
            return key_states, value_states
        self.keys[self.cache.rows, :, self.cache.lengths] = key_states[:, :, 0]
        self.values[self.cache.rows, :, self.cache.lengths] = value_states[:, :, 0]
        return self.keys, self.values


class SlotCache(Cache):
    """The cache of all rows.

    Attributes:
        lengths: [R], the slot of every row that its next token goes to.
        filled: the rows whose prompts are read now; None while all rows read one token.
    """

    def __init__(self, config: Any, rows: int, size: int, like: torch.Tensor):
        self.rows = torch.arange(rows, device=like.device)
        self.lengths = torch.zeros_like(self.rows)
        self.filled: torch.Tensor | None = None
        width = config.head_dim
        shape = (rows, config.num_key_value_heads, size, width)
        layers = [SlotLayer(self, like.new_zeros(shape)) for _ in range(config.num_hidden_layers)]
        super().__init__(layers=layers)


class Slots:
    """Continues texts.

    Args:
        target: a Llama; its attention is replaced.
        rows: R.
        size: T, the longest text.
        stop: tokens that end a text.
    """

    def __init__(self, target: Any, rows: int, size: int, stop: list[int]):
        AttentionInterface.register(ATTENTION, attend)
        target.set_attn_implementation(ATTENTION)
        self.target = target
        device = target.device
        self.cache = SlotCache(target.config, rows, size, target.lm_head.weight)
        self.lengths = self.cache.lengths
        self.columns = torch.arange(size, device=device)
        self.stop = torch.tensor(stop, device=device)
        self.ids = torch.zeros(rows, size, dtype=torch.long, device=device)
        self.limits = torch.full((rows,), 2, device=device)
        self.active = torch.zeros(rows, dtype=torch.bool, device=device)
        self.temperatures = torch.zeros(rows, device=device)
        self.texts: list[Text | None] = [None] * rows
        self.graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            self.capture()

    @torch.no_grad()
    def step(self) -> None:
        """Choose one token for every row that has not ended."""
        rows = self.cache.rows
        newest = self.ids[rows, self.lengths]
        mask = self.columns <= self.lengths[:, None]  # [R, T]
        states = self.target.model(
            input_ids=newest[:, None],
            position_ids=self.lengths[:, None],
            attention_mask=mask[:, None, None],
            use_cache=True,
            **{GENERATE_CACHE: self.cache},
        )
        logits = self.target.lm_head(states.last_hidden_state[:, 0]).float()  # [R, V]
        chosen = choose(logits, self.temperatures[:, None])
        self.lengths += self.active
        self.ids[rows, self.lengths] = torch.where(self.active, chosen, newest)
        self.active &= ~torch.isin(chosen, self.stop) & (self.lengths + 1 < self.limits)

    def capture(self) -> None:
        """Make the graph of a step."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()

    @torch.no_grad()
    def fill(self, rows: list[int], texts: list[Text]) -> None:
        """Read the prompts of texts into free rows."""
        longest = max(len(text.ids) for text in texts)
        width = min(-(-longest // MULTIPLE) * MULTIPLE, len(self.columns))
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, : len(text.ids)] = torch.tensor(text.ids)
        ids = ids.to(self.ids.device)
        where = torch.tensor(rows, device=ids.device)
        self.cache.filled = where
        self.target.model(
            input_ids=ids,
            position_ids=self.columns[None, :width],
            use_cache=True,
            **{GENERATE_CACHE: self.cache},
        )
        self.cache.filled = None
        self.ids[where, :width] = ids
        device = ids.device
        self.lengths[where] = torch.tensor([len(text.ids) - 1 for text in texts], device=device)
        self.limits[where] = torch.tensor([text.limit for text in texts], device=device)
        self.temperatures[where] = torch.tensor([text.temperature for text in texts], device=device)
        self.active[where] = True
        for row, text in zip(rows, texts, strict=True):
            self.texts[row] = text

    def run(self, queue: deque[Text]) -> Iterator[tuple[Text, list[int]]]:
        """Continue every text of a queue, which may grow while this runs.

        Yields:
            (text, the tokens that follow it), in the order in which they end.
        """
        while queue or any(text is not None for text in self.texts):
            self.refill(queue)
            for _ in range(STEPS):
                self.graph.replay() if self.graph else self.step()
            yield from self.ended()

    def refill(self, queue: deque[Text]) -> None:
        """Give free rows the first texts of the queue."""
        free = [row for row, text in enumerate(self.texts) if text is None]
        texts = [queue.popleft() for _ in range(min(len(free), len(queue)))]
        texts.sort(key=lambda text: len(text.ids))
        for start in range(0, len(texts), FILLED_TOGETHER):
            some = texts[start : start + FILLED_TOGETHER]
            self.fill(free[start : start + len(some)], some)

    def ended(self) -> list[tuple[Text, list[int]]]:
        """Take out the texts that have ended."""
        active = self.active.tolist()
        rows = [row for row, text in enumerate(self.texts) if text and not active[row]]
        if not rows:
            return []
        where = torch.tensor(rows, device=self.ids.device)
        ids = self.ids[where].tolist()
        lengths = self.lengths[where].tolist()
        found = []
        for row, tokens, length in zip(rows, ids, lengths, strict=True):
            text = self.texts[row]
            assert text is not None
            found.append((text, tokens[len(text.ids) : length + 1]))
            self.texts[row] = None
        return found


def choose(logits: torch.Tensor, temperatures: torch.Tensor) -> torch.Tensor:
    """The next token [R] from logits [R, V] at temperatures [R, 1], 0 being greedy.

    Sampling is the Gumbel trick. Tokens below a twentieth of the best one's probability are left
    out (min-p).
    """
    tiny = torch.finfo(logits.dtype).tiny
    noise = -torch.empty_like(logits).exponential_().clamp_(min=tiny).log_()
    lowest = logits.amax(-1, keepdim=True) + temperatures * math.log(LEAST_SHARE)
    noisy = torch.where(logits >= lowest, logits + temperatures * noise, float("-inf"))
    return noisy.argmax(-1)
