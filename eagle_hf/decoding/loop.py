"""The one loop: draft a tree, verify it in one target pass, commit the accepted branch.

B rows of different lengths, S prompt slots, N tree nodes, H hidden, V vocabulary. Row b's token at
index i has its keys at slot i of the target's cache. Left padding keeps its slots and is never
attended to. The newest token of a row is the root of its next tree and not yet in the cache.
"""

from dataclasses import dataclass

import torch

from eagle_hf.compat import (
    AssistedCall,
    decoder_only_output,
    padding_token,
    prepare_inputs,
    take_cache,
)
from eagle_hf.decoding.adapter_rows import adapters_by_row, chooses_by_row
from eagle_hf.decoding.assistants.base import Assistant, DraftContext, Policy, choose_policy
from eagle_hf.decoding.caches.buffers import BufferPool, discard_buffers
from eagle_hf.decoding.caches.target import TargetCache
from eagle_hf.decoding.compiling import (
    as_compiled,
    fixed_size,
    keeps_sizes,
    mark_cudagraph_step,
)
from eagle_hf.decoding.counting import count_round
from eagle_hf.decoding.forward import TargetForward, install_output_capture
from eagle_hf.decoding.growth import Draft
from eagle_hf.decoding.lockstep import make_verifier
from eagle_hf.decoding.masks import TreeMask, prompt_positions
from eagle_hf.decoding.prefill import Prefilled, chunk_size, read_prompt
from eagle_hf.decoding.repeats import Repeats, find_repeats
from eagle_hf.decoding.sampler import DraftSampler
from eagle_hf.decoding.sequences import Sequences
from eagle_hf.decoding.snapkv import recorded
from eagle_hf.decoding.stats import DecodingStats, Stopwatch
from eagle_hf.decoding.streaming import RoundStreamer
from eagle_hf.decoding.tree import Tree
from eagle_hf.decoding.verify import Verdict
from eagle_hf.head.trees import TreeConfig


@dataclass(frozen=True)
class Round:
    """What one round did.

    Attributes:
        nodes: drafts per row that the target read.
        widths: nodes per row of each forward of the drafter.
        emitted: the tokens of every row of the batch; none for a row that had ended.
    """

    nodes: int
    widths: tuple[int, ...]
    emitted: list[list[int]]

    @property
    def tokens(self) -> int:
        """How many tokens were emitted, over all rows."""
        return sum(len(tokens) for tokens in self.emitted)


def speculate(
    target,
    assistant: Assistant,
    call: AssistedCall,
    tree: TreeConfig | None = None,
    policy: Policy | None = None,
):
    """What `target.generate` would return for a prepared call.

    The run's statistics go to `last_run` of what the user passed as assistant.

    Args:
        target: the model that verifies.
        assistant: who drafts.
        call: what generate has prepared; its cache is left alone.
        tree, policy: in place of the assistant's own.
    """
    run = Run(target, assistant, call, tree, policy)
    _, inputs = take_cache(call.model_inputs)
    run.prefill(inputs)
    with adapters_by_row(target, run.sequences):
        while not run.is_finished:
            run.round()
    assistant.owner.last_run = run.statistics()
    output = run.output()
    run.cache.release()
    return output


