"""Nobody drafts: the loop then decodes plainly, by the forward of the target alone."""

from eagle_hf.decoding.assistants.base import Assistant, DraftContext, Drafter
from eagle_hf.head.trees import TreeConfig


class Nobody(Assistant):
    """An assistant without drafts.

    `generate(assistant_model=Nobody())` decodes plainly by this package's loop.
    """

    def __init__(self) -> None:
        self.tree = TreeConfig("chain", depth=1)

    @property
    def call(self) -> str:
        return "the loop without drafts, or a compiled target's generate"

    def check(self, target) -> None:
        """Every target can do without."""

    def drafter_facts(self, target) -> dict[str, str]:
        return {"drafter_fingerprint": "nobody", "drafter_dtype": ""}

    def drafter(self, context: DraftContext) -> "NoDrafter":
        return NoDrafter(context)


class NoDrafter(Drafter):
    """Takes what the target has read, and proposes nothing."""

    vocabulary = 0
    drafts = False

    def start(self, input_ids, visible, aux, first, selection, shift=None):
        """There is nothing to remember."""

    def accept(self, aux, paths, tokens):
        """There is nothing to remember."""

    def extend(self):
        raise AssertionError("nobody drafts")

    def step(self, tokens, hidden, level, ancestors):
        raise AssertionError("nobody drafts")

    def log_probs(self, hidden):
        raise AssertionError("nobody drafts")
