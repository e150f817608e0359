"""`Eagle3Trainer`: transformers' Trainer for draft heads; the target stays outside the trained model.

B batch, S sequence, K passes; see batches.py for what a batch holds.
"""

import math
import warnings
from functools import partial
from pathlib import Path

import torch
from transformers import Trainer
from transformers.trainer_callback import ProgressCallback
from transformers.utils import logging

from eagle_hf.data.features import Features
from eagle_hf.data.manifest import check_manifest, library_versions, only_one_run
from eagle_hf.data.masking import eos_token_ids, tokenize_conversations, usable_examples
from eagle_hf.data.streams import StreamedExamples
from eagle_hf.data.template import chat_template, template_sha256
from eagle_hf.provenance import weights_fingerprint
from eagle_hf.target import aux_layer_ids, check_compatible, draft_rows, unwrap
from eagle_hf.training.acceptance import held_out_prompts, measure_acceptance
from eagle_hf.training.arguments import Eagle3TrainingArguments
from eagle_hf.training.batches import (
    LengthGrouped,
    TargetStates,
    collate,
    compact,
    example_lengths,
    separate,
)
from eagle_hf.training.checkpoints import check_fresh, last_checkpoint, whole_or_nothing
from eagle_hf.training.clock import TimeBudget
from eagle_hf.training.loss import LOSSES, ask_teacher, ttt_loss
from eagle_hf.training.merging import base_parameters, merged
from eagle_hf.training.sharding import shard_target

logger = logging.get_logger(__name__)
WARMUP = 0.03  # share of a clocked run


