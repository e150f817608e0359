"""The head in a trainer's checkpoints: `checkpoint-N/rollout_head`, which engines load.

Beside it lies what its learning goes on from, in `learning.pt`.
"""

from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.rollouts.learner import HeadLearner
from eagle_hf.rollouts.pace import Pace

logger = logging.get_logger(__name__)

FOLDER = "rollout_head"
LEARNING = "learning.pt"


def checkpoint_folder(args: Any, state: Any) -> Path:
    """Where a trainer keeps the checkpoint of this step."""
    return Path(args.output_dir, f"checkpoint-{state.global_step}", FOLDER)


def save_states(
    args: Any, state: Any, head: Eagle3DraftHead, pace: Pace, learner: HeadLearner | None
) -> None:
    """Write the head, and what a resumed run goes on from."""
    folder = checkpoint_folder(args, state)
    head.save_pretrained(folder)
    kept = {"pace": pace.state(), "learner": learner.state() if learner else None}
    torch.save(kept, folder / LEARNING)


def load_states(args: Any, state: Any, pace: Pace, learner: HeadLearner | None) -> None:
    """Go on from the checkpoint of this step; where it is missing, that is said."""
    folders = [checkpoint_folder(args, state)]
    if isinstance(args.resume_from_checkpoint, str):
        folders.insert(0, Path(args.resume_from_checkpoint, FOLDER))
    for folder in folders:
        file = folder / LEARNING
        if not file.is_file():
            continue
        kept = torch.load(file, map_location="cpu", weights_only=True)
        pace.load_state(kept["pace"])
        if learner is not None and kept["learner"] is not None:
            learner.load_state(kept["learner"])
        return
    logger.warning(
        f"the run goes on at step {state.global_step}, and {folders[-1]} holds no head: rollouts "
        "are drafted by the head as it was given"
    )
