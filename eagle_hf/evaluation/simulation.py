"""What speculation would gain with a model on machines that are not at hand.

Every figure is simulated with `planning.roofline`. The efficiencies come from MagicDec's
measurements (arXiv 2408.11049) on 8 A100 and 8 H100. For an H200 the H100's are taken.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from transformers import AutoConfig

from eagle_hf.planning.roofline import (
    MACHINES,
    MAGICDEC_A100,
    MAGICDEC_H100,
    SHAPES,
    ForwardParts,
    ModelShape,
    Setting,
    Simulated,
    chain_tokens,
    eagle_head,
    forward_parts,
    self_speculation,
)

EFFICIENCIES = {"A100": MAGICDEC_A100, "H100": MAGICDEC_H100, "H200": MAGICDEC_H100}
Figure = TypeVar("Figure")
WAYS = ("self-speculation", "EAGLE-3 tree")
LONGEST_CHAIN = 16  # drafts of self-speculation that are tried


@dataclass(kw_only=True)
class RooflineArguments:
    """Which model, on which machines, in which cells, with which drafters."""

    model: str = field(
        metadata={
            "help": f"One of {', '.join(SHAPES)}; or hub id, folder or config.json of another "
            "dense decoder."
        }
    )
    machine: list[str] = field(metadata={"help": "GPUs, by name.", "choices": tuple(MACHINES)})
    gpus: int = field(default=1, metadata={"help": "GPUs that share the model."})
    batches: list[int] = field(
        default_factory=lambda: [1, 8, 32, 128], metadata={"help": "Rows decoded at once."}
    )
    lengths: list[int] = field(
        default_factory=lambda: [1000, 8000, 32000],
        metadata={"help": "Cached tokens of each row."},
    )
    gamma: int = field(
        default=3, metadata={"help": "Self-speculation: tokens that the target drafts a round."}
    )
    alpha: float = field(
        default=0.8, metadata={"help": "Self-speculation: acceptance of each of them, assumed."}
    )
    window: int = field(default=512, metadata={"help": "Self-speculation: tokens it drafts from."})
    tau: float = field(
        default=2.9, metadata={"help": "EAGLE-3 tree: tokens a round, the bonus included, assumed."}
    )
    nodes: int = field(default=8, metadata={"help": "EAGLE-3 tree: drafted nodes."})
    depth: int = field(default=3, metadata={"help": "EAGLE-3 tree: levels."})
    top_k: int = field(default=5, metadata={"help": "EAGLE-3 tree: nodes expanded on a level."})
    draft_vocab: int = field(
        default=32000, metadata={"help": "EAGLE-3 tree: tokens that the head can propose."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for roofline.md, roofline.json and roofline.png."}
    )

    def __post_init__(self) -> None:
        # impossible numbers are refused here, so that `None` below means memory alone
        chain_tokens(self.alpha, self.gamma)
        if self.tau < 1 or min(self.nodes, self.depth, self.top_k, self.draft_vocab) < 1:
            raise ValueError(
                f"tau {self.tau}, nodes {self.nodes}, depth {self.depth}, top_k {self.top_k} and "
                f"draft_vocab {self.draft_vocab} arrived; each is at least 1"
            )
        if self.window < 1:
            raise ValueError(f"window is {self.window}; give at least 1 token")


@dataclass(frozen=True)
class SimulatedCell:
    """Both ways of drafting in one cell; None where the model does not fit the machine.

    Args:
        machine: name of the GPU.
        batch: rows.
        length: cached tokens of each row.
        gains: speed-up over plain decoding, in the order of `WAYS`.
        forward: of plain decoding, part by part.
        best_chain: drafts a round with which self-speculation is the fastest; 0 where plain
            decoding is.
    """

    machine: str
    batch: int
    length: int
    gains: tuple[Simulated | None, Simulated | None]
    forward: ForwardParts | None
    best_chain: int | None


def simulated_shape(name: str) -> ModelShape:
    """Find the shape of a model.

    Args:
        name: a name that `planning.roofline` knows, or hub id, folder or config.json of a dense
            decoder with gated MLPs.

    Returns:
        Its shape.

    Raises:
        ValueError: where there is no such config, or it is not one of a dense decoder.
        OSError: where it cannot be read.
    """
    if name in SHAPES:
        return SHAPES[name]
    config = AutoConfig.from_pretrained(name).get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    hidden = getattr(config, "hidden_size", None)
    intermediate = getattr(config, "intermediate_size", None)
    if not (heads and hidden and intermediate):
        raise ValueError(
            f"{name} is a {config.model_type} whose config names no hidden_size, "
            "num_attention_heads or intermediate_size; give a dense decoder"
        )
    expert_fields = ("num_experts", "num_local_experts", "n_routed_experts")
    if any(getattr(config, field_name, None) for field_name in expert_fields):
        raise ValueError(
            f"{name} has experts, which the roofline does not model; give a dense decoder"
        )
    return ModelShape(
        name=name,
        layers=config.num_hidden_layers,
        hidden=hidden,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or hidden // heads,
        intermediate=intermediate,
        vocab=config.vocab_size,
        tied=bool(config.tie_word_embeddings),
    )


def simulate(arguments: RooflineArguments, shape: ModelShape) -> list[SimulatedCell]:
    """Simulate every machine, length and batch.

    Args:
        arguments: machines, cells and drafters.
        shape: of the target.

    Returns:
        The cells, machine by machine, length by length.

    Raises:
        ValueError: for batches, lengths or numbers of GPUs below 1.
    """
    cells = []
    for name in arguments.machine:
        for length in arguments.lengths:
            for batch in arguments.batches:
                setting = Setting(shape, MACHINES[name], batch, length, arguments.gpus)
                gains = (
                    _unless_too_large(_gain_of_self_speculation, setting, arguments),
                    _unless_too_large(_gain_of_tree, setting, arguments),
                )
                forward = _unless_too_large(_plain_forward, setting, arguments)
                chain = _unless_too_large(_best_chain, setting, arguments)
                cells.append(SimulatedCell(name, batch, length, gains, forward, chain))
    return cells


def _unless_too_large(
    simulated: Callable[[Setting, RooflineArguments], Figure],
    setting: Setting,
    arguments: RooflineArguments,
) -> Figure | None:
    """A figure, None where the machine's memory does not hold model and caches."""
    try:
        return simulated(setting, arguments)
    except ValueError:
        return None


