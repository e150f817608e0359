"""`Eagle3TrainingArguments`: TrainingArguments, and what only draft heads need."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from eagle_hf.compat import checkpointing_field
from eagle_hf.data.examples.reader import TRAIN_ON
from eagle_hf.data.templates.arguments import read_variables
from eagle_hf.target.dtypes import default_device, has_native_bf16
from eagle_hf.training.loss import LOSSES
from eagle_hf.training.sharding import check_head_stays_whole, check_shard_target

NORMALISERS = ("valid", "slots")
POSITIVE = ("ttt_length", "max_length", "max_minutes", "eval_new_tokens")


@dataclass
class Eagle3TrainingArguments(TrainingArguments):
    """Arguments of `Eagle3Trainer`.

    Defaults that differ from TrainingArguments' are the EAGLE-3 authors', unless an ablation spoke
    against them (docs/experiments/).

    Args:
        kwargs: the fields below, each with its help, and those of TrainingArguments.

    Raises:
        ValueError: a value, or a combination of values, with which no head can be trained.
    """

    # TrainingArguments' own fields, with other defaults.
    learning_rate: float = field(
        default=1e-4,
        metadata={
            "help": "Peak learning rate; small heads take more: 1e-3 at a hidden size of 576 "
            "(docs/experiments/)."
        },
    )
    adam_beta2: float = field(default=0.95, metadata={"help": "AdamW's beta2 (EAGLE-3: 0.95)."})
    max_grad_norm: float = field(
        default=0.5, metadata={"help": "Gradient clipping (EAGLE-3: 0.5)."}
    )
    bf16: bool | None = field(
        default=None,
        metadata={
            "help": "Autocast to bfloat16; not given: where the machine computes in it natively, "
            "and fp16 was not asked for."
        },
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Conversations carry columns that forward never sees."}
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True,
        metadata={"help": "So that a resumed run knows how many of its max_minutes are spent."},
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False,
        metadata={
            "help": "Every parameter is used in every step, the LM head outside the wrapped "
            "forward."
        },
    )

    # The loss.
    loss_type: str = field(
        default="ce",
        metadata={
            "help": "ce (soft cross-entropy, EAGLE-3), lk_hybrid or log_alpha (LK losses, "
            "arXiv 2602.23881)."
        },
    )
    loss_normaliser: str = field(
        default="valid",
        metadata={
            "help": "Divide the summed loss by the learnt tokens (valid) or by all slots (slots; "
            "EAGLE's code)."
        },
    )
    ttt_length: int = field(
        default=3,
        metadata={
            "help": "Unrolled passes of training-time test; EAGLE-3's 7 accepted less after equal "
            "time (docs/experiments/)."
        },
    )
    ttt_curriculum: list[int] | None = field(
        default=None,
        metadata={
            "help": "Passes during equal shares of the run, e.g. [1, 2, 4]; overrides ttt_length."
        },
    )
    ttt_decay: float = field(default=0.8, metadata={"help": "Weight of pass k is ttt_decay ** k."})
    feature_dropout: float = field(
        default=0.0,
        metadata={
            "help": "Share of the target's states set to 0 while training, so that a small corpus "
            "is not learnt by heart."
        },
    )

    # The data.
    packing: bool = field(
        default=False, metadata={"help": "A batch's conversations lie in one row, without padding."}
    )
    learn_prompts: bool = field(
        default=False,
        metadata={
            "help": "Learn from prompt tokens too: more text where responses are few (below some "
            "200,000 tokens)."
        },
    )
    max_length: int | None = field(
        default=None,
        metadata={
            "help": "Conversations longer than this many tokens are skipped; default: the target's "
            "limit."
        },
    )
    train_on: str = field(
        default="all",
        metadata={
            "help": "Which answers of a conversation are learnt: all, or the last_turn.",
        },
    )
    chat_template_kwargs: dict | str | None = field(
        default=None,
        metadata={
            "help": "Variables of the chat template, a JSON object such as "
            "'{\"enable_thinking\": false}'; a row's own win."
        },
    )
    dataset_num_proc: int | None = field(
        default=None,
        metadata={"help": "Processes that tokenise conversations; default: one. Of no stream."},
    )
    max_minutes: float | None = field(
        default=None,
        metadata={
            "help": "Stop after this many minutes; learning rate and curriculum follow the clock."
        },
    )

    # The target.
    target_states_gb: float = field(
        default=0.0,
        metadata={
            "help": "Keep up to this many GB of target states in memory, so later epochs skip the "
            "target."
        },
    )
    shard_target: str | None = field(
        default=None,
        metadata={
            "help": "Each process holds its share of the target's layers: fsdp2, or a DeepSpeed "
            "ZeRO-3 json file."
        },
    )

    # Evaluation.
    eval_prompts: int = field(
        default=16,
        metadata={
            "help": "At every evaluation the head drafts on this many held-out prompts: eval_tau, "
            "eval_alpha_k. 0: never."
        },
    )
    eval_new_tokens: int = field(
        default=64, metadata={"help": "Tokens generated for each of them."}
    )

    def __post_init__(self) -> None:
        if self.bf16 is None:
            self._choose_bf16()
        super().__post_init__()
        check_head_stays_whole(self)
        check_shard_target(self.shard_target, self.target_states_gb)
        self._check_choices()
        self.chat_template_kwargs = read_variables(self.chat_template_kwargs) or None
        self._forbid_reentrant_checkpointing()
        self._check_ranges()

    @property
    def target_device(self) -> torch.device:
        """Where the target is opened: beside the head on a CUDA GPU, else on the CPU.

        Of a sharded target only this process's share moves to the GPU, later.
        """
        if self.use_cpu or self.shard_target or not torch.cuda.is_available():
            return torch.device("cpu")
        return self.device

    def _choose_bf16(self) -> None:
        """Set bf16 where the device computes in it natively."""
        device = torch.device("cpu") if self.use_cpu else default_device()
        self.bf16 = not self.fp16 and has_native_bf16(device)
        if device.type == "cpu":
            self.use_cpu = True  # else bf16 is refused on machines without a GPU

    def _check_choices(self) -> None:
        """Refuse names that are none of the choices."""
        named = {"loss_type": LOSSES, "loss_normaliser": NORMALISERS, "train_on": TRAIN_ON}
        for name, choices in named.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}")

    def _forbid_reentrant_checkpointing(self) -> None:
        """Set use_reentrant=False, and refuse True."""
        name = checkpointing_field(self)
        settings = getattr(self, name) or {}
        if settings.get("use_reentrant"):
            raise ValueError(
                f"{name} asks for use_reentrant; TTT passes share tensors, which only "
                "use_reentrant=False knows"
            )
        setattr(self, name, {"use_reentrant": False} | settings)

    def _check_ranges(self) -> None:
        """Refuse numbers out of their range."""
        if self.eval_prompts < 0:
            raise ValueError(
                f"eval_prompts is {self.eval_prompts}; it counts prompts, 0 measures none"
            )
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be positive")
        if not 0 <= self.feature_dropout < 1:
            raise ValueError(
                f"feature_dropout is {self.feature_dropout}; it is a share of the target's states, "
                "at least 0 and below 1"
            )
        curriculum = self.ttt_curriculum
        if curriculum is not None and (not curriculum or min(curriculum) < 1):
            raise ValueError(
                f"ttt_curriculum is {curriculum}; give pass counts of at least 1, e.g. [1, 2, 4]"
            )
