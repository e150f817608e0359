"""A draft head with adapters: one for all rows of a call, or one for each row.

B batch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers.utils import logging

from eagle_hf.decoding.assistants.base import DraftContext
from eagle_hf.decoding.assistants.eagle import EagleAssistant, EagleDrafter
from eagle_hf.decoding.compiling import compiles_any_size, keeps_sizes
from eagle_hf.head.adapted import AdaptedHead
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.trees import TreeConfig
from eagle_hf.planning.plan import Plan
from eagle_hf.provenance import weights_fingerprint

logger = logging.get_logger(__name__)


class AdaptedAssistant(EagleAssistant):
    """What `head.with_adapter(...)` returns, as an assistant.

    Args:
        adapted: the head with its adapters chosen.
        tree: as of `EagleAssistant`.

    Attributes:
        head: with the adapter in it; where rows have different ones, the head alone.

    Raises:
        ValueError: an adapter was deleted since.
    """

    def __init__(self, adapted: AdaptedHead, tree: TreeConfig | None = None):
        self.adapted = adapted
        self._alone = [_with_adapter(adapted.head, name) for name in adapted.distinct]
        self._is_mixed = len(self._alone) > 1
        self._is_bare = adapted.distinct == (None,)
        super().__init__(adapted.head if self._is_mixed else self._alone[0], tree)
        self.tree = tree or adapted.tree
        self.plan = adapted.plan
        self.chooses_by_machine = tree is None and adapted.tree_by_machine

    @property
    def owner(self) -> AdaptedHead:
        return self.adapted

    @property
    def call(self) -> str:
        return "generate(assistant_model=head.with_adapter(...))"

    @property
    def buffer_owner(self) -> Eagle3DraftHead:
        return self.adapted.head

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(sorted(str(name) for name in self.adapted.rows or self.adapted.distinct))

    @property
    def measured_head(self) -> Eagle3DraftHead:
        """With the largest of its adapters."""
        return max(self._alone, key=_parameter_count)

    def find_plan(self) -> Plan | None:
        return self.plan

    def with_tree(self, tree: TreeConfig) -> "AdaptedAssistant":
        return AdaptedAssistant(self.adapted, tree)

    def check(self, target) -> None:
        super().check(target)
        if self._is_mixed:
            self.adapted.head.adapters.check_mixing(self.adapted.distinct)
        if self._is_mixed and self.tree.compile and keeps_sizes(self.head.device):
            raise ValueError(
                f"adapters were given by row ({self.adapted.adapters}) and the tree says "
                "compile=True, whose graphs are captured for one adapter; give one name for all "
                "rows, or compile=False"
            )
        if compiles_any_size(self.tree, target) and not self._is_bare:
            logger.warning_once(
                "a head that carries an adapter is not compiled and drafts as before; for a "
                "compiled one merge it: eagle-hf merge"
            )

    def check_rows(self, rows: int) -> None:
        given = self.adapted.rows
        if given is not None and len(given) != rows:
            raise ValueError(
                f"{len(given)} adapters were given for {rows} rows; give one name a row, None for "
                "the head alone, or one name without a list for all"
            )

    def drafter_facts(self, target) -> dict[str, str]:
        prints = [weights_fingerprint(head) for head in self._alone]
        facts = super().drafter_facts(target)
        if self._is_mixed:
            joined = " ".join(sorted(prints)).encode()
            facts["drafter_fingerprint"] = hashlib.sha256(joined).hexdigest()
        return facts

    def drafter(self, context: DraftContext) -> EagleDrafter:
        if not keeps_sizes(self.head.device) and not self._is_bare:
            context = replace(context, tree=replace(context.tree, compile=False))
        if not self._is_mixed:
            return EagleDrafter(self.head, context)
        rows = self.adapted.rows
        assert rows is not None, "one name holds for all rows"
        return RowsDrafter(self.adapted.head, rows, context)


class RowsDrafter(EagleDrafter):
    """A head's drafter with an adapter for each row, which follow the rows of the batch.

    Args:
        head: the head alone.
        rows: the adapter of every row; None for the head alone.
        context: of the run.
    """

    def __init__(self, head: Eagle3DraftHead, rows: Sequence[str | None], context: DraftContext):
        laid, names = head.adapters.for_rows(head, rows)
        self._names = names
        _choose_by_row(laid, self)
        super().__init__(laid, context)

    @property
    def names(self) -> list[str]:
        """What PEFT calls the adapters of the rows in the batch [B]."""
        return self._names

    def keep_rows(self, index: torch.Tensor) -> None:
        super().keep_rows(index)
        self._names = [self._names[row] for row in index.tolist()]


def _choose_by_row(laid: Eagle3DraftHead, drafter: RowsDrafter) -> None:
    """Let the adapter layers of a copy, which belongs to one run, ask its drafter for names."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    def choose(module, args: tuple, kwargs: dict) -> tuple:
        return args, kwargs | {"adapter_names": drafter.names}

    for module in laid.modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            module.register_forward_pre_hook(choose, with_kwargs=True)


def _with_adapter(head: Eagle3DraftHead, name: str | None) -> Eagle3DraftHead:
    """The head that drafts with an adapter; the head itself for None."""
    return head if name is None else head.adapters.over(head, name)


def _parameter_count(head: Eagle3DraftHead) -> int:
    return sum(parameter.numel() for parameter in head.parameters())