def _gain_of_self_speculation(setting: Setting, arguments: RooflineArguments) -> Simulated:
    """The target drafts for itself behind a window (MagicDec)."""
    efficiency = EFFICIENCIES[setting.machine.name]
    return self_speculation(setting, efficiency, arguments.gamma, arguments.alpha, arguments.window)


def _best_chain(setting: Setting, arguments: RooflineArguments) -> int:
    """With how many drafts a round self-speculation is the fastest."""
    efficiency = EFFICIENCIES[setting.machine.name]
    gains = [1.0]  # without drafts
    for gamma in range(1, LONGEST_CHAIN + 1):
        gain = self_speculation(setting, efficiency, gamma, arguments.alpha, arguments.window)
        gains.append(gain.value)
    return gains.index(max(gains))


def _plain_forward(setting: Setting, arguments: RooflineArguments) -> ForwardParts:
    """A token of every row, without drafts."""
    return forward_parts(
        setting.target,
        setting.machine,
        EFFICIENCIES[setting.machine.name],
        setting.batch,
        setting.length,
        tokens=1,
        gpus=setting.gpus,
    )


def _gain_of_tree(setting: Setting, arguments: RooflineArguments) -> Simulated:
    """An EAGLE-3 head drafts a tree."""
    return eagle_head(
        setting,
        EFFICIENCIES[setting.machine.name],
        tau=arguments.tau,
        nodes=arguments.nodes,
        depth=arguments.depth,
        top_k=arguments.top_k,
        draft_vocab=arguments.draft_vocab,
    )
