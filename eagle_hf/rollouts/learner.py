"""The head that follows: it learns from the rollouts just made, at the policy's weights of now.

Training-time test as in `Eagle3Trainer` (see recipes/naked_loop.py for the same on one page), on a
copy of the head with float32 weights. The head that drafts gets them after every turn. Processes
average their gradients and stop together, so their heads stay equal.

The generator of random numbers is never touched: a run draws the same rollouts with a learner and
without.

B rows, S slots, H hidden.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.rollouts.answers import Rollout
from eagle_hf.rollouts.gathering import gathered
from eagle_hf.target import (
    aux_layer_ids,
    draft_vocab_logits,
    embedded_ids,
    evaluating,
    execution_device,
    unwrap,
)
from eagle_hf.training import TargetStates, ask_teacher, collate, ttt_loss
from eagle_hf.training.batches import on_device

BETAS = (0.9, 0.95)  # AdamW's, and the clipping, as EAGLE-3 trains
CLIP = 0.5


@dataclass(frozen=True)
class Turn:
    """What one turn of learning came to.

    Attributes:
        steps: of the optimiser.
        seconds: that it took.
        loss: per learnt token of its last step; None without a step.
        diverged: whether a loss or gradient was not finite, so that nothing of it was kept.
    """

    steps: int
    seconds: float
    loss: float | None
    diverged: bool = False


class HeadLearner:
    """Trains a head while it drafts.

    Args:
        head: the head that drafts; it is given new weights after every turn.
        learning_rate: of AdamW, constant.
        ttt_length: unrolled passes.
        batch_size: rollouts of a step.
    """

    def __init__(
        self,
        head: Eagle3DraftHead,
        learning_rate: float = 1e-4,
        ttt_length: int = 3,
        batch_size: int = 8,
    ):
        self.head = head
        self.ttt_length = ttt_length
        self.batch_size = batch_size
        self.master = copy.deepcopy(head)
        if head.dtype in (torch.bfloat16, torch.float16):
            self.master = self.master.float()
        self.master.requires_grad_(True)
        self.learning_rate = learning_rate
        self._good = self._weights()
        self._has_learnt = False  # since weights were kept
        self._restart()

    def keep(self) -> None:
        """Say that the weights of now draft well."""
        if self._has_learnt:
            self._good = self._weights()
            self._has_learnt = False

    def roll_back(self) -> None:
        """Return to the weights that drafted well last, with a new optimiser."""
        self.master.load_state_dict(self._good)
        self._restart()
        self._hand_over()

    def learn(self, policy: Any, rollouts: Sequence[Rollout], seconds: float) -> Turn:
        """Learn from rollouts, each at most once, within a budget.

        With several processes all call this, whatever each has to learn from.

        Args:
            policy: the causal LM that generated them, as it is now.
            rollouts: the newest; those that come first are learnt first.
            seconds: when no further step begins.
        """
        with gathered(policy):
            return self._learn(policy, rollouts, seconds)

    def _learn(self, policy: Any, rollouts: Sequence[Rollout], seconds: float) -> Turn:
        """As `learn`, from a policy whose weights are whole."""
        started = time.perf_counter()
        steps = 0
        loss = None
        batches = self._batches(rollouts) if seconds > 0 else []
        step = self._step_on(policy) if batches else None
        self.master.train()
        while self._all_agree(bool(batches) and time.perf_counter() - started < seconds):
            assert step is not None
            loss = step(batches.pop(0))
            if not self._all_agree(loss is not None):
                self.roll_back()
                return Turn(steps, time.perf_counter() - started, None, diverged=True)
            steps += 1
        if steps:
            self._has_learnt = True
            self._hand_over()
        return Turn(steps, time.perf_counter() - started, loss)

    def state(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        return {
            "master": self._weights(),
            "good": self._good,
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state; the head that drafts gets its weights."""
        self.master.load_state_dict(state["master"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._good = state["good"]
        self._has_learnt = True
        self._hand_over()

    def _restart(self) -> None:
        """A new optimiser."""
        self._optimizer = torch.optim.AdamW(
            self.master.parameters(), lr=self.learning_rate, betas=BETAS, weight_decay=0.0
        )

    def _weights(self) -> dict[str, torch.Tensor]:
        """A copy of the master's weights."""
        return {name: part.detach().clone() for name, part in self.master.state_dict().items()}

    @torch.no_grad()
    def _hand_over(self) -> None:
        """Give the head that drafts the master's weights, in its own dtype."""
        pairs = zip(self.head.parameters(), self.master.parameters(), strict=True)
        for drafting, learnt in pairs:
            drafting.copy_(learnt)

    def _batches(self, rollouts: Sequence[Rollout]) -> list[Sequence[Rollout]]:
        """Rollouts that are learnt together; those too short to teach anything are left out."""
        usable = [one for one in rollouts if one.loss_mask[2:].any()]
        starts = range(0, len(usable), self.batch_size)
        return [usable[start : start + self.batch_size] for start in starts]

    def _step_on(self, policy: Any) -> Callable[[Sequence[Rollout]], float | None]:
        """A step's function for the policy of this moment; its LM head is gathered once."""
        states = TargetStates(policy, aux_layer_ids(policy, self.head.config))
        lm_head_rows = draft_vocab_logits(policy, self.master.draft_to_target)
        device = execution_device(policy)

        def step(rollouts: Sequence[Rollout]) -> float | None:
            # 1) the policy reads what it generated
            batch = on_device(collate([one.as_example() for one in rollouts]), device)
            with torch.no_grad(), evaluating(unwrap(policy)):
                batch |= states.run_target(batch)
                teacher = ask_teacher(batch, lm_head_rows, self.master.draft_to_target)
                next_ids = embedded_ids(policy, batch["input_ids"].roll(-1, dims=1))
                embeddings = unwrap(policy).get_input_embeddings()(next_ids)  # [B, S, H]
            if not len(teacher.best):  # other processes may have something to learn
                return self._update(torch.zeros(()))

            # 2) the head unrolls its passes, and takes a step
            dtype = self.master.dtype
            with torch.enable_grad():
                outputs = self.master(
                    embeddings.to(dtype),
                    batch["aux_hidden_states"].to(dtype),
                    ttt_length=self.ttt_length,
                )
                loss, _, _ = ttt_loss(self.master, outputs, teacher)
                loss = loss / (batch["labels"] != -100).sum()
                loss.backward()
            return self._update(loss)

        return step

    def _update(self, loss: torch.Tensor) -> float | None:
        """Step with all processes' gradients; None where one is not finite."""
        self._average_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.master.parameters(), CLIP)
        is_finite = bool(torch.isfinite(norm)) and bool(torch.isfinite(loss))
        if is_finite:
            self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.item() if is_finite else None

    def _average_gradients(self) -> None:
        """Average the gradients over the processes."""
        if not distributed.is_initialized():
            return
        for parameter in self.master.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)
            parameter.grad /= distributed.get_world_size()

    def _all_agree(self, wish: bool) -> bool:
        """Whether every process wishes so."""
        if not distributed.is_initialized():
            return wish
        votes = torch.tensor([float(wish)], device=self.head.device)
        distributed.all_reduce(votes, distributed.ReduceOp.MIN)
        return bool(votes.item())
