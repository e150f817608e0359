"""The draft head on top of the target's own hidden states (EAGLE-3, arXiv 2503.01840).

B batch, M newly committed tokens (padded), k nodes of a level, T slots in use, H hidden. Rows are
aligned left. Slot p of the head holds the aux hidden states of token p and the embedding of token
p + 1, at RoPE position p, and its output predicts token p + 2:

    slot        0    1    2    3
    states of   t0   t1   t2   t3
    embedding   t1   t2   t3   t4      t4: the token that the target chose after t3
    predicts    t2   t3   t4   t5
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from eagle_hf.compat import attention_implementation
from eagle_hf.compilation.forwards import FuseForward, HeadForward, HeadInputs, LogitsForward
from eagle_hf.compilation.packages import KeptForward
from eagle_hf.decoding.assistants.base import Assistant, DraftContext, Drafter
from eagle_hf.decoding.compiling import compiled, kept_forward
from eagle_hf.decoding.pending import Pending, left_aligned, newest_output, padded_rows, take_slots
from eagle_hf.decoding.probing import check_giving_states
from eagle_hf.decoding.upload import upload
from eagle_hf.decoding.window import Window
from eagle_hf.head.attention import tree_attention, ttt_attention
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.trees import TreeConfig
from eagle_hf.planning.plan import PLAN, Plan
from eagle_hf.provenance import dtype_name, weights_fingerprint
from eagle_hf.target import (
    aux_layer_ids,
    capture_aux,
    check_compatible,
    embedded_ids,
    execution_device,
    unwrap,
)


class EagleAssistant(Assistant):
    """A draft head as an assistant.

    Args:
        head: the head; its settings are the assistant's.
        tree: drafted in place of the head's own, and of what the machine would choose.
    """

    def __init__(self, head: Eagle3DraftHead, tree: TreeConfig | None = None):
        self.head = head
        self.tree = tree or head.tree
        self.plan = head.plan
        self.chooses_by_machine = tree is None and head.tree_by_machine

    @property
    def owner(self) -> Any:
        return self.head

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters that it drafts with, of all rows in any order; none by default."""
        return ()

    @property
    def measured_head(self) -> Eagle3DraftHead:
        """The head whose forwards stand for what drafting costs."""
        return self.head

    def find_plan(self) -> Plan | None:
        """The plan set on the head, or the one in the folder it was loaded from."""
        if self.plan is not None or not self.head.name_or_path:
            return self.plan
        file = Path(self.head.name_or_path, PLAN).resolve()
        try:
            state = file.stat()
        except OSError:
            return None
        return _saved_plan(file.parent, state.st_mtime_ns, state.st_size)

    def with_tree(self, tree: TreeConfig) -> "EagleAssistant":
        return EagleAssistant(self.head, tree)

    def check(self, target) -> None:
        check_compatible(target, self.head.config)
        with capture_aux(target, aux_layer_ids(target, self.head.config)):
            pass  # raises where the target's layers cannot be read
        check_giving_states(target)
        device = execution_device(target)
        if device != self.head.device:
            raise ValueError(
                f"the target is on {device} and the head on {self.head.device}; move one: "
                f'head.to("{device}")'
            )

    def drafter_facts(self, target) -> dict[str, str]:
        return {
            "drafter_fingerprint": weights_fingerprint(self.head),
            "drafter_dtype": dtype_name(self.head),
        }

    def drafter(self, context: DraftContext) -> "EagleDrafter":
        return EagleDrafter(self.head, context)


@lru_cache(maxsize=16)
def _saved_plan(folder: Path, changed: int, size: int) -> Plan:
    """The plan in a folder, read again where its file has changed (nanoseconds, bytes)."""
    return Plan.load(folder)


