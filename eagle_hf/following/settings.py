"""What can be set about following a log; the command line makes flags of these fields."""

from dataclasses import dataclass, field
from pathlib import Path

from eagle_hf.evaluation import TargetArguments, VocabularyArguments
from eagle_hf.evaluation.arguments import DtypeArguments
from eagle_hf.head.trees import TreeConfig
from eagle_hf.hub.publish import check_name

# Of different prompts. Percentile intervals of fewer are too narrow: of one they have no width.
LEAST_HELD_OUT = 16
COUNTS = ("batch_size", "epochs", "keep", "most_new")


@dataclass(kw_only=True)
class FollowSettings(TargetArguments, VocabularyArguments, DtypeArguments):
    """Which head follows which log, and how."""

    head: str = field(metadata={"help": "The head to begin with: folder or hub id."})
    log: Path = field(
        metadata={"help": "Folder of JSON-lines files with token ids, which may grow meanwhile."}
    )
    out: Path = field(
        default=Path("outputs/following"),
        metadata={"help": "Folder of the versions, the history, and all that is remembered."},
    )
    minutes: float = field(default=10.0, metadata={"help": "Of training in a cycle, at most."})
    epochs: int = field(default=4, metadata={"help": "Of training in a cycle, at most."})
    learning_rate: float = field(
        default=5e-5,
        metadata={
            "help": "Its peak; few steps at 3e-4 made a good head worse (docs/following.md)."
        },
    )
    batch_size: int = field(default=8, metadata={"help": "Conversations of a training step."})
    min_new: int = field(
        default=200, metadata={"help": "A cycle begins with so many new conversations."}
    )
    most_new: int = field(
        default=20_000,
        metadata={"help": "Of more that no version has learnt, the oldest become older ones."},
    )
    held_out: float = field(
        default=0.1,
        metadata={
            "help": f"Share of the new conversations, the newest, that old and new head are "
            f"measured on; at least {LEAST_HELD_OUT} different prompts."
        },
    )
    most_held_out: int = field(default=128, metadata={"help": "Of these prompts, at most."})
    replay: float = field(
        default=0.25, metadata={"help": "Share of older conversations among those trained on."}
    )
    reservoir: int = field(
        default=5000, metadata={"help": "Older conversations that are kept, drawn at random."}
    )
    tree: str | None = field(
        default=None,
        metadata={
            "help": "What both heads draft when they are measured, policy:depth:top_k:nodes, such "
            "as chain:4:1:4 (default: the head's own)."
        },
    )
    keep: int = field(default=3, metadata={"help": "Versions that stay on disk."})
    every: float | None = field(
        default=None, metadata={"help": "Minutes between cycles, without end (default: one cycle)."}
    )
    hub_id: str | None = field(
        default=None, metadata={"help": "Repository that published versions are pushed to."}
    )
    private: bool = field(
        default=False, metadata={"help": "Make that repository private, where it is new."}
    )
    seed: int = field(default=0, metadata={"help": "Of the training."})

    def __post_init__(self) -> None:
        for name in COUNTS:
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        for name in ("minutes", "learning_rate", "every"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be positive")
        if not 0 < self.held_out < 1:
            raise ValueError(
                f"held_out is {self.held_out}; it is a share of the new conversations, above 0 "
                "and below 1"
            )
        if not 0 <= self.replay < 1 or self.reservoir < 0:
            raise ValueError(
                f"replay is {self.replay} and reservoir {self.reservoir}; replay is a share of "
                "the trained conversations, at least 0 and below 1, and reservoir counts those kept"
            )
        self._check_held_out()
        if self.hub_id is not None:
            check_name(self.hub_id)
        self.measured_tree()

    def _check_held_out(self) -> None:
        """Refuse counts with which no cycle could train and be measured."""
        if self.most_held_out < LEAST_HELD_OUT:
            raise ValueError(
                f"most_held_out is {self.most_held_out}; fewer than {LEAST_HELD_OUT} prompts say "
                "too little of which head is better"
            )
        if self.min_new < 2 * LEAST_HELD_OUT or self.most_new < self.min_new:
            raise ValueError(
                f"min_new is {self.min_new} and most_new {self.most_new}; min_new is at least "
                f"{2 * LEAST_HELD_OUT}, of which {LEAST_HELD_OUT} are held out, and most_new no "
                "less than min_new"
            )

    def measured_tree(self) -> TreeConfig | None:
        """The tree of the flag; None for the head's own."""
        return None if self.tree is None else TreeConfig.parse(self.tree)