class Eagle3Trainer(Trainer):
    """Trains `model`, a draft head, to foresee `target`, which is frozen.

    train_dataset, eval_dataset: conversations (`messages`), rendered with processing_class's chat template; rows already
    tokenised (`input_ids`, `loss_mask`); a streaming dataset of either; or `Features`, for which the target need not
    run. Unusable conversations are skipped, counted and listed in `skipped`.
    peft_config: train this PEFT adapter of the head instead of all its weights.
    At every evaluation the head drafts on the prompts of eval_dataset: eval_tau, eval_alpha_k (`eval_prompts`).
    """

    args: Eagle3TrainingArguments
    loss_is_scaled_for_ga = True  # summed and divided by the pooled batch's learnt tokens

    def __init__(
        self,
        model,
        target,
        args,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        peft_config=None,
        **kwargs,
    ):
        head = unwrap(model)
        check_compatible(target, head.config)
        self.target, self.skipped = target.requires_grad_(False).eval(), []
        self.layer_ids = aux_layer_ids(target, head.config)
        needs_normaliser = not LOSSES[args.loss_type].renormalised
        self.states = TargetStates(
            target, self.layer_ids, args.target_states_gb, needs_normaliser, args.learn_prompts
        )
        self.pass_counts, self.args, self._rows, self._evaluated = None, args, None, None
        datasets = [
            self._examples(train_dataset, processing_class, endless=True),
            self._examples(eval_dataset, processing_class),
        ]
        parts = [
            datasets[0],
            *(datasets[1].values() if isinstance(datasets[1], dict) else [datasets[1]]),
        ]
        if (
            any(isinstance(part, StreamedExamples) for part in parts)
            and args.accelerator_config.dispatch_batches is None
        ):
            args.accelerator_config.dispatch_batches = (
                False  # each process reads its own share: rows differ in length
            )
        if args.max_minutes is not None:
            kwargs["callbacks"] = [*(kwargs.get("callbacks") or []), TimeBudget(args.max_minutes)]
        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)
        self._origin = self._describe(model)
        if any(
            p.requires_grad and p.dtype in (torch.bfloat16, torch.float16)
            for p in model.parameters()
        ):
            raise ValueError(
                f"the head's weights are {head.dtype}, in which most of AdamW's steps round away; open the head with "
                "dtype=torch.float32 and train with bf16=True"
            )
        super().__init__(
            model=model,
            args=args,
            train_dataset=datasets[0],
            eval_dataset=datasets[1],
            processing_class=processing_class,
            data_collator=kwargs.pop(
                "data_collator",
                partial(collate, packing=args.packing, learn_prompts=args.learn_prompts),
            ),
            **kwargs,
        )
        if args.max_minutes is not None:
            self.remove_callback(
                ProgressCallback
            )  # its bar counts steps; TimeBudget's counts the seconds
        shard_target(self.target, args.shard_target, self.accelerator.device)
        self.model_accepts_loss_kwargs = True  # so that num_items_in_batch arrives
        self._note_length(head, max(example_lengths(datasets[0]), default=0))

    def _examples(self, rows, tokenizer, endless=False):
        """Tokenised examples with an index each, from anything that `train_dataset` may be; endless: of a stream."""
        if rows is None:
            return None
        if isinstance(rows, dict):
            return {name: self._examples(part, tokenizer) for name, part in rows.items()}
        if isinstance(rows, Features):
            rows.check(
                target=self.target,
                layer_ids=self.layer_ids,
                template_sha256=template_sha256(tokenizer) if tokenizer else None,
            )
            if self.args.max_length is not None and max(rows.lengths) > self.args.max_length:
                raise ValueError(
                    f"max_length is {self.args.max_length} but the features hold a conversation of {max(rows.lengths)} tokens; "
                    "raise it, or capture with this max_length"
                )
            return rows
        if isinstance(rows, StreamedExamples):
            return rows
        if not hasattr(rows, "__len__"):
            self._check_stream(rows, tokenizer)
            return StreamedExamples(
                rows, partial(self._tokenised, tokenizer=tokenizer), self.skipped, endless
            )
        examples, skipped = self._tokenised(list(rows), tokenizer)
        self.skipped += skipped
        if skipped:
            logger.warning(f"{len(skipped)} conversations skipped, the first: {skipped[0]}")
        return [{**example, "index": self.states.new_index()} for example in examples]

    def _check_stream(self, rows, tokenizer) -> None:
        """What is wrong with the settings and not with a row shows now, by the first row."""
        first = next(iter(rows), None)
        if first is not None and "input_ids" not in first:
            self._conversation_settings(tokenizer)

    def _conversation_settings(self, tokenizer) -> dict:
        """What rendering conversations needs besides the rows."""
        if tokenizer is None:
            raise ValueError(
                "conversations were given without processing_class; pass the target's tokenizer"
            )
        chat_template(tokenizer)  # refuses a tokenizer without one
        return {"tokenizer": tokenizer, "eos_token_ids": eos_token_ids(self.target, tokenizer)}

    def _tokenised(self, rows, tokenizer):
        """(examples, skipped) of conversations or of tokenised rows."""
        limit = self.args.max_length or getattr(
            unwrap(self.target).config.get_text_config(), "max_position_embeddings", None
        )
        if rows and "input_ids" not in rows[0]:
            rows, skipped = tokenize_conversations(
                rows, **self._conversation_settings(tokenizer), max_length=limit
            )
        else:
            rows, skipped = usable_examples(rows, limit)
        return [compact(row) for row in rows], skipped

    def train(self, resume_from_checkpoint=None, **kwargs):
        """Train; `resume_from_checkpoint=True` goes on from the newest checkpoint that is whole.

        A folder that another run is writing to, that holds an earlier run's checkpoints (when none is resumed), or that
        was made for another target or layer set is a ValueError.
        """
        folder, self._rows = (
            Path(self.args.output_dir),
            None,
        )  # a checkpoint brings its own draft vocabulary
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(folder)
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"{folder} holds no whole checkpoint to resume from; start without resume_from_checkpoint"
                )
        if not self.is_world_process_zero():
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        if not resume_from_checkpoint:
            check_fresh(folder)
        with only_one_run(folder):
            check_manifest(
                folder,
                self._origin,
                [name for name in self._origin if name not in ("target", "versions")],
            )
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _describe(self, model) -> dict:
        """What a resumed run must have in common with the one it goes on from; an adapter's base head too."""
        base = (
            weights_fingerprint(model, base_parameters(model))
            if hasattr(model, "merge_and_unload")
            else None
        )
        return {
            "step": "training",
            "target": getattr(unwrap(self.target), "name_or_path", ""),
            "target_weights": weights_fingerprint(self.target),
            "layer_ids": self.layer_ids,
            "head_weights": base,
            "versions": library_versions(),
        }

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Loss of TTT, per learnt token (or slot) of the pooled batch."""
        head = unwrap(self.accelerator.unwrap_model(model))
        with torch.autocast(inputs["input_ids"].device.type, enabled=False):
            inputs = inputs | self.states(inputs)
            embeddings = unwrap(self.target).get_input_embeddings()(
                inputs["input_ids"].roll(-1, dims=1)
            )
            if self._rows is None:
                self._rows = draft_rows(self.target, head.draft_to_target)
            teacher = ask_teacher(inputs, self._rows, head.draft_to_target)
        if isinstance(self.train_dataset, StreamedExamples) and model.training:
            self._note_length(head, max(map(len, separate(inputs, "input_ids"))))
        aux = torch.nn.functional.dropout(
            inputs["aux_hidden_states"].to(head.dtype),
            self.args.feature_dropout,
            training=model.training,
        )
        outputs = model(
            embeddings.to(head.dtype),
            aux,
            ttt_length=self.ttt_length(),
            position_ids=inputs.get("position_ids"),
        )
        with self.accelerator.autocast():  # the LM head is run here, outside the wrapped forward
            loss, hits, trials = ttt_loss(
                head, outputs, teacher, self.args.loss_type, self.args.ttt_decay
            )
        self._stop_at_nan(loss, inputs)
        self._count(hits, trials)
        if (
            self._evaluated is not None
        ):  # batches differ in size, so their means must not be averaged
            self._evaluated += torch.stack(
                [loss.detach().double(), (inputs["labels"] != -100).sum()]
            )
        if num_items_in_batch is None:
            num_items_in_batch = self._get_num_items_in_batch([inputs], loss.device)
        # counted over all processes, whose gradients (in evaluation: losses) are then averaged
        loss = (
            loss
            / num_items_in_batch
            * (self.accelerator.num_processes if self.args.average_tokens_across_devices else 1)
        )
        return (loss, {"loss": loss.detach()}) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples, device):
        """What the summed loss is divided by: learnt tokens, or all slots, padding included."""
        if self.args.loss_normaliser == "slots":
            batch_samples = [
                {"labels": torch.zeros_like(batch["labels"])} for batch in batch_samples
            ]
        return super()._get_num_items_in_batch(batch_samples, device)

    def _note_length(self, head, length: int) -> None:
        """Keep the longest conversation seen in the head's config."""
        if length > head.config.eagle_hf.get("trained_length", 0):
            head.config.eagle_hf = {**head.config.eagle_hf, "trained_length": length}

    def _stop_at_nan(self, loss, inputs) -> None:
        if not torch.isfinite(loss):
            last = last_checkpoint(self.args.output_dir)
            raise ValueError(
                f"the loss is {loss.item()} at step {self.state.global_step} for the conversations {inputs['id']}; lower the learning "
                f"rate, look at these conversations, or train in another dtype. The last checkpoint is {last or 'not yet written'}"
            )

    def save_head(self, output_dir: str | None = None) -> None:
        """The head in the engines' layout, in `output_dir` (default: the run's); a LoRA is merged into a copy of it."""
        model, output_dir = (
            self.accelerator.unwrap_model(self.model),
            output_dir or self.args.output_dir,
        )
        if not hasattr(model, "merge_and_unload"):
            self.save_model(output_dir)
        elif self.is_world_process_zero():
            merged(model).save_pretrained(output_dir)

    def _load_from_checkpoint(self, *args, **kwargs):
        with (
            warnings.catch_warnings()
        ):  # the layout keeps the older RoPE schema, which engines read
            warnings.filterwarnings("ignore", ".rope_scaling. is deprecated", FutureWarning)
            super()._load_from_checkpoint(*args, **kwargs)

    def _save_checkpoint(self, model, trial):
        with whole_or_nothing(
            Path(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
        ):
            super()._save_checkpoint(model, trial)

    def _get_train_sampler(self, train_dataset=None):
        lengths = example_lengths(self.train_dataset if train_dataset is None else train_dataset)
        if self.args.train_sampling_strategy == "group_by_length" and lengths:
            return LengthGrouped(
                self.args.train_batch_size * self.args.gradient_accumulation_steps,
                lengths,
                self.args.seed,
            )
        return super()._get_train_sampler(train_dataset)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None

    def evaluate(self, eval_dataset=None, **kwargs):
        """As the parent's; a set given here may be anything that the constructor takes."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._examples(eval_dataset, self.processing_class)
        return super().evaluate(eval_dataset, **kwargs)

    def evaluation_loop(self, dataloader, *args, metric_key_prefix="eval", **kwargs):
        """The loss per learnt token of the whole set, the argmax agreement of each pass `eval_acc_k`, and what real generation accepts."""
        training, self.pass_counts, self._evaluated = self.pass_counts, None, 0.0
        output = super().evaluation_loop(
            dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs
        )
        loss, tokens = self.accelerator.reduce(self._evaluated, "sum").tolist()
        metrics = {"loss": loss / tokens} | self._agreement() | self._acceptance(dataloader.dataset)
        self.pass_counts, self._evaluated = training, None
        output.metrics.update(
            {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        )
        return output

    def _acceptance(self, examples) -> dict[str, float]:
        """tau and alpha_k on the first turns of an evaluation set; every process measures the same."""
        if not self.args.eval_prompts:
            return {}
        head = unwrap(self.accelerator.unwrap_model(self.model))
        return measure_acceptance(
            self.target,
            head,
            held_out_prompts(examples, self.args.eval_prompts),
            self.args.eval_new_tokens,
        )

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
        budget = next(
            (cb for cb in self.callback_handler.callbacks if isinstance(cb, TimeBudget)), None
        )
        return min(1.0, max(steps, budget.share if budget else 0.0))

    def create_scheduler(self, num_training_steps, optimizer=None):
        """The schedule of the arguments, or with max_minutes a short warm-up and a cosine over the clock."""
        if self.args.max_minutes is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)

        def factor(_):
            done = self.progress()
            return (
                max(done / WARMUP, 0.01) if done < WARMUP else 0.5 * (1 + math.cos(math.pi * done))
            )

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _count(self, hits, trials):
        """Add to the argmax agreement of each pass, logged as acc_k."""
        counts, before = torch.stack([hits, trials]), self.pass_counts
        if before is not None:
            width = max(before.shape[1], counts.shape[1])
            before, counts = (
                torch.nn.functional.pad(c, (0, width - c.shape[1])) for c in (before, counts)
            )
            counts = before + counts
        self.pass_counts = counts

    def _agreement(self) -> dict[str, float]:
        """acc_k of what all processes counted so far; starts counting anew."""
        counts, self.pass_counts = self.pass_counts, None
        hits, trials = (
            ([], []) if counts is None else self.accelerator.reduce(counts, "sum").tolist()
        )
        return {f"acc_{k}": round(hit / n, 4) for k, (hit, n) in enumerate(zip(hits, trials)) if n}

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            logs |= self._agreement()
        super().log(logs, *args, **kwargs)
