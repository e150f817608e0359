"""`SpeculativeRollouts`: a trainer's rollouts by drafts, and a head that follows its policy.

TRL's trainers call `model.generate(...)`, and have no place for an assistant. This callback answers
that call while they train. Nothing else of theirs changes.

    step of the policy     0         1         2         3
    generate               drafted   plain     drafted   drafted      see pace.py
    update                 policy    policy    policy    policy
    afterwards             head      head      head      head         see learner.py
"""

import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.utils import logging

from eagle_hf.compat import AssistedCall, patch_logs
from eagle_hf.decoding.assistants import EagleAssistant
from eagle_hf.decoding.attached import attach, detach
from eagle_hf.decoding.checks import check_target
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.trees import TreeConfig
from eagle_hf.rollouts.answers import Rollout, rollouts_of
from eagle_hf.rollouts.drafting import RolloutDrafter
from eagle_hf.rollouts.figures import Figures
from eagle_hf.rollouts.learner import HeadLearner
from eagle_hf.rollouts.pace import LOSS_LIMIT, Pace
from eagle_hf.rollouts.saving import load_states, save_states
from eagle_hf.rollouts.watch import TauWatch
from eagle_hf.target import evaluating, execution_device, unwrap

logger = logging.get_logger(__name__)

SILENT_STEPS = 20  # after which a trainer that never calls generate is named
OTHER_GENERATORS = {
    "use_vllm": "vLLM generates its rollouts, which never reach model.generate; set "
    "use_vllm=False, or give the head to vLLM itself (docs/hub_and_serving.md)",
    "use_transformers_paged": "paged generation does not go through model.generate; set it False",
    "use_transformers_continuous_batching": "continuous batching does not go through "
    "model.generate; set it False",
}