class EagleDrafter(Drafter):
    """Reads the target's aux hidden states and proposes from the head's draft vocabulary."""

    def __init__(self, head: Eagle3DraftHead, context: DraftContext):
        super().__init__(context, Window(*head.window) if head.window else None)
        self.model = head
        self.head = head
        self.target = context.target
        self.embed = unwrap(context.target).get_input_embeddings()
        self.aux_layer_ids = tuple(aux_layer_ids(context.target, head.config))
        self.draft_to_target = head.draft_to_target
        self.vocabulary = len(self.draft_to_target)
        self._nodes_forward = self._forward
        self._kept: KeptForward | None = None
        self._kept_fuse: KeptForward | None = None
        self._kept_logits: KeptForward | None = None
        if self.capacity is not None:
            self._nodes_forward = compiled(self._forward, head.device)
        elif context.tree.compile:
            self._kept = kept_forward(HeadForward(head))
            self._kept_fuse = kept_forward(FuseForward(head))
            self._kept_logits = kept_forward(LogitsForward(head))

    def start(self, input_ids, visible, aux, first, selection, shift=None):
        order, counts = left_aligned(visible)
        tokens = input_ids.gather(1, order).roll(-1, dims=1)
        tokens = embedded_ids(self.target, tokens)
        tokens.scatter_(1, counts[:, None] - 1, first[:, None])
        self.pending = [Pending(counts, tokens, take_slots(aux, order))]

    def accept(self, aux, paths, tokens):
        device = aux.device
        nodes = padded_rows(paths, device, self.least_width)  # [B, M]
        counts = upload([len(path) for path in paths], device)
        emitted = padded_rows(tokens, device, self.least_width)
        self.pending.append(Pending(counts, emitted, take_slots(aux, nodes)))

    def log_probs(self, hidden):
        to_logits = self._kept_logits.by_row if self._kept_logits else self.head.logits
        return to_logits(hidden).float().log_softmax(-1)

    def extend(self):
        pending = self.take_pending()
        tokens = pending.tokens
        assert pending.aux is not None, "a head reads aux hidden states"
        with self.watch.phase("head"):
            fuse = self._kept_fuse.by_row if self._kept_fuse else self.head.fuse
            hidden = fuse(pending.aux.to(self.head.device, self.head.dtype))
        if not self.slots.has_started:
            self.cache.place_prompt(self.slots.start(pending.counts))
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
            with self.watch.phase("head"):
                output = self._forward(tokens, hidden, positions, None)
        else:
            placed = self.slots.extend(pending.counts, tokens.shape[1])
            output = self._run_nodes(tokens, hidden, *placed)
        return newest_output(output, pending.counts)

    def step(self, tokens, hidden, level, ancestors):
        return self._run_nodes(tokens, hidden, *self.slots.level(level, ancestors))

    def _run_nodes(self, tokens, hidden, slots, positions, seen) -> torch.Tensor:
        """The head's output [B, M, H] for tokens that go to `slots` [B, M]."""
        self.cache.turn_sinks(self.slots, self.head.rotary_emb)
        with self.watch.phase("head"):
            if self._kept is not None:
                embeddings = self.embed(tokens).to(hidden.dtype)
                buffers = self.cache.extend_to(seen.shape[-1])
                inputs = HeadInputs(embeddings, hidden, positions, seen[:, None], slots, buffers)
                return self._kept(inputs)[0]
            self.cache.place(slots, seen.shape[-1])
            return self._nodes_forward(tokens, hidden, positions, seen)

    def _forward(self, tokens, hidden, positions, seen) -> torch.Tensor:
        """One pass of the head over tokens [B, M] and their fused states [B, M, H].

        seen: bool [B, M, T]; None for a prompt, whose rows are padded on the right, so that
        causality hides the padding and no mask of S x S is needed.
        """
        implementation = attention_implementation(self.head.config)

        def attend(query, key, value):
            key, value = self.cache.update(key, value)
            if seen is None:
                return ttt_attention(query, [key], [value], implementation)
            return tree_attention(query, key, value, seen[:, None], implementation)

        embeddings = self.embed(tokens).to(hidden.device, hidden.dtype)
        return self.head.step(embeddings, hidden, positions, attend)
