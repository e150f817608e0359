"""The one loop of all rules: a prompt passes every rule or is removed by the first that objects."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from eagle_hf.data.rows import Prompt, SkippedRow

EXAMPLES_KEPT = 100  # removed prompts that a report names; all of them are counted


class PromptRule(Protocol):
    """Says which prompts are not to be used.

    Attributes:
        name: the key under which removed prompts are counted.
    """

    name: str

    def objection(self, prompt: Prompt) -> str | None:
        """Say why a prompt is not to be used.

        Args:
            prompt: one that passed the rules before this one.

        Returns:
            The reason as a sentence for a terminal; None where there is none.
        """
        ...


@dataclass
class Selection:
    """What the rules left, and what they removed.

    Attributes:
        prompts: those that passed, in order.
        removed: how many each rule removed, by its name; 0 where it removed none.
        examples: the first removed prompts with their reasons.
    """

    prompts: list[Prompt] = field(default_factory=list)
    removed: Counter[str] = field(default_factory=Counter)
    examples: list[SkippedRow] = field(default_factory=list)

    def remove(self, prompt: Prompt, name: str, reason: str) -> None:
        """Count a prompt that a rule removed.

        Args:
            prompt: the prompt.
            name: of the rule.
            reason: why.
        """
        self.removed[name] += 1
        if len(self.examples) < EXAMPLES_KEPT:
            self.examples.append(SkippedRow(prompt["id"], reason))

    def summary(self) -> str:
        """One line: how many prompts are used, and how many each rule removed."""
        counts = [f"{name} {number}" for name, number in self.removed.items()]
        return f"{len(self.prompts)} prompts used, removed: {', '.join(counts) or 'none'}"


def select_prompts(prompts: Iterable[Prompt], rules: Sequence[PromptRule]) -> Selection:
    """Use the prompts that every rule lets pass.

    Args:
        prompts: in the order in which they are read; of near-duplicates the first one is used.
        rules: asked in this order, so the cheap ones go first.

    Returns:
        The prompts that passed, and what was removed by which rule.

    Raises:
        ValueError: two rules share a name, or no prompt passed.
    """
    names = [rule.name for rule in rules]
    if len(set(names)) < len(names):
        raise ValueError(f"the rules are called {names}; each needs a name of its own")
    selection = Selection()
    for name in names:
        selection.removed[name] = 0
    for prompt in prompts:
        if _passes(prompt, rules, selection):
            selection.prompts.append(prompt)
    if not selection.prompts:
        raise ValueError(f"no prompt passed the rules ({selection.summary()}); loosen them")
    return selection


def _passes(prompt: Prompt, rules: Sequence[PromptRule], selection: Selection) -> bool:
    """Whether no rule objects; the first objection is counted."""
    for rule in rules:
        reason = rule.objection(prompt)
        if reason is not None:
            selection.remove(prompt, rule.name, reason)
            return False
    return True
