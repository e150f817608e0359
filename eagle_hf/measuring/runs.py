"""Decoding runs behind prompts that are read once, for timing and for comparing.

B batch, S prompt tokens.
"""

from collections.abc import Callable

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
)

from eagle_hf.compat import GENERATE_CACHE, AssistedCall, last_logits
from eagle_hf.decoding.assistants import DraftContext, require_assistant
from eagle_hf.decoding.caches.target import TargetCache
from eagle_hf.decoding.checks import check_rope
from eagle_hf.decoding.compiling import mark_cudagraph_step
from eagle_hf.decoding.forward import TargetForward
from eagle_hf.decoding.loop import Round, Run
from eagle_hf.decoding.masks import MaskFormat
from eagle_hf.decoding.prefill import Prefilled
from eagle_hf.decoding.snapkv import recorded
from eagle_hf.decoding.stats import DecodingStats, Stopwatch
from eagle_hf.head.trees import TreeConfig
from eagle_hf.measuring.timing import timed
from eagle_hf.planning.cost import CostTable
from eagle_hf.target import unwrap

# Seconds, and tokens emitted over all rows.
Timing = tuple[float, int]


def greedy_call(ids: torch.Tensor, new_tokens: int) -> AssistedCall:
    """The call of generate that decodes greedily until every row has `new_tokens` more.

    Rows that end stay in the batch.
    """
    limit = ids.shape[1] + new_tokens
    config = GenerationConfig(max_length=limit, do_sample=False, return_dict_in_generate=True)
    criteria = StoppingCriteriaList([MaxLengthCriteria(limit)])
    return AssistedCall(ids, LogitsProcessorList(), criteria, config)


class PrefilledPrompt:
    """Prompts [B, S] of one length, as a target has read them for an assistant.

    Attributes:
        prefilled: the target's cache, the logits at the prompts' ends, and what the drafter needs.
    """

    @torch.no_grad()
    def __init__(self, target, assistant, input_ids: torch.Tensor):
        self.target = target
        self.ids = input_ids
        self.assistant = assistant
        cache = TargetCache()
        context = DraftContext.without_run(target, cache, TreeConfig())
        drafter = require_assistant(assistant).drafter(context)
        forward = TargetForward(target, cache, drafter.aux_layer_ids)
        selection = drafter.prefill_selection(self.attention_mask.bool())
        inputs = {"attention_mask": self.attention_mask} | last_logits(unwrap(target))
        with recorded(selection):
            logits, aux = forward.read_prompt(input_ids, **inputs)
        self.prefilled = Prefilled(cache, logits[:, -1], aux, selection)

    @property
    def attention_mask(self) -> torch.Tensor:
        """Ones [B, S]."""
        return torch.ones_like(self.ids)

    @property
    def first(self) -> torch.Tensor:
        """The target's token [B, 1] after each prompt."""
        return self.prefilled.logits.argmax(-1, keepdim=True)


class TimedRun:
    """Greedy decoding behind prompts, from the second round until a row has `new_tokens`.

    Args:
        prompt: the prompts.
        tree: what the assistant drafts; None for its own.
        new_tokens: of the longest row.

    Raises:
        ValueError: the rows would end beyond what the target's RoPE lets a tree read.
    """

    def __init__(self, prompt: PrefilledPrompt, tree: TreeConfig | None, new_tokens: int):
        check_rope(prompt.target, prompt.ids.shape[1] + new_tokens)
        self.prompt = prompt
        self.tree = tree
        self.new_tokens = new_tokens

    @torch.no_grad()
    def start(self, watch: Stopwatch | None = None) -> Run:
        """A run behind the prompts' first round, in which the drafter reads them too.

        Args:
            watch: where its seconds go; None for a stopwatch of its own.

        Raises:
            ValueError: where a row ends with that round.
        """
        prompt = self.prompt
        call = greedy_call(prompt.ids, self.new_tokens)
        assistant = require_assistant(prompt.assistant)
        run = Run(prompt.target, assistant, call, self.tree, watch=watch)
        run.prefill({"attention_mask": prompt.attention_mask}, prompt.prefilled)
        if not self._has_ended(run):
            run.round()
        if self._has_ended(run):
            raise ValueError(
                f"new_tokens is {self.new_tokens}, and a row ended with the first round: there is "
                "nothing left to time; decode more"
            )
        return run

    def decode(self) -> Timing:
        """Seconds and tokens of the rounds until a row has ended."""
        run = self.start()
        before = sum(run.sequences.lengths)
        seconds = timed(lambda: finish(run), self.prompt.ids.device)
        run.cache.release()
        return seconds, sum(run.sequences.lengths) - before

    @torch.no_grad()
    def predicted(self, table: CostTable) -> tuple[float, DecodingStats]:
        """Tokens per second of these rounds by a table's seconds, and what the run did."""
        run = self.start()
        seconds = 0.0
        tokens = 0
        while not self._has_ended(run):
            cell = table.at(len(run.sequences.in_batch), max(run.sequences.running_lengths))
            done = run.round()
            seconds += cell.round_seconds(done.nodes, done.widths)
            tokens += done.tokens
        run.cache.release()
        return tokens / seconds, run.statistics()

    @staticmethod
    def _has_ended(run: Run) -> bool:
        return any(run.sequences.finished)


