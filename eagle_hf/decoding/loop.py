"""The one loop: draft a tree, verify it in one target pass, commit the accepted branch.

B rows of different lengths, S prompt slots, N tree nodes, V vocabulary. Row b's token at index i of `ids` has its
keys at slot i of the target's cache; left padding keeps its slots and is never attended to. The newest token of a
row is the root of its next tree and not yet in the cache.
"""

from contextlib import nullcontext
from functools import partial

import torch

from eagle_hf.compat import cache_inputs, captures_outputs, decoder_only_output, prepare_inputs
from eagle_hf.decoding.cache import TreeCache
from eagle_hf.decoding.compiling import Buffers, begin_round, compiled, fixed_size, forget
from eagle_hf.decoding.drafters import Drawing, bind
from eagle_hf.decoding.masks import TreeMask
from eagle_hf.decoding.reading import reading_tree
from eagle_hf.decoding.stats import DecodingStats, Stopwatch
from eagle_hf.decoding.stopping import Stopping
from eagle_hf.decoding.upload import upload
from eagle_hf.decoding.verify import TargetChoice, stack_rows, verify, verify_drawn
from eagle_hf.target import AuxStates, capture_aux, unwrap


def speculate(
    target,
    assistant,
    input_ids,
    logits_processor,
    stopping_criteria,
    generation_config,
    streamer=None,
    tree=None,
    policy=None,
    **inputs,
):
    """What `target.generate` would return for these prepared arguments; the run's statistics go to `assistant.last_run`.

    tree, policy: as `bind` takes them.
    """
    run = Run(
        target,
        assistant,
        input_ids,
        logits_processor,
        stopping_criteria,
        generation_config,
        streamer,
        tree,
        policy,
    )
    run.prefill(inputs)
    while not all(run.finished):
        run.round()
    assistant.last_run = run.statistics()
    output = run.output()
    if run.cache.buffers:
        run.cache.buffers.give_back()
    return output


def read(target, layer_ids, **inputs) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The target's logits, and the streams entering these layers side by side (None where there are none to give)."""
    with capture_aux(target, layer_ids) if layer_ids else nullcontext(AuxStates([])) as aux:
        logits = target(**inputs, return_dict=True).logits
    return logits, aux.take()


