"""What a draft head is made of: `Eagle3Config`, and how its drafts are shaped: `TreeConfig`.

In memory and on disk the config is a Llama config, because that is what vLLM, SGLang and llama.cpp parse.
What only eagle_hf needs lives under the one key `eagle_hf`, which the engines ignore.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig

from eagle_hf.head.layouts import LAYER_IDS_KEY, engine_config, foreign_layer_ids


OWN_FIELDS = ("draft_vocab_size", "fc_norm", "norm_output", "norm_before_residual", "eagle_hf")


def default_aux_layer_ids(num_hidden_layers: int) -> list[int]:
    """The three streams EAGLE-3 reads, as HF `hidden_states` indices: (2, n//2, n-3)."""
    n = num_hidden_layers
    if n < 3:
        raise ValueError(f"the target has {n} layers; EAGLE-3 reads three of its streams and needs at least 3 layers")
    return [min(2, n - 1), n // 2, max(n - 3, 0)]


@dataclass(frozen=True)
class TreeConfig:
    """The shape of one round's drafts.

    policy: "dynamic" (EAGLE-2: the most probable nodes of each level are expanded, the best of all are kept) or
        "chain" (the single best continuation, `depth` tokens long).
    depth: levels below the root; the head runs once per level.
    top_k: nodes expanded per level, and children proposed per expanded node.
    nodes: drafted tokens per round, the root not counted; the target reads nodes + 1 tokens.

    The default was the fastest but one of eight shapes for SmolLM2-135M in bf16 on 2 CPU cores (1.28x; a chain of 4
    gave 1.13x, 16 nodes 1.17x); large GPUs want more (EAGLE-3: depth 8, top_k 10, 60 nodes).
    """

    policy: str = "dynamic"
    depth: int = 3
    top_k: int = 5
    nodes: int = 8

    def __post_init__(self):
        if self.policy not in ("dynamic", "chain"):
            raise ValueError(f'tree policy is {self.policy!r}; choose "dynamic" or "chain"')
        for field in ("depth", "top_k", "nodes"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"tree {field} is {value!r}; it counts levels or tokens and must be an integer of at least 1")
        if self.policy == "chain":
            object.__setattr__(self, "top_k", 1)
            object.__setattr__(self, "nodes", self.depth)

    @classmethod
    def parse(cls, text: str) -> "TreeConfig":
        """The tree of policy:depth:top_k:nodes, which is what `str(tree)` gives."""
        policy, *numbers = text.split(":")
        if len(numbers) != 3 or not all(number.isdigit() for number in numbers):
            raise ValueError(f"the tree is {text!r}; write policy:depth:top_k:nodes, e.g. dynamic:4:4:16")
        return cls(policy, *map(int, numbers))

    def __str__(self) -> str:
        return f"{self.policy}:{self.depth}:{self.top_k}:{self.nodes}"


@strict
class Eagle3Config(LlamaConfig):
    """Configuration of an EAGLE-3 draft head (arXiv 2503.01840); `from_target` fills it for a target.

    vocab_size: the *target's*; draft_vocab_size: rows of the head's own LM head.
    target_hidden_size: width of one target state and of the target's embeddings; equals hidden_size.
    fc_norm, norm_output: EAGLE-3.1's two changes (an RMSNorm per state before fc; the normed output is fed back).
    norm_before_residual: the residual stream starts from the normed state (speculators' default); SGLang ignores it.
    eagle_hf: aux_layer_ids, target_num_hidden_layers, trained_length, tree.
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
            raise ValueError(f"num_hidden_layers is {self.num_hidden_layers}; an EAGLE-3 head has exactly one layer")
        if self.norm_before_fc:
            raise ValueError("norm_before_fc is set; this variant is not implemented, use fc_norm (EAGLE-3.1) instead")

    @classmethod
    def from_target(cls, target, draft_vocab_size: int | None = None, **overrides) -> "Eagle3Config":
        """A head config for `target` (a model or its config): same width, heads, RoPE, norms and special tokens."""
        config = getattr(target, "config", target).get_text_config()
        names = (
            "vocab_size hidden_size intermediate_size num_attention_heads num_key_value_heads head_dim hidden_act "
            "max_position_embeddings rms_norm_eps initializer_range bos_token_id eos_token_id pad_token_id"
        ).split()
        values = {"intermediate_size": 4 * config.hidden_size}
        values |= {name: getattr(config, name) for name in names if getattr(config, name, None) is not None}
        rope = getattr(config, "rope_parameters", None)
        if rope and "rope_theta" in rope:
            values["rope_parameters"] = {"rope_type": "default", "rope_theta": rope["rope_theta"]}
        layers = config.num_hidden_layers
        extras = {"aux_layer_ids": default_aux_layer_ids(layers), "target_num_hidden_layers": layers}
        extras.update(overrides.pop("eagle_hf", {}))
        unknown = sorted(set(overrides) - {field.name for field in fields(cls)} - {"attn_implementation"})
        if unknown:
            raise ValueError(f"Eagle3Config has no setting {', '.join(unknown)}; LlamaConfig's are known, and {', '.join(OWN_FIELDS)}")
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
            raise ValueError(f"the head's tree settings hold {sorted(set(settings) - set(known))}; known are {', '.join(known)}")
        return TreeConfig(**settings)

    @tree.setter
    def tree(self, tree: TreeConfig):
        if not isinstance(tree, TreeConfig):
            raise ValueError(f"tree is {tree!r}; give an eagle_hf.TreeConfig")
        self.eagle_hf = {**self.eagle_hf, "tree": asdict(tree)}

    def to_dict(self) -> dict[str, Any]:
        return engine_config(super().to_dict())

    def to_diff_dict(self) -> dict[str, Any]:
        return engine_config(super().to_diff_dict())
