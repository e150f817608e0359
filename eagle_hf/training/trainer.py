"""`Eagle3Trainer`: transformers' Trainer for draft heads; the target stays outside the trained model.

B batch, S sequence, K passes. Batches are padded on the right; `labels` hold the response tokens, -100 elsewhere.
"""

import math
import time

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState, ProgressCallback
from transformers.utils import logging

from eagle_hf.data.masking import eos_token_ids, tokenize_conversations, usable_examples
from eagle_hf.target import aux_layer_ids, check_compatible, target_states, unwrap
from eagle_hf.training.arguments import Eagle3TrainingArguments
from eagle_hf.training.loss import ask_teacher, best_tokens, ttt_loss

logger = logging.get_logger(__name__)
WARMUP = 0.03  # share of a clocked run


class Eagle3Trainer(Trainer):
    """Trains `model`, a draft head, to foresee `target`, online: the target runs over every batch, frozen.

    train_dataset, eval_dataset: conversations (`messages`), rendered with processing_class's chat template, or rows
    already tokenised (`input_ids`, `loss_mask`). Unusable conversations are skipped, counted and listed in `skipped`.
    """

    args: Eagle3TrainingArguments
    loss_is_scaled_for_ga = True  # summed and divided by the pooled batch's learnt tokens

    def __init__(self, model, target, args, train_dataset=None, eval_dataset=None, processing_class=None, **kwargs):
        check_compatible(target, model.config)
        self.target, self.skipped = target.requires_grad_(False).eval(), []
        self.layer_ids = aux_layer_ids(target, model.config)
        self.states = TargetStates(target, self.layer_ids, args.target_states_gb)
        self.pass_counts, self.args = None, args
        datasets = [self._examples(rows, processing_class, args.max_length) for rows in (train_dataset, eval_dataset)]
        if args.max_minutes is not None:
            kwargs["callbacks"] = [*(kwargs.get("callbacks") or []), TimeBudget(args.max_minutes)]
        super().__init__(
            model=model, args=args, train_dataset=datasets[0], eval_dataset=datasets[1],
            processing_class=processing_class, data_collator=kwargs.pop("data_collator", collate), **kwargs,
        )
        if args.max_minutes is not None:
            self.remove_callback(ProgressCallback)  # its bar counts steps; TimeBudget's counts the seconds
        self.model_accepts_loss_kwargs = True  # so that num_items_in_batch arrives
        if datasets[0]:
            longest = max(len(example["input_ids"]) for example in datasets[0])
            model.config.eagle_hf = {**model.config.eagle_hf, "trained_length": longest}

    def _examples(self, rows, tokenizer, max_length):
        """Tokenised examples with an index each, from conversations or from tokenised rows."""
        if rows is None:
            return None
        if isinstance(rows, dict):
            return {name: self._examples(part, tokenizer, max_length) for name, part in rows.items()}
        rows, limit = list(rows), max_length or getattr(unwrap(self.target).config.get_text_config(), "max_position_embeddings", None)
        if rows and "input_ids" not in rows[0]:
            if tokenizer is None:
                raise ValueError("conversations were given without processing_class; pass the target's tokenizer")
            ends = eos_token_ids(self.target, tokenizer)
            rows, skipped = tokenize_conversations(rows, tokenizer, eos_token_ids=ends, max_length=limit)
        else:
            rows, skipped = usable_examples(rows, limit)
        self.skipped += skipped
        if skipped:
            logger.warning(f"{len(skipped)} conversations skipped, the first: {skipped[0]}")
        if self.args.learn_prompts:
            rows = [{**row, "loss_mask": [1] * len(row["input_ids"])} for row in rows]
        return [{**row, "index": self.states.new_index()} for row in rows]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Loss of TTT, per learnt token of the pooled batch."""
        head = unwrap(self.accelerator.unwrap_model(model))
        input_ids, labels = inputs["input_ids"], inputs["labels"]
        with torch.autocast(input_ids.device.type, enabled=False):
            aux, states, best = self.states(inputs)
            teacher = ask_teacher(self.target, states, best, labels, head.draft_to_target)
            embeddings = unwrap(self.target).get_input_embeddings()(input_ids.roll(-1, dims=1))
        outputs = model(embeddings.to(head.dtype), aux.to(head.dtype), ttt_length=self.ttt_length())
        with self.accelerator.autocast():  # the LM head is run here, outside the wrapped forward
            loss, hits, trials = ttt_loss(head, outputs, teacher, self.args.ttt_decay)
        self._count(hits, trials)
        if num_items_in_batch is None:
            loss = loss / (labels != -100).sum()
        else:  # counted over all processes, whose gradients are then averaged
            loss = loss / num_items_in_batch * (self.accelerator.num_processes if self.args.average_tokens_across_devices else 1)
        return (loss, {"loss": loss.detach()}) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        """The usual metrics and the argmax agreement of each pass, `eval_acc_k`."""
        training, self.pass_counts = self.pass_counts, None
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in self._agreement().items()})
        self.pass_counts = training
        return output

    def ttt_length(self) -> int:
        """Passes to unroll now; evaluation always unrolls them all, so that its losses can be compared."""
        curriculum = self.args.ttt_curriculum
        if not curriculum:
            return self.args.ttt_length
        if not self.model.training:
            return max(curriculum)
        return curriculum[min(int(self.progress() * len(curriculum)), len(curriculum) - 1)]

    def progress(self) -> float:
        """How much of the run is over, by steps or by the clock, whichever is further: 0 to 1."""
        steps = self.state.global_step / self.state.max_steps if self.state.max_steps > 0 else 0.0
        budget = next((cb for cb in self.callback_handler.callbacks if isinstance(cb, TimeBudget)), None)
        return min(1.0, max(steps, budget.share if budget else 0.0))

    def create_scheduler(self, num_training_steps, optimizer=None):
        """The schedule of the arguments, or with max_minutes a short warm-up and a cosine over the clock."""
        if self.args.max_minutes is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)

        def factor(_):
            done = self.progress()
            return max(done / WARMUP, 0.01) if done < WARMUP else 0.5 * (1 + math.cos(math.pi * done))

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _count(self, hits, trials):
        """Add to the argmax agreement of each pass, logged as acc_k."""
        counts = torch.stack([hits, trials]).cpu()
        before = self.pass_counts
        if before is not None:
            width = max(before.shape[1], counts.shape[1])
            before, counts = (torch.nn.functional.pad(c, (0, width - c.shape[1])) for c in (before, counts))
            counts = before + counts
        self.pass_counts = counts

    def _agreement(self) -> dict[str, float]:
        """acc_k of what was counted so far; starts counting anew."""
        hits, trials = ([], []) if self.pass_counts is None else self.pass_counts.tolist()
        self.pass_counts = None
        return {f"acc_{k}": round(hit / n, 4) for k, (hit, n) in enumerate(zip(hits, trials)) if n}

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            logs |= self._agreement()
        super().log(logs, *args, **kwargs)


def collate(examples: list[dict]) -> dict[str, torch.Tensor]:
    """Right-padded input_ids and attention_mask [B, S], labels [B, S] (-100 where nothing is learnt), index [B].

    A row's first two tokens are never learnt: no slot predicts them.
    """
    ids = [torch.as_tensor(example["input_ids"]) for example in examples]
    masks = [torch.as_tensor(example["loss_mask"]).bool() for example in examples]
    labels = [row.masked_fill(~mask, -100) for row, mask in zip(ids, masks)]
    for row in labels:
        row[:2] = -100
    if not any((row != -100).any() for row in labels):
        raise ValueError(
            f"the loss masks of all {len(examples)} conversations in a batch are zero, so there is nothing to learn; "
            "each needs an assistant turn of at least one token"
        )
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
        "index": torch.tensor([example.get("index", -1) for example in examples]),
    }


class TargetStates:
    """What the target makes of a batch: (aux [B, S, 3H], final-normed states [B, S, H], its argmax [B, S]).

    Remembered per conversation, on the CPU, while `gigabytes` last.
    """

    def __init__(self, target, layer_ids: list[int], gigabytes: float):
        self.target, self.layer_ids, self.bytes_left = target, layer_ids, gigabytes * 1e9
        self._remembered: dict[int, tuple[torch.Tensor, ...]] = {}
        self._indices = 0

    def new_index(self) -> int:
        """A name for one more conversation."""
        self._indices += 1
        return self._indices - 1

    def fill(self, examples: list[dict], batch_size: int = 8) -> None:
        """Read the conversations ahead of training, the long ones together, until all are known or memory is full."""
        order = sorted(examples, key=lambda example: len(example["input_ids"]))
        for start in tqdm(range(0, len(order), batch_size), desc="target states", unit="batch"):
            if self.bytes_left > 0:
                self({name: tensor.to(self.target.device) for name, tensor in collate(order[start : start + batch_size]).items()})

    def __call__(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        input_ids, indices = batch["input_ids"], batch["index"].tolist()
        if all(index in self._remembered for index in indices):
            parts = zip(*(self._remembered[index] for index in indices))
            return tuple(pad_sequence(list(rows), batch_first=True).to(input_ids.device) for rows in parts)
        aux, states = target_states(self.target, input_ids, self.layer_ids)
        known = aux, states, best_tokens(self.target, states, batch["labels"])
        for row, index in enumerate(indices):
            length = int(batch["attention_mask"][row].sum())
            self._remember(index, [tensor[row, :length] for tensor in known])
        return known

    def _remember(self, index: int, tensors: list[torch.Tensor]) -> None:
        size = sum(tensor.nbytes for tensor in tensors)
        if index < 0 or index in self._remembered:
            return
        if size > self.bytes_left:
            self.bytes_left = 0  # full: what is known stays, nothing more is added
            return
        self._remembered[index] = tuple(tensor.cpu().clone() for tensor in tensors)
        self.bytes_left -= size


class TimeBudget(TrainerCallback, ExportableState):
    """Ends a run after `minutes` of training and shows a bar of them; what was spent survives a resume."""

    def __init__(self, minutes: float):
        self.minutes, self.spent = minutes, 0.0
        self._since = self._bar = None

    @property
    def share(self) -> float:
        """Spent share of the budget, 0 upwards."""
        return self.spent / (60 * self.minutes)

    def on_train_begin(self, args, state, control, **kwargs):
        self.minutes, self._since = args.max_minutes, time.monotonic()  # a resumed run may be given more minutes
        hidden = args.disable_tqdm or not state.is_local_process_zero
        layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s{postfix}"
        self._bar = tqdm(total=60 * self.minutes, initial=self.spent, desc="training", bar_format=layout, disable=hidden)

    def on_step_end(self, args, state, control, **kwargs):
        now = time.monotonic()
        self._bar.update(min(now - self._since, self._bar.total - self._bar.n))
        self.spent, self._since = broadcast_float(self.spent + now - self._since), now
        if self.share >= 1:
            control.should_training_stop = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        shown = {name: f"{value:.3f}" for name, value in (logs or {}).items() if name in ("loss", "acc_0", "acc_1")}
        if shown and self._bar is not None:
            self._bar.set_postfix({"step": state.global_step, **shown})

    def on_train_end(self, args, state, control, **kwargs):
        self._bar.close()

    def state(self) -> dict:
        return {"args": {"minutes": self.minutes}, "attributes": {"spent": self.spent}}


def broadcast_float(value: float) -> float:
    """The first process's value, so that all follow one clock."""
    if not torch.distributed.is_initialized():
        return value
    shared = [value]
    torch.distributed.broadcast_object_list(shared, src=0)
    return shared[0]