def read_whole(target, layer_ids, **inputs) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`read` without hooks, for graphs: asks for all streams, of which a compiler computes those that are used."""
    outputs = target(**inputs, return_dict=True, output_hidden_states=bool(layer_ids))
    return outputs.logits, torch.cat(
        [outputs.hidden_states[i] for i in layer_ids], dim=-1
    ) if layer_ids else None


class Run:
    """The state of one `generate` call."""

    def __init__(
        self,
        target,
        assistant,
        input_ids,
        logits_processor,
        stopping_criteria,
        generation_config,
        streamer=None,
        tree=None,
        policy=None,
    ):
        rows, prompt = input_ids.shape
        self.target, self.config, self.streamer = target, generation_config, streamer
        self.choice = TargetChoice(logits_processor, generation_config, rows)
        self.stopping = Stopping(stopping_criteria)
        chosen, device = tree or assistant.tree, input_ids.device
        self.watch, self.stats = Stopwatch(device), DecodingStats(rows=rows)
        most = generation_config.max_length + max(chosen.nodes, chosen.depth) + 1
        if chosen.compile:
            self.cache = TreeCache(capacity=fixed_size(most), buffers=Buffers(assistant))
        else:
            self.cache = TreeCache(limit=most)
            forget(assistant)
        self.reads = cache_inputs(unwrap(target), self.cache)
        self.drafter = bind(assistant, target, self.cache, self.watch, tree, policy)
        self.is_captured = chosen.compile and device.type == "cuda"
        self.read = partial(read, target, self.drafter.aux_layer_ids)
        self.read_tree = self.read
        if chosen.compile:
            self.read_tree = compiled(
                partial(read_whole, target, self.drafter.aux_layer_ids), device
            )
            if not captures_outputs(unwrap(target).get_decoder()):
                read_whole(
                    target, [0], input_ids=input_ids[:1, :1]
                )  # transformers hooks its layers at the first such call, which no compiler follows
        if chosen.acceptance == "rejection" and generation_config.do_sample:
            seed = int(torch.randint(2**62, (1,)))
            self.drafter.drawing = Drawing(generation_config.temperature or 1.0, seed, device)
        self.ids = input_ids.new_zeros(rows, generation_config.max_length)
        self.ids[:, :prompt] = input_ids
        self.last = [0] * rows  # every row's newest token
        self.lengths, self.finished = [prompt] * rows, [False] * rows
        self.rows = list(range(rows))  # those still in the batch

    def prefill(self, inputs: dict) -> None:
        """The target reads the prompts and chooses every row's first token, as plain generate does."""
        input_ids = self.ids[:, : self.lengths[0]]
        self.masks = TreeMask(
            self.target, input_ids, inputs.get("attention_mask"), inputs.get("position_ids")
        )
        with self.watch.phase("prefill"), self.drafter.watching(self.masks.visible):
            prepared = prepare_inputs(self.target, input_ids, self.cache, inputs)
            logits, states = self.read(**prepared)
            logits = logits[:, -1]
        with self.watch.phase("accept"):
            first = [[self._choose(row, logits[row])] for row in range(len(logits))]
            for row, (token,) in enumerate(first):
                self._emit(row, token)
        self.drafter.start(input_ids, self.masks.visible, states, self._newest())
        self._drop_finished()
        self._stream(first)

    def round(self) -> None:
        """One draft-verify-commit cycle of every unfinished row."""
        if self.is_captured:
            begin_round()
        tree = self._draft()
        logits, states = self._read(tree)
        with self.watch.phase("accept"):
            verdicts = self._verify(tree, logits)
            paths = [verdict.path if verdict else [] for verdict in verdicts]
            tokens = [verdict.tokens if verdict else [] for verdict in verdicts]
        with self.watch.phase("commit"):
            ends = [self.lengths[row] - 1 - len(emitted) for row, emitted in zip(self.rows, tokens)]
            self.cache.commit(max(ends), ends, paths)
            self.drafter.accept(states, paths, tokens)
            self.drafter.plan.end(sum(map(len, tokens)))
            self._drop_finished()
        self._stream(tokens)

    def _drop_finished(self) -> None:
        """Finished rows leave the batch; only a cache that is to be returned, or keeps its size, keeps them."""
        kept = [place for place, row in enumerate(self.rows) if not self.finished[row]]
        if (
            not kept
            or len(kept) == len(self.rows)
            or self.config.return_dict_in_generate
            or self.cache.capacity
        ):
            return
        self.rows = [self.rows[place] for place in kept]
        index = upload(kept, self.ids.device)
        self.cache.keep_rows(index, length=max(self.lengths[row] for row in self.rows) - 1)
        self.masks.keep_rows(index)
        self.drafter.keep_rows(index)

    def _draft(self):
        """Trees no deeper than what the longest-running row may still emit besides its bonus token."""
        with self.watch.phase("draft"):
            running = [length for length, done in zip(self.lengths, self.finished) if not done]
            return self.drafter.draft_tree(
                self._newest(), self.config.max_length - min(running) - 1, running
            )

    def _read(self, tree) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The target's logits [B, N, V] at every node, and its streams [B, N, 3H]."""
        with self.watch.phase("accept"):
            ends = [self.lengths[row] - 1 for row in self.rows]
            mask, positions = self.masks.of(tree, ends, self.config.max_length, self.cache.capacity)
            self.cache.place(max(ends), tree.tokens.shape[1])
        with self.watch.phase("target"), reading_tree():
            return self.read_tree(
                input_ids=tree.tokens, position_ids=positions, attention_mask=mask, **self.reads
            )

    def _verify(self, tree, logits):
        """A verdict for every row of the batch, None for finished ones; emitted tokens are in `ids` afterwards."""
        decided = (
            tree.fetch(logits.max(-1).indices) if self.choice.is_plain_argmax else None
        )  # argmax: 6x slower in bf16 on a CPU
        verdicts = [None] * len(self.rows)
        for place, row in [
            (place, row) for place, row in enumerate(self.rows) if not self.finished[row]
        ]:
            if self.drafter.drawing is not None:
                verdict = self._verify_drawn(tree, logits, place, row)
            else:
                choose = (
                    decided[place].__getitem__
                    if decided
                    else lambda node: self._choose(row, logits[place, node])
                )
                verdict = verify(tree.children(place), choose, partial(self._emit, row))
            verdicts[place] = verdict
            self.stats.count(verdict.trials, verdict.accepted, len(verdict.tokens))
        return verdicts

    def _verify_drawn(self, tree, logits, place: int, row: int):
        """A row's verdict by rejection."""
        ids = self.drafter.draft_to_target

        def target_probs(node):
            return self.choice.processed(
                row, self.ids[row : row + 1, : self.lengths[row]], logits[place, node]
            )[0].softmax(-1)

        def draft_probs(node):
            offer = tree.offers[node][place]
            return (
                offer
                if ids is None
                else torch.zeros(logits.shape[-1], device=offer.device).scatter_(0, ids, offer)
            )

        def uniform():
            return float(torch.rand(()))

        def draw(probs):
            return int(torch.multinomial(probs, 1))

        return verify_drawn(
            tree.drawn(place), target_probs, draft_probs, partial(self._emit, row), uniform, draw
        )

    def _choose(self, row: int, logits) -> int:
        """The target's next token for a row, by its processors and its one draw."""
        return self.choice(row, self.ids[row : row + 1, : self.lengths[row]], logits)

    def _emit(self, row: int, token: int) -> bool:
        """Append a row's token; whether the row ends with it."""
        self.ids[row, self.lengths[row]] = self.last[row] = token
        self.lengths[row] += 1
        scores = (
            None
            if self.choice.scores is None
            else tuple(score[None] for score in self.choice.scores[row])
        )
        self.finished[row] = self.stopping(
            self.ids[row : row + 1, : self.lengths[row]], token, scores
        )
        return self.finished[row]

    def _newest(self) -> torch.Tensor:
        """The newest token [B] of every row in the batch."""
        return upload([self.last[row] for row in self.rows], self.ids.device)

    def _stream(self, tokens: list[list[int]]) -> None:
        if self.streamer is not None:
            self.streamer.put(torch.tensor(tokens[0]))

    def statistics(self) -> DecodingStats:
        self.stats.seconds = self.watch.seconds
        return self.stats

    def output(self):
        """Sequences [B, L], rows that ended early padded on the right, or the dictionary that was asked for."""
        if self.streamer is not None:
            self.streamer.end()
        longest = max(self.lengths)
        sequences = self.ids[:, :longest]
        for row, length in enumerate(self.lengths):
            if length < longest:
                sequences[row, length:] = self.config._pad_token_tensor
        if not self.config.return_dict_in_generate:
            return sequences
        scores, logits = stack_rows(self.choice.scores), stack_rows(self.choice.raw_logits)
        return decoder_only_output(sequences, scores, logits, self.cache.plain())
