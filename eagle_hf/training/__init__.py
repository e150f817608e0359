"""Training a draft head: the loss, the arguments, the Trainer."""

from eagle_hf.training.arguments import Eagle3TrainingArguments
from eagle_hf.training.batches import TargetStates, collate
from eagle_hf.training.checkpoints import last_checkpoint
from eagle_hf.training.loss import ttt_loss
from eagle_hf.training.merging import lora_config, merge_adapter
from eagle_hf.training.scaled_fc import plain_fc
from eagle_hf.training.sharding import shard_target
from eagle_hf.training.start import new_head
from eagle_hf.training.teacher import ask_teacher
from eagle_hf.training.trainer import Eagle3Trainer

__all__ = [
    "Eagle3Trainer",
    "Eagle3TrainingArguments",
    "TargetStates",
    "ask_teacher",
    "collate",
    "last_checkpoint",
    "lora_config",
    "merge_adapter",
    "new_head",
    "plain_fc",
    "shard_target",
    "ttt_loss",
]
