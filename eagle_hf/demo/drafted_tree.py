"""A round's tree as lists, with what became of its drafts."""

from dataclasses import dataclass

from eagle_hf.decoding.tree import Tree
from eagle_hf.decoding.verify import Verdict


@dataclass(frozen=True)
class DraftedTree:
    """One row's tree after its round. Node 0 is the root; parents precede their children.

    Attributes:
        tokens, parents: by node; the root is its own parent.
        accepted: nodes below the root whose tokens were kept, from the root on.
        bonus: the token that the target supplied behind them; None where the answer ended with an
            accepted draft.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    accepted: tuple[int, ...]
    bonus: int | None

    @classmethod
    def of_round(cls, tree: Tree, verdict: Verdict) -> "DraftedTree":
        """What a `RoundStreamer` was shown.

        Args:
            tree: of one row.
            verdict: of the same row.
        """
        tokens, parents = tree.lists
        children = tree.children(0)
        kept = verdict.emitted[: verdict.accepted]
        node = 0
        accepted = []
        for token in kept:
            node = children[node][token]
            accepted.append(node)
        behind = verdict.emitted[verdict.accepted :]
        bonus = behind[0] if behind else None
        return cls(tuple(tokens[0]), tuple(parents[0]), tuple(accepted), bonus)

    @property
    def depths(self) -> list[int]:
        """The depth of every node; the root's is 0."""
        depths = [0]
        for parent in self.parents[1:]:
            depths.append(depths[parent] + 1)
        return depths