@torch.no_grad()
def finish(run: Run) -> list[Round]:
    """Run every round that is left while all rows run.

    Args:
        run: begun by `TimedRun.start`.

    Returns:
        What each round did.
    """
    rounds = []
    while not any(run.sequences.finished):
        rounds.append(run.round())
    return rounds


def hf_generate(prompt: PrefilledPrompt, new_tokens: int) -> Callable[[], Timing]:
    """A function that decodes `new_tokens` by `generate` alone."""
    ids = torch.cat([prompt.ids, prompt.first], dim=1)
    settings = dict(
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )

    def decode() -> Timing:
        cache = prompt.prefilled.cache.copy_to(DynamicCache())
        outputs = []

        def generate() -> None:
            output = prompt.target.generate(ids, **{GENERATE_CACHE: cache}, **settings)
            outputs.append(output)

        seconds = timed(generate, ids.device)
        return seconds, outputs[0][:, ids.shape[1] :].numel()

    return decode


def plain_loop(prompt: PrefilledPrompt, new_tokens: int) -> Callable[[], Timing]:
    """A function that decodes `new_tokens` by one-token forwards, and nothing else.

    Its cache is not copied: the leanest loop over the forwards that a cost table knows.
    """
    limit = prompt.ids.shape[1] + new_tokens

    def decode() -> Timing:
        cache = prompt.prefilled.cache.copy_to(TargetCache(limit=limit))
        outputs = []

        def loop() -> None:
            outputs.append(decode_one_by_one(prompt.target, cache, prompt.first, new_tokens))

        seconds = timed(loop, prompt.ids.device)
        return seconds, outputs[0].numel()

    return decode


@torch.no_grad()
def decode_one_by_one(target, cache: TargetCache, token: torch.Tensor, count: int) -> torch.Tensor:
    """The target's next `count` tokens [B, count] after `token` [B, 1].

    cache: the text before it, without padding.
    """
    run = PlainRun(target, cache, token)
    tokens = []
    for _ in range(count):
        run.step()
        tokens.append(run.token)
    return torch.cat(tokens, dim=1)


class PlainRun:
    """Plain greedy decoding by forwards of one token a row.

    Args:
        target: a causal LM.
        cache: the text before `token`, without padding. One with a capacity keeps its size.
        token: the newest token [B, 1].
        watch: where the seconds go; None for a stopwatch of its own.

    Attributes:
        token: the newest token [B, 1].
    """

    def __init__(
        self, target, cache: TargetCache, token: torch.Tensor, watch: Stopwatch | None = None
    ):
        self.cache = cache
        self.token = token
        self.watch = watch or Stopwatch(token.device)
        self._mask_format = MaskFormat(target)
        self._forward = TargetForward(target, cache)
        self._is_captured = cache.capacity is not None and token.device.type == "cuda"

    @torch.no_grad()
    def step(self) -> None:
        """Read the newest token and choose the next."""
        if self._is_captured:
            mark_cudagraph_step()
        base = self.cache.get_seq_length()
        with self.watch.phase("accept"):
            count = self.cache.capacity or base + 1
            slots = torch.arange(count, device=self.token.device).expand(len(self.token), -1)
            position = slots[:, base : base + 1]
            # without a mask, sdpa copies the cache
            seen = (slots <= base)[:, None]
            mask = self._mask_format(seen, position, slots)
        with self.watch.phase("target"):
            logits, _ = self._forward.read_nodes(self.token, position, mask, base)
        with self.watch.phase("accept"):
            # max: argmax is six times slower in bf16 on a CPU
            self.token = logits[:, -1].max(-1).indices[:, None]
