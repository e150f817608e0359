"""`Eagle3Trainer`: transformers' Trainer for draft heads; the target stays outside the trained model.

B batch, S sequence, K passes. Batches are padded on the right; `labels` hold the response tokens, -100 elsewhere.
"""

import math

import torch
from transformers import Trainer
from transformers.trainer_callback import ProgressCallback
from transformers.utils import logging

from eagle_hf.data.masking import eos_token_ids, tokenize_conversations, usable_examples
from eagle_hf.target import aux_layer_ids, check_compatible, unwrap
from eagle_hf.training.arguments import Eagle3TrainingArguments
from eagle_hf.training.batches import TargetStates, collate
from eagle_hf.training.clock import TimeBudget
from eagle_hf.training.loss import ask_teacher, ttt_loss

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
