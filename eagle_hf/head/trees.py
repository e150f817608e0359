"""The shape of one round's drafts: `TreeConfig`.

A draft tree has the newest committed token as its root, at depth 0. Every other node is a drafted
token.
"""

from dataclasses import dataclass

POLICIES = ("dynamic", "chain", "sequoia", "adaptive")
ACCEPTANCE_RULES = ("sample_match", "rejection")


def check_static_tree(parents: tuple[int, ...], ranks: tuple[int, ...]) -> None:
    """Check that two lists, with one entry per node, describe a tree.

    Node 0 is the root, which is its own parent and has rank 0. The children of a node have the
    ranks 0, 1, ... without gaps.

    Args:
        parents: The parent of each node. A parent comes before its children.
        ranks: Which guess of its parent each node is, 0 for the most probable one.

    Raises:
        ValueError: The lists are no tree. The message names the first node that is wrong.
    """
    numbers = (*parents, *ranks)
    if any(type(number) is not int for number in numbers):
        raise ValueError(
            f"parents are {parents!r:.60} and ranks {ranks!r:.60}; needed are two lists of integers"
        )
    if len(parents) != len(ranks):
        raise ValueError(
            f"{len(parents)} parents and {len(ranks)} ranks; every node needs one of each, "
            "the root included"
        )
    if tuple(parents[:1]) != (0,) or tuple(ranks[:1]) != (0,):
        raise ValueError("node 0 must be the root: parent 0, rank 0")

    # 1) every parent stands before its children, and no two siblings share a rank
    child_ranks: list[set[int]] = [set() for _ in parents]
    for node in range(1, len(parents)):
        parent = parents[node]
        rank = ranks[node]
        if not 0 <= parent < node:
            raise ValueError(
                f"node {node} has the parent {parent}; a parent comes before its children, "
                "list it first"
            )
        if rank in child_ranks[parent]:
            raise ValueError(f"node {parent} has two children of rank {rank}; give each its own")
        child_ranks[parent].add(rank)

    # 2) ranks have no gaps
    for node, found in enumerate(child_ranks):
        if found != set(range(len(found))):
            raise ValueError(
                f"the children of node {node} have the ranks {sorted(found)}; "
                f"needed are 0 to {len(found) - 1}"
            )