class Run:
    """The state of one `generate` call.

    Args:
        target, assistant, call, tree, policy: as in `speculate`.
        watch: where the seconds go; None for a stopwatch of its own.
    """

    def __init__(
        self,
        target,
        assistant: Assistant,
        call: AssistedCall,
        tree: TreeConfig | None = None,
        policy: Policy | None = None,
        watch: Stopwatch | None = None,
    ):
        tree = as_compiled(tree or assistant.tree, target)
        policy = policy or choose_policy(tree, assistant.find_plan() if tree.needs_plan else None)
        config = call.generation_config
        device = call.input_ids.device
        rows = len(call.input_ids)
        self.target = target
        self.config = config
        self.streamer = call.streamer
        self.sequences = Sequences(call.input_ids, config.max_length)
        self.tree = tree
        self.policy = policy
        self.stats = DecodingStats(rows=rows)
        self.watch = watch or Stopwatch(device)
        keeps_size = tree.compile and keeps_sizes(device)
        self.cache = make_cache(tree, config.max_length, assistant.buffer_owner, keeps_size)
        sampler = make_sampler(tree, config, device)
        context = DraftContext(target, self.cache, tree, policy, self.watch, sampler)
        self.drafter = assistant.drafter(context)
        self.verifier = make_verifier(call, self.sequences, self.drafter)
        self.forward = TargetForward(
            target, self.cache, self.drafter.aux_layer_ids, compile=tree.compile
        )
        self._chunk_size = chunk_size(config, tree)
        self._is_captured = keeps_size and device.type == "cuda"
        if keeps_size:
            install_output_capture(target, call.input_ids[:1, :1])

    @property
    def is_finished(self) -> bool:
        """Whether every row has ended."""
        return self.sequences.all_finished

    def prefill(self, inputs: dict, prefilled: Prefilled | None = None) -> None:
        """Read the prompts and choose every row's first token, as plain generate does.

        Args:
            inputs: attention_mask, position_ids, images and whatever else generate prepared.
            prefilled: the same prompts, read before; the target then reads nothing.
        """
        prompts = self.sequences.prompts
        _, prepared = take_cache(prepare_inputs(self.target, prompts, self.cache, inputs))
        positions = prompt_positions(prompts, inputs, prepared)
        self.masks = TreeMask(self.target, prompts, inputs.get("attention_mask"), positions)
        if prefilled is None:
            prefilled = self._read_prompts(prepared)
        else:
            prefilled.cache.copy_to(self.cache)
        with self.watch.phase("accept"):
            first = self.verifier.first_tokens(prefilled.logits)
        self.drafter.start(
            prompts,
            self.masks.visible,
            prefilled.aux,
            self.sequences.newest(),
            prefilled.selection,
            None if self.masks.shift is None else self.masks.shift[-1],
        )
        self._drop_finished()
        self._stream(first)

    def round(self) -> Round:
        """One draft-verify-commit cycle of every unfinished row."""
        if self._is_captured:
            mark_cudagraph_step()
        draft = self.draft()
        logits, aux = self.read(draft.tree)
        verdicts = self.verify(draft, logits)
        self.commit(draft, verdicts, aux)
        if isinstance(self.streamer, RoundStreamer):
            self.streamer.put_round(draft.tree, verdicts[0])
        emitted = [verdict.emitted for verdict in verdicts]
        self._stream(emitted)
        widths = (1,) if draft.catches_up else draft.widths
        return Round(draft.tree.size - 1, widths, emitted)

    def draft(self) -> Draft:
        """Trees below the newest tokens.

        None is deeper than what the shortest running row may still emit besides its bonus token.
        """
        with self.watch.phase("draft"):
            max_depth = self.sequences.room - 1
            lengths = self.sequences.running_lengths
            draft = self.drafter.draft(self.sequences.newest(), max_depth, lengths)
            return self.verifier.with_padding(draft)

    def read(self, tree: Tree) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The target's logits [B, N, V] and aux hidden states [B, N, 3H] at every node."""
        ends = self.sequences.ends
        with self.watch.phase("accept"):
            limit = self.config.max_length
            mask, positions = self.masks.for_tree(tree, ends, limit, self.cache.capacity)
        with self.watch.phase("target"):
            return self.forward.read_nodes(tree.tokens, positions, mask, base=max(ends))

    def verify(self, draft: Draft, logits: torch.Tensor) -> list[Verdict]:
        """A verdict for every row of the batch; its tokens are in the sequences afterwards."""
        with self.watch.phase("accept"):
            verdicts = self.verifier.verdicts(draft.tree, logits)
            count_round(self.stats, draft, verdicts, self.sequences.in_batch)
            return verdicts

    def commit(self, draft: Draft, verdicts: list[Verdict], aux: torch.Tensor | None) -> None:
        """Keep the accepted branches in both caches; rows that have ended leave the batch."""
        with self.watch.phase("commit"):
            paths = [verdict.path for verdict in verdicts]
            appended = [verdict.tokens for verdict in verdicts]
            before = []  # committed slots before this round
            for end, tokens in zip(self.sequences.ends, appended, strict=True):
                before.append(end - len(tokens))
            self.cache.commit(max(before), before, paths)
            self.drafter.accept(aux, paths, appended)
            tokens_emitted = sum(len(verdict.emitted) for verdict in verdicts)
            self.policy.end(tokens_emitted, draft.tree.size - 1, draft.widths)
            self._drop_finished()

    def statistics(self) -> DecodingStats:
        """What the run has done so far."""
        self.stats.seconds = self.watch.seconds
        return self.stats

    def output(self):
        """The sequences [R, L], or the dictionary that was asked for."""
        if self.streamer is not None:
            self.streamer.end()
        sequences = self.sequences.padded(padding_token(self.config))
        if not self.config.return_dict_in_generate:
            return sequences
        scores, logits = self.verifier.choice.collected()
        return decoder_only_output(sequences, scores, logits, self.cache.plain())

    def _read_prompts(self, prepared: dict) -> Prefilled:
        """What the target makes of its prepared inputs, and what the drafter records meanwhile."""
        with self.watch.phase("prefill"):
            selection = self.drafter.prefill_selection(self.masks.visible)
            if selection is None and not chooses_by_row(self.target):
                repeats = find_repeats(prepared)
                if repeats is not None:
                    return self._read_once(prepared, repeats)
            with recorded(selection):
                # a compiled forward calls nothing that could record
                masks = self.masks if selection is None else None
                logits, aux = read_prompt(self.forward, prepared, self._chunk_size, masks)
        return Prefilled(self.cache, logits[:, -1], aux, selection)

    def _read_once(self, prepared: dict, repeats: Repeats) -> Prefilled:
        """As `_read_prompts`, where several rows are the same prompt."""
        cache = TargetCache()
        layer_ids = self.drafter.aux_layer_ids
        forward = TargetForward(self.target, cache, layer_ids, compile=self.tree.compile)
        inputs = repeats.inputs_once(prepared)
        masks = self.masks.of_rows(repeats.first)
        logits, aux = read_prompt(forward, inputs, self._chunk_size, masks)
        cache.copy_to(self.cache, repeats.source)
        aux = None if aux is None else aux[repeats.source]
        return Prefilled(self.cache, logits[repeats.source, -1], aux, None)

    def _drop_finished(self) -> None:
        """Take rows that have ended out of the batch.

        They stay where the cache is to be returned, or keeps its size, or where callbacks see all
        rows.
        """
        keeps_rows = self.config.return_dict_in_generate or self.verifier.keeps_rows
        if keeps_rows or self.cache.capacity:
            return
        index = self.sequences.drop_finished()
        if index is None:
            return
        self.cache.keep_rows(index, length=max(self.sequences.ends))
        self.masks.keep_rows(index)
        self.drafter.keep_rows(index)

    def _stream(self, emitted: list[list[int]]) -> None:
        """Hand the tokens of the only row to the streamer."""
        if self.streamer is not None:
            self.streamer.put(torch.tensor(emitted[0]))


def make_cache(tree: TreeConfig, max_length: int, owner, keeps_size: bool) -> TargetCache:
    """The target's cache of a run, with room for a tree behind the longest row."""
    most = max_length + max(tree.nodes, tree.depth) + 1  # slots
    if keeps_size:
        return TargetCache(capacity=fixed_size(most), pool=BufferPool(owner))
    discard_buffers(owner)
    return TargetCache(limit=most)


def make_sampler(tree: TreeConfig, config, device: torch.device) -> DraftSampler | None:
    """What draws the drafts of a run; None where they are the likeliest."""
    if tree.acceptance != "rejection" or not config.do_sample:
        return None
    seed = int(torch.randint(2**62, (1,)))
    return DraftSampler(config.temperature or 1.0, seed, device)
