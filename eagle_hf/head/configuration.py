"""What a draft head is made of: `Eagle3Config`, and how its drafts are shaped: `TreeConfig`.

In memory and on disk the config is a Llama config, because that is what vLLM, SGLang and llama.cpp parse.
What only eagle_hf needs lives under the one key `eagle_hf`, which the engines ignore.
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaConfig

from eagle_hf.head.dialects import recognise, translate_config
from eagle_hf.head.layouts import LAYER_IDS_KEY, engine_config, foreign_layer_ids

OWN_FIELDS = ("draft_vocab_size", "fc_norm", "norm_output", "norm_before_residual", "eagle_hf")


def default_aux_layer_ids(num_hidden_layers: int) -> list[int]:
    """The three streams EAGLE-3 reads, as HF `hidden_states` indices: (2, n//2, n-3)."""
    n = num_hidden_layers
    if n < 3:
        raise ValueError(
            f"the target has {n} layers; EAGLE-3 reads three of its streams and needs at least 3 layers"
        )
    return [min(2, n - 1), n // 2, max(n - 3, 0)]


POLICIES = ("dynamic", "chain", "sequoia", "adaptive")
SINKS = 4  # first tokens that a window keeps (StreamingLLM, arXiv 2309.17453, section 3.2)


def check_static_tree(parents: tuple[int, ...], ranks: tuple[int, ...]) -> None:
    """Raise a ValueError unless these lists, an entry per node, are a tree: the root first, parents before their children.

    Node 0 is the root, its own parent, of rank 0. The children of a node have the ranks 0, 1, ... without gaps.
    """
    if any(type(value) is not int for value in (*parents, *ranks)):
        raise ValueError(
            f"parents are {parents!r:.60} and ranks {ranks!r:.60}; needed are two lists of integers"
        )
    if len(parents) != len(ranks):
        raise ValueError(
            f"{len(parents)} parents and {len(ranks)} ranks; every node needs one of each, the root included"
        )
    if (tuple(parents[:1]), tuple(ranks[:1])) != ((0,), (0,)):
        raise ValueError("node 0 must be the root: parent 0, rank 0")
    seen = [set() for _ in parents]
    for node, (parent, rank) in list(enumerate(zip(parents, ranks)))[1:]:
        if not 0 <= parent < node:
            raise ValueError(
                f"node {node} has the parent {parent}; a parent comes before its children, list it first"
            )
        if rank in seen[parent]:
            raise ValueError(f"node {parent} has two children of rank {rank}; give each its own")
        seen[parent].add(rank)
    for node, ranks_below in enumerate(seen):
        if ranks_below != set(range(len(ranks_below))):
            raise ValueError(
                f"the children of node {node} have the ranks {sorted(ranks_below)}; needed are 0 to {len(ranks_below) - 1}"
            )


@dataclass(frozen=True)
class TreeConfig:
    """The shape of one round's drafts.

    policy: "dynamic" (EAGLE-2: the most probable nodes of each level are expanded, the best of all are kept),
        "chain" (the single best continuation, `depth` tokens long), "sequoia" (a fixed shape; without parents and ranks the
        best one for the batch and the length, by the head's plan) or "adaptive" (as "dynamic", but depth, nodes and whether
        to draft at all are chosen every round, by the head's plan).
    depth: levels below the root; the head runs once per level.
    top_k: nodes expanded per level, and children proposed per expanded node.
    nodes: drafted tokens per round, the root not counted; the target reads nodes + 1 tokens. Where a plan chooses, depth
        and nodes are the most it may take.
    parents, ranks: of "sequoia" alone, and its whole shape, an entry per node with the root: node i is its parent's guess
        number ranks[i]. depth, top_k and nodes follow from it.

    acceptance: "sample_match" (the target's own draw decides: the tokens of plain generate under the same seed) or, for
        chains and fixed shapes while sampling, "rejection" (drafts are drawn, and accepted by the ratio of probabilities:
        the target's distribution, but other tokens than plain generate's).

    compile: every round computes on tensors of the same sizes, and on a GPU the forwards of target and drafter are compiled and
        captured as CUDA graphs. The same tokens; caches of full size from the start, a power of two, kept for the next call; the first
        rounds wait for the compiler.

    The default was the fastest but one of eight shapes for SmolLM2-135M in bf16 on 2 CPU cores (1.28x; a chain of 4
    gave 1.13x, 16 nodes 1.17x); large GPUs want more (EAGLE-3: depth 8, top_k 10, 60 nodes).
    """

    policy: str = "dynamic"
    depth: int = 3
    top_k: int = 5
    nodes: int = 8
    parents: tuple[int, ...] | None = None
    ranks: tuple[int, ...] | None = None
    acceptance: str = "sample_match"
    compile: bool = False

    def __post_init__(self):
        if self.policy not in POLICIES:
            raise ValueError(f"tree policy is {self.policy!r}; choose one of {', '.join(POLICIES)}")
        if (self.parents is None) != (self.ranks is None) or (
            self.parents is not None and self.policy != "sequoia"
        ):
            raise ValueError(
                f'policy is {self.policy!r} and parents {self.parents!r:.40}; parents and ranks go together, with "sequoia"'
            )
        if self.acceptance not in ("sample_match", "rejection"):
            raise ValueError(
                f'tree acceptance is {self.acceptance!r}; choose "sample_match" or "rejection"'
            )
        if self.acceptance == "rejection" and self.policy not in ("chain", "sequoia"):
            raise ValueError(
                f'acceptance by rejection needs a tree whose shape does not follow the draws; policy is {self.policy!r}, use "chain" or "sequoia"'
            )
        if self.compile and self.needs_plan:
            raise ValueError(
                f'compile=True needs a tree of one shape, and {self.policy!r} chooses it by cost; use "dynamic", "chain" or parents and ranks'
            )
        for field in ("depth", "top_k", "nodes"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"tree {field} is {value!r}; it counts levels or tokens and must be an integer of at least 1"
                )
        if self.policy == "chain":
            self._set(top_k=1, nodes=self.depth)
        if self.parents is not None:
            check_static_tree(self.parents, self.ranks)
            if len(self.parents) < 2:
                raise ValueError(
                    "the tree is the root alone; generate without an assistant, or give it a node"
                )
            depths = [0]
            for parent in self.parents[1:]:
                depths.append(depths[parent] + 1)
            self._set(parents=tuple(self.parents), ranks=tuple(self.ranks))
            self._set(depth=max(depths), top_k=max(self.ranks) + 1, nodes=len(self.parents) - 1)

    @property
    def needs_plan(self) -> bool:
        """Whether measured costs choose the shape."""
        return self.policy == "adaptive" or (self.policy == "sequoia" and self.parents is None)

    @property
    def is_replaceable(self) -> bool:
        """Whether another machine's tree may take its place: it is an ordinary tree, and nothing but speed depends on it."""
        is_ordinary = self.policy in ("dynamic", "chain") and not self.compile
        return is_ordinary and self.acceptance == "sample_match"

    @property
    def max_expanded_nodes(self) -> int:
        """How many nodes a drafter runs at most, the root not counted: those that may have children."""
        return (
            (self.depth - 1) * self.top_k if self.parents is None else len(set(self.parents) - {0})
        )

    def _set(self, **values) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def parse(cls, text: str) -> "TreeConfig":
        """The tree of policy:depth:top_k:nodes, which is what `str(tree)` gives; a fixed shape has no such text."""
        policy, *numbers = text.split(":")
        rule = {"acceptance": numbers.pop()} if len(numbers) == 4 else {}
        if len(numbers) != 3 or not all(number.isdigit() for number in numbers):
            raise ValueError(
                f"the tree is {text!r}; write policy:depth:top_k:nodes, e.g. dynamic:4:4:16 or chain:4:1:4"
            )
        return cls(policy, *map(int, numbers), **rule)

    def __str__(self) -> str:
        rule = "" if self.acceptance == "sample_match" else f":{self.acceptance}"
        return f"{self.policy}:{self.depth}:{self.top_k}:{self.nodes}{rule}"


@dataclass(frozen=True)
class Acceptance:
    """How often a head's guesses are taken, and what its confidence is worth: what trees are chosen by.

    shares[d][r]: of the drafts at depth d + 1 that were a node's guess number r, the share that the target took, the node
        itself being taken. Depths beyond the last are taken to be like it.
    slopes, offsets: by depth, P(taken) = sigmoid(slope * logit(p) + offset) of a draft of probability p.

    The default is a modest head's: SmolLM2-135M's after an hour of training (docs/experiments.md).
    """

    shares: tuple[tuple[float, ...], ...] = (
        (0.55, 0.13, 0.05, 0.04),
        (0.5, 0.12, 0.05, 0.04),
        (0.48, 0.11, 0.05, 0.04),
    )
    slopes: tuple[float, ...] = (1.0,)
    offsets: tuple[float, ...] = (0.0,)

    def __post_init__(self):
        object.__setattr__(self, "shares", tuple(tuple(row) for row in self.shares))
        for name in ("slopes", "offsets"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        widths = {len(row) for row in self.shares}
        in_range = all(share >= 0 for row in self.shares for share in row)
        if (
            len(widths) != 1
            or 0 in widths
            or not in_range
            or not all(sum(row) <= 1 + 1e-9 for row in self.shares)
        ):
            raise ValueError(
                f"shares are {self.shares!r:.80}; needed are rows of one length, by depth, of shares that add up to 1 at most"
            )
        numbers = [*self.slopes, *self.offsets, *(share for row in self.shares for share in row)]
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise ValueError(f"acceptance holds {numbers!r:.80}; needed are finite numbers")
        if not self.slopes or len(self.slopes) != len(self.offsets):
            raise ValueError(
                f"{len(self.slopes)} slopes and {len(self.offsets)} offsets; give one of each for every depth"
            )


@strict
class Eagle3Config(LlamaConfig):
    """Configuration of an EAGLE-3 draft head (arXiv 2503.01840); `from_target` fills it for a target.

    vocab_size: the *target's*; draft_vocab_size: rows of the head's own LM head.
    target_hidden_size: width of one target state and of the target's embeddings; equals hidden_size.
    fc_norm, norm_output: EAGLE-3.1's two changes (an RMSNorm per state before fc; the normed output is fed back).
    norm_before_residual: the residual stream starts from the normed state (speculators' default); SGLang ignores it.
    eagle_hf: aux_layer_ids, target_num_hidden_layers, trained_length, tree, window, acceptance.
    """

    draft_vocab_size: int | None = None
    target_hidden_size: int | None = None
    num_aux_hidden_states: int = 3
    norm_before_residual: bool = False
    norm_before_fc: bool = False
    fc_norm: bool = False
    norm_output: bool = False
    eagle_config: dict[str, Any] | None = None
    eagle_hf: dict[str, Any] | None = None
    num_hidden_layers: int = 1

    def __post_init__(self, **kwargs):
        self.draft_vocab_size = self.draft_vocab_size or self.vocab_size
        self.target_hidden_size = self.target_hidden_size or self.hidden_size
        self.eagle_hf = dict(self.eagle_hf or {})
        ids = foreign_layer_ids(kwargs.pop(LAYER_IDS_KEY, None), self.eagle_config)
        if ids is not None:
            self.eagle_hf.setdefault("aux_layer_ids", ids)
        self.eagle_config = {"use_aux_hidden_state": True}
        super().__post_init__(**kwargs)
        self._check()

    def _check(self):
        if self.draft_vocab_size > self.vocab_size:
            raise ValueError(
                f"draft_vocab_size is {self.draft_vocab_size} but the target's vocabulary has {self.vocab_size} tokens; "
                "lower it"
            )
        if self.hidden_size != self.target_hidden_size:
            raise ValueError(
                f"hidden_size is {self.hidden_size} but target_hidden_size is {self.target_hidden_size}; "
                "the head reads the target's embeddings, so both must be the target's width"
            )
        if self.num_hidden_layers != 1:
            raise ValueError(
                f"num_hidden_layers is {self.num_hidden_layers}; an EAGLE-3 head has exactly one layer"
            )
        if self.norm_before_fc:
            raise ValueError(
                "norm_before_fc is set; this variant is not implemented, use fc_norm (EAGLE-3.1) instead"
            )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Read the config.json of any dialect (see dialects); one that describes no head is a ValueError."""
        try:
            return super().from_dict(
                translate_config(config_dict, recognise(config_dict, ())), **kwargs
            )
        except StrictDataclassError as error:
            raise ValueError(
                f"this config.json describes no head that can be built: {error}"
            ) from error

    @classmethod
    def from_target(
        cls, target, draft_vocab_size: int | None = None, **overrides
    ) -> "Eagle3Config":
        """A head config for `target` (a model or its config): same width, heads, RoPE, norms and special tokens."""
        config = getattr(target, "config", target).get_text_config()
        names = [
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "hidden_act",
            "max_position_embeddings",
            "rms_norm_eps",
            "initializer_range",
            "bos_token_id",
            "eos_token_id",
            "pad_token_id",
        ]
        values = {"intermediate_size": 4 * config.hidden_size}
        values |= {
            name: getattr(config, name) for name in names if getattr(config, name, None) is not None
        }
        rope = getattr(config, "rope_parameters", None)
        if rope and "rope_theta" in rope:
            values["rope_parameters"] = {"rope_type": "default", "rope_theta": rope["rope_theta"]}
        layers = config.num_hidden_layers
        extras = {
            "aux_layer_ids": default_aux_layer_ids(layers),
            "target_num_hidden_layers": layers,
        }
        extras.update(overrides.pop("eagle_hf", {}))
        unknown = sorted(
            set(overrides) - {field.name for field in fields(cls)} - {"attn_implementation"}
        )
        if unknown:
            raise ValueError(
                f"Eagle3Config has no setting {', '.join(unknown)}; LlamaConfig's are known, and {', '.join(OWN_FIELDS)}"
            )
        values.update(overrides)
        return cls(draft_vocab_size=draft_vocab_size, eagle_hf=extras, **values)

    @property
    def aux_layer_ids(self) -> list[int] | None:
        """HF `hidden_states` indices the head was trained on; None in a foreign head that does not say."""
        return self.eagle_hf.get("aux_layer_ids")

    @property
    def tree(self) -> TreeConfig:
        """How drafts are shaped unless the head is told otherwise."""
        settings = self.eagle_hf.get("tree", {})
        known = [field.name for field in fields(TreeConfig)]
        if set(settings) - set(known):
            raise ValueError(
                f"the head's tree settings hold {sorted(set(settings) - set(known))}; known are {', '.join(known)}"
            )
        return TreeConfig(**settings)

    @tree.setter
    def tree(self, tree: TreeConfig):
        if not isinstance(tree, TreeConfig):
            raise ValueError(f"tree is {tree!r}; give an eagle_hf.TreeConfig")
        self.eagle_hf = {
            **self.eagle_hf,
            "tree": {name: value for name, value in asdict(tree).items() if value is not None},
        }

    @property
    def acceptance(self) -> Acceptance | None:
        """How often the head's guesses are taken, where that was measured."""
        saved = self.eagle_hf.get("acceptance")
        if saved is None:
            return None
        try:
            return Acceptance(**saved)
        except TypeError as error:
            raise ValueError(
                f"the head's acceptance is {saved!r:.80}; needed are shares, slopes and offsets ({error})"
            ) from error

    @acceptance.setter
    def acceptance(self, acceptance: Acceptance):
        self.eagle_hf = {**self.eagle_hf, "acceptance": asdict(acceptance)}

    @property
    def window(self) -> tuple[int, int] | None:
        """(sinks, newest tokens) that the draft cache keeps of a text; None: all of it.

        Unless it was set, as many as the longest conversation that the head was trained on: full attention decays beyond.
        """
        trained = self.eagle_hf.get("trained_length", 0)
        default = (SINKS, trained - SINKS) if trained > 2 * SINKS else None
        window = self.eagle_hf.get("window", default)
        return None if window is None else tuple(window)

    @window.setter
    def window(self, window: tuple[int, int] | None):
        if window is not None and (
            len(window) != 2
            or any(type(n) is not int for n in window)
            or not 0 <= window[0] < window[1]
        ):
            raise ValueError(
                f"window is {window!r}; give None, or (sinks, newest tokens) with fewer sinks than tokens"
            )
        self.eagle_hf = {**self.eagle_hf, "window": None if window is None else list(window)}

    def to_dict(self) -> dict[str, Any]:
        return engine_config(super().to_dict())

    def to_diff_dict(self) -> dict[str, Any]:
        return engine_config(super().to_diff_dict())