@dataclass(frozen=True)
class TreeConfig:
    """The shape of one round's drafts.

    The default was the fastest but one of eight shapes for SmolLM2-135M in bf16 on 2 CPU cores
    (1.28x; a chain of 4 gave 1.13x, 16 nodes 1.17x). Large GPUs want more (EAGLE-3: depth 8,
    top_k 10, 60 nodes).

    Args:
        policy: How the tree grows.

            - "dynamic" expands the most probable nodes of each level and keeps the best of all
              (EAGLE-2, arXiv 2406.16858).
            - "chain" drafts the single best continuation, `depth` tokens long.
            - "sequoia" drafts a fixed shape (arXiv 2402.12374). Without `parents` and `ranks` it
              is the best one for the batch and the length, by the head's plan.
            - "adaptive" is "dynamic", but depth, nodes and whether to draft at all are chosen
              every round, by the head's plan.
        depth: Levels below the root. The head runs once per level.
        top_k: Nodes expanded per level, and children proposed per expanded node.
        nodes: Drafted tokens per round, without the root. The target reads `nodes + 1` tokens.
            Where a plan chooses, `depth` and `nodes` are upper bounds.
        parents: The shape of a "sequoia" tree, one entry per node with the root: the node's
            parent. `depth`, `top_k` and `nodes` follow from it.
        ranks: The rest of that shape: node i is guess number `ranks[i]` of its parent.
        acceptance: Which drafts are accepted.

            - "sample_match" accepts what the target itself draws. The output has the tokens of
              plain `generate` under the same seed.
            - "rejection" draws the drafts and accepts them by the ratio of probabilities. The
              output has the target's distribution, but other tokens than plain `generate`. It
              needs a chain or a fixed shape, and matters only while sampling.
        compile: Compile the forwards of target and drafter. The tokens stay the same. On a CPU that
            takes minutes once (`eagle-hf compile` does it beforehand): what is compiled is kept on
            disk and serves every tree, batch and length. On a GPU forwards become CUDA graphs: the
            first rounds of every shape wait for the compiler, trees need one shape, and the KV
            caches have their full size, a power of two, from the start.

    Raises:
        ValueError: The values do not go together, or no tree is of this shape.
    """

    policy: str = "dynamic"
    depth: int = 3
    top_k: int = 5
    nodes: int = 8
    parents: tuple[int, ...] | None = None
    ranks: tuple[int, ...] | None = None
    acceptance: str = "sample_match"
    compile: bool = False

    def __post_init__(self) -> None:
        self._check_policy()
        self._check_combinations()
        self._check_counts()
        if self.policy == "chain":
            self._set(top_k=1, nodes=self.depth)
        if self.parents is not None and self.ranks is not None:
            self._adopt_shape(self.parents, self.ranks)

    def _check_policy(self) -> None:
        """Refuse unknown names, and a fixed shape where the policy has none."""
        if self.policy not in POLICIES:
            raise ValueError(f"tree policy is {self.policy!r}; choose one of {', '.join(POLICIES)}")
        is_half_given = (self.parents is None) != (self.ranks is None)
        is_misplaced = self.parents is not None and self.policy != "sequoia"
        if is_half_given or is_misplaced:
            raise ValueError(
                f"policy is {self.policy!r} and parents {self.parents!r:.40}; "
                'parents and ranks go together, with "sequoia"'
            )
        if self.acceptance not in ACCEPTANCE_RULES:
            raise ValueError(
                f'tree acceptance is {self.acceptance!r}; choose "sample_match" or "rejection"'
            )

    def _check_combinations(self) -> None:
        """Refuse policies that choose the shape where it must be known beforehand."""
        if self.acceptance == "rejection" and self.policy not in ("chain", "sequoia"):
            raise ValueError(
                "acceptance by rejection needs a tree whose shape does not follow the draws; "
                f'policy is {self.policy!r}, use "chain" or "sequoia"'
            )

    def _check_counts(self) -> None:
        """Refuse sizes that count nothing."""
        for name in ("depth", "top_k", "nodes"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"tree {name} is {value!r}; it counts levels or tokens and must be an integer "
                    "of at least 1"
                )

    def _adopt_shape(self, parents: tuple[int, ...], ranks: tuple[int, ...]) -> None:
        """Take depth, top_k and nodes from a fixed shape."""
        check_static_tree(parents, ranks)
        if len(parents) < 2:
            raise ValueError(
                "the tree is the root alone; generate without an assistant, or give it a node"
            )
        depths = [0]
        for parent in parents[1:]:
            depths.append(depths[parent] + 1)
        self._set(parents=tuple(parents), ranks=tuple(ranks))
        self._set(depth=max(depths), top_k=max(ranks) + 1, nodes=len(parents) - 1)

    def _set(self, **values) -> None:
        """Set fields of this frozen dataclass while it is built."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def needs_plan(self) -> bool:
        """Whether measured costs choose the shape."""
        return self.policy == "adaptive" or (self.policy == "sequoia" and self.parents is None)

    @property
    def is_replaceable(self) -> bool:
        """Whether a tree chosen for another machine may replace it: only speed depends on it."""
        is_ordinary = self.policy in ("dynamic", "chain") and not self.compile
        return is_ordinary and self.acceptance == "sample_match"

    @property
    def max_expanded_nodes(self) -> int:
        """How many nodes the drafter expands in a round at most, the root not counted."""
        if self.parents is None:
            return (self.depth - 1) * self.top_k
        return len(set(self.parents) - {0})

    @classmethod
    def parse(cls, text: str) -> "TreeConfig":
        """Make the tree that `str(tree)` describes; fixed shapes have no such text.

        Args:
            text: `policy:depth:top_k:nodes`, with `:rejection` behind it for that rule.

        Raises:
            ValueError: The text has another form, or there is no such tree.
        """
        policy, *numbers = text.split(":")
        acceptance = "sample_match"
        if len(numbers) == 4:
            acceptance = numbers.pop()
        are_digits = all(number.isdigit() for number in numbers)
        if len(numbers) != 3 or not are_digits:
            raise ValueError(
                f"the tree is {text!r}; write policy:depth:top_k:nodes, "
                "e.g. dynamic:4:4:16 or chain:4:1:4"
            )
        depth, top_k, nodes = map(int, numbers)
        return cls(policy, depth, top_k, nodes, acceptance=acceptance)

    def __str__(self) -> str:
        text = f"{self.policy}:{self.depth}:{self.top_k}:{self.nodes}"
        if self.acceptance != "sample_match":
            text += f":{self.acceptance}"
        return text