class SpeculativeRollouts(TrainerCallback):
    """Let a trainer's own `generate` calls draft with a head, which follows the policy.

    ```python
    trainer = GRPOTrainer(...)
    trainer.add_callback(SpeculativeRollouts(head))
    trainer.train()
    ```

    Rollouts are those of plain generate: token for token under the same seed for one row, in
    batches in distribution. Logged are `rollout/tau`, `rollout/alpha_k`, `rollout/drafted` (share
    of the calls), `rollout/speed` (plain over drafted seconds), `rollout/seconds`, and of the
    head's learning `rollout/head_steps`, `rollout/head_seconds`, `rollout/head_loss`.

    Where drafting cannot be done it is said, and training goes on without.

    Args:
        head: the draft head, or its folder or hub id. It is moved to the policy's device.
        tree: what it drafts; None: its own, or what the machine's measured costs choose.
        learn_every: steps of the policy between two turns of the head's learning; 0: it stays as it
            is.
        learn_share: seconds of learning per second of training, at most. Once plain and drafted
            rollouts were both timed, a turn also takes no more than drafting has saved.
        learning_rate: of the head.
        ttt_length: passes that its training unrolls.
        batch_size: rollouts of one of its optimiser's steps.
        measure_every: calls from one plain measurement to the next; 0: none, and no pause where
            drafting loses.
        same_seed: let the rows of a batch advance together, so that batches too are those of plain
            generate under the same seed. Drafts are lost by it.

    Raises:
        ValueError: a number that makes no sense.
    """

    def __init__(
        self,
        head: Eagle3DraftHead | str | Path,
        *,
        tree: TreeConfig | None = None,
        learn_every: int = 1,
        learn_share: float = 0.1,
        learning_rate: float = 1e-4,
        ttt_length: int = 3,
        batch_size: int = 8,
        measure_every: int = 50,
        same_seed: bool = False,
    ):
        _check_numbers(learn_every, learn_share, measure_every)
        if not isinstance(head, Eagle3DraftHead):
            head = Eagle3DraftHead.from_pretrained(head, dtype="auto")
        self.head = head.eval()
        self.learn_every = learn_every
        self.learn_share = learn_share
        self.learner: HeadLearner | None = None
        self.pace = Pace(measure_every)
        self._learner_settings = (learning_rate, ttt_length, batch_size)
        self._drafter = RolloutDrafter(
            EagleAssistant(head, tree), self.pace, same_seed, self._note_call
        )
        self._watch = TauWatch()
        self._figures = Figures()
        self._rollouts: list[Rollout] = []
        self._policy: Any = None  # while it is drafted for
        self._is_training_step = False
        self._step_started = 0.0
        self._silent_steps = 0
        self._credit = 0.0  # seconds of learning
        self._saved = 0.0  # seconds, since the last turn
        patch_logs()

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any):
        """Begin to answer the policy's generate."""
        for name, remedy in OTHER_GENERATORS.items():
            if getattr(args, name, False):
                logger.error(f"SpeculativeRollouts does nothing: with {name}=True {remedy}")
                return
        try:
            self.head.to(execution_device(model))
            with evaluating(unwrap(model)):  # its mode is that of training until it generates
                check_target(unwrap(model), self._drafter.assistant)
            attach(model, self._drafter)
        except ValueError as error:
            logger.error(f"SpeculativeRollouts does nothing: {error}")
            return
        self._policy = model
        if self.learn_every:
            self.learner = HeadLearner(self.head, *self._learner_settings)
        if state.global_step:
            load_states(args, state, self.pace, self.learner)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any):
        """Leave generate to transformers again."""
        if self._policy is not None:
            detach(self._policy)
            self._policy = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any):
        """What is generated from now on is learnt from."""
        self._is_training_step = True
        self._step_started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any):
        """Learn from the rollouts just made, with the policy's new weights."""
        self._is_training_step = False
        if self._policy is None:
            return
        self._name_silence(args)
        if self.learner is None:
            return
        self._credit += self.learn_share * (time.perf_counter() - self._step_started)
        if state.global_step % self.learn_every == 0:
            self._learn(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any):
        """Save the head, and what its learning goes on from, in the checkpoint."""
        if self._policy is not None and state.is_world_process_zero:
            save_states(args, state, self.head, self.pace, self.learner)

    def add_to_logs(self, logs: dict[str, float]) -> None:
        """Add the rollouts' figures to a line of training's log."""
        if "loss" not in logs:
            return
        logs.update(self._figures.logs(self.pace.speed))
        self._figures = Figures()

    def _note_call(
        self, call: AssistedCall, output: Any, stats: DecodingStats | None, seconds: float
    ) -> None:
        """Count a call of generate, and keep what was generated for learning."""
        if not self._is_training_step:
            return
        self._silent_steps = 0
        self._figures.add_call(stats, seconds)
        if stats is not None:
            self._saved += self.pace.saved(seconds)
        if self.learner is None:
            return
        if stats is not None and stats.rounds:
            self._follow_tau(self.learner, stats.tau)
        self._rollouts = rollouts_of(output, call) + self._rollouts

    def _follow_tau(self, learner: HeadLearner, tau: float) -> None:
        """Keep weights that draft well, and return to them from such as do not."""
        verdict = self._watch.add(tau)
        if verdict == "keep":
            learner.keep()
        elif verdict == "roll back":
            learner.roll_back()
            logger.warning_once(
                f"the head drafted far worse after learning (tau {tau:.2f}): it is back at the "
                "weights that drafted well; lower its learning_rate"
            )

    def _learn(self, step: int) -> None:
        """One turn of learning, within the seconds that are left for it."""
        assert self.learner is not None
        seconds = self._credit
        if self.pace.speed is not None:
            allowed = self._saved + LOSS_LIMIT / 2 * self._credit / max(self.learn_share, 1e-9)
            seconds = min(seconds, max(allowed, 0.0))
        turn = self.learner.learn(self._policy, self._rollouts, seconds)
        if turn.diverged:
            logger.warning_once(
                f"the head's loss was not finite at step {step}: it is back at the weights that "
                "drafted well; lower its learning_rate, or look for NaN in the policy"
            )
        if turn.steps:
            self._saved = 0.0
        self._credit -= turn.seconds
        self._figures.add_learning(turn.steps, turn.seconds, turn.loss)
        self._rollouts = []

    def _name_silence(self, args: Any) -> None:
        """Say once that a trainer never calls generate."""
        self._silent_steps += 1
        if self._silent_steps == SILENT_STEPS:
            logger.error(
                f"SpeculativeRollouts saw no model.generate in {SILENT_STEPS} steps of a trainer "
                f"with {type(args).__name__}; it drafts for trainers that generate rollouts with "
                "the model in this process, such as TRL's GRPOTrainer"
            )


def _check_numbers(learn_every: int, learn_share: float, measure_every: int) -> None:
    """Refuse numbers that make no sense."""
    for name, value in (("learn_every", learn_every), ("measure_every", measure_every)):
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"{name} is {value!r}; give a count of at least 0, where 0 is never")
    if not 0 <= learn_share < 1:
        raise ValueError(
            f"learn_share is {learn_share!r}; give a share of the training time, from 0 to below 1"
        )
