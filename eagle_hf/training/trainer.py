"""`Eagle3Trainer`: transformers' Trainer for draft heads.

The target stays outside the trained model. `compute_loss` is the loop of recipes/naked_loop.py with
the Trainer's bookkeeping around it. B batch, S sequence, H hidden; see batches.py for what a batch
holds, and loss.py for what is learnt.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from eagle_hf.data.examples.streams import StreamedExamples
from eagle_hf.data.features.dataset import Features
from eagle_hf.data.manifest import library_versions
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.provenance import weights_fingerprint
from eagle_hf.target import (
    aux_layer_ids,
    check_adapters_outside_generate,
    check_compatible,
    check_teacher,
    draft_vocab_logits,
    embedded_ids,
    unwrap,
)
from eagle_hf.training.acceptance import answerable_prompts, check_prompts, measure_acceptance
from eagle_hf.training.arguments import Eagle3TrainingArguments
from eagle_hf.training.batches import TargetStates, collate, example_lengths, separate
from eagle_hf.training.checkpoints import last_checkpoint
from eagle_hf.training.examples import ExampleMaker, let_processes_read_streams
from eagle_hf.training.loss import LOSSES, ttt_loss
from eagle_hf.training.merging import base_parameters, merged
from eagle_hf.training.metrics import EvaluationMetrics, LossMetrics
from eagle_hf.training.resumable import ResumableTrainer
from eagle_hf.training.scaled_fc import ScaledLinear
from eagle_hf.training.sharding import shard_target
from eagle_hf.training.teacher import ask_teacher

HALF_PRECISION = (torch.bfloat16, torch.float16)


class DivergedError(ValueError):
    """The loss is no finite number any more."""


class Eagle3Trainer(ResumableTrainer):
    """Trains a draft head to predict a frozen target, by training-time test (EAGLE-3, section 3.2).

    At every evaluation the head drafts on the prompts of eval_dataset: eval_tau, eval_alpha_k.

    Args:
        model: the draft head, in float32.
        target: the causal LM that it drafts for. It is frozen and set to eval mode.
        args: the training arguments.
        train_dataset: conversations (`messages`), rendered with the chat template of
            processing_class; rows already tokenised (`input_ids`, `loss_mask`); a streaming dataset
            of either; or `Features`, for which the target need not run. Unusable conversations are
            skipped, counted and listed in `skipped`.
        eval_dataset: as train_dataset, or a dict of several sets by name.
        processing_class: the target's tokenizer; needed for conversations. With images it is the
            target's processor.
        peft_config: train this PEFT adapter of the head instead of all its weights.
        kwargs: of transformers' Trainer.

    Raises:
        ValueError: the head does not fit the target, is not in float32, or the data cannot be
            learnt from.
    """

    args: Eagle3TrainingArguments
    loss_is_scaled_for_ga = True  # summed and divided by the pooled batch's learnt tokens

    def __init__(
        self,
        model: nn.Module,
        target: PreTrainedModel,
        args: Eagle3TrainingArguments,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        peft_config: Any = None,
        **kwargs: Any,
    ):
        # 1) The frozen target, and what is asked of it.
        head = cast(Eagle3DraftHead, unwrap(model))
        check_compatible(target, head.config)
        check_adapters_outside_generate(target)
        self.target = target.requires_grad_(False).eval()
        self.layer_ids = aux_layer_ids(target, head.config)
        if not isinstance(train_dataset, Features):  # captured features were checked
            check_teacher(target, self.layer_ids)
        self.states = TargetStates(
            target,
            self.layer_ids,
            gigabytes=args.target_states_gb,
            normaliser=not LOSSES[args.loss_type].renormalised,
            learn_prompts=args.learn_prompts,
        )
        self._lm_head_rows: Callable[[torch.Tensor], torch.Tensor] | None = None

        # 2) The datasets, tokenised.
        self._maker = ExampleMaker(target, self.layer_ids, processing_class, args)
        self.skipped = self._maker.skipped
        train_examples = self._maker.prepare(train_dataset, endless=True)
        eval_examples = self._maker.prepare(eval_dataset)
        let_processes_read_streams(args, train_examples, eval_examples)
        check_prompts(eval_examples, args, target)
        collate_batch = partial(collate, packing=args.packing, learn_prompts=args.learn_prompts)
        kwargs.setdefault("data_collator", collate_batch)

        # 3) The trained model.
        model = _add_adapter(model, peft_config)
        _check_trained_in_float32(model)
        super().__init__(
            model=model,
            args=args,
            origin=self._describe_run(model),
            train_dataset=train_examples,
            eval_dataset=eval_examples,
            processing_class=processing_class,
            **kwargs,
        )
        self._metrics = LossMetrics(self.accelerator.device)
        self.model_accepts_loss_kwargs = True  # so that num_items_in_batch arrives
        shard_target(self.target, args.shard_target, self.accelerator.device)
        _note_length(head, max(example_lengths(train_examples), default=0))

    def _describe_run(self, model: Any) -> dict:
        """What a resumed run must have in common with the one it continues.

        Of an adapter's run also the head under the adapter: checkpoints do not hold it.
        """
        head_weights = None
        if hasattr(model, "merge_and_unload"):
            head_weights = weights_fingerprint(model, base_parameters(model))
        # the optimiser's moments are in the units that fc is trained in
        is_scaled = isinstance(unwrap(model).fc, ScaledLinear)
        return {
            "step": "training",
            "target": getattr(unwrap(self.target), "name_or_path", ""),
            "target_weights": weights_fingerprint(self.target),
            "layer_ids": self.layer_ids,
            "head_weights": head_weights,
            "fc_start": "scaled" if is_scaled else None,  # as where older runs say nothing
            "versions": library_versions(),
        }

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """As the parent's."""
        self._lm_head_rows = None  # a checkpoint brings its own draft vocabulary
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """As the parent's; the lengths of a stream's conversations show only here."""
        if isinstance(self.train_dataset, StreamedExamples):
            longest = max(len(tokens) for tokens in separate(inputs, "input_ids"))
            _note_length(self._unwrap_head(model), longest)
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The loss of training-time test, per learnt token (or slot) of the pooled batch."""
        head = self._unwrap_head(model)

        # 1) The frozen target runs in its own dtype.
        with torch.autocast(inputs["input_ids"].device.type, enabled=False):
            inputs = inputs | self.states.run_target(inputs)
            next_ids = inputs["input_ids"].roll(-1, dims=1)  # slot p sees token p + 1
            if "image_inputs" in inputs:
                next_ids = embedded_ids(self.target, next_ids)
            embeddings = unwrap(self.target).get_input_embeddings()(next_ids)  # [B, S, H]
            teacher = ask_teacher(inputs, self._target_lm_head(head), head.draft_to_target)

        # 2) The head unrolls its passes.
        aux = F.dropout(
            inputs["aux_hidden_states"].to(head.dtype),  # [B, S, 3H]
            self.args.feature_dropout,
            training=model.training,
        )
        outputs = model(
            embeddings.to(head.dtype),
            aux,
            ttt_length=self.ttt_length(),
            position_ids=inputs.get("position_ids"),
        )

        # 3) The LM head runs here, outside the wrapped forward and its autocast.
        with self.accelerator.autocast():
            loss, hits, trials = ttt_loss(
                head, outputs, teacher, self.args.loss_type, self.args.ttt_decay
            )
        self._stop_at_nan(loss, inputs)
        self._metrics.add(loss, inputs["labels"], hits, trials)

        loss = self._average(loss, inputs, num_items_in_batch)
        return (loss, {"loss": loss.detach()}) if return_outputs else loss

    def _average(
        self,
        loss: torch.Tensor,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """The summed loss per learnt token (or slot) of the pooled batch."""
        if num_items_in_batch is None:
            num_items_in_batch = self._get_num_items_in_batch([inputs], loss.device)
        loss = loss / num_items_in_batch
        if self.args.average_tokens_across_devices:
            # Items are counted over all processes, whose gradients (in evaluation: losses) are
            # then averaged.
            loss = loss * self.accelerator.num_processes
        return loss

    def ttt_length(self) -> int:
        """Passes to unroll now.

        Evaluation always unrolls them all, so that its losses can be compared.
        """
        curriculum = self.args.ttt_curriculum
        if not curriculum:
            return self.args.ttt_length
        if not cast(nn.Module, self.model).training:
            return max(curriculum)
        stage = int(self.progress() * len(curriculum))
        return curriculum[min(stage, len(curriculum) - 1)]

    def _unwrap_head(self, model: nn.Module | None) -> Eagle3DraftHead:
        """The draft head inside the wrappers of accelerate and PEFT."""
        return cast(Eagle3DraftHead, unwrap(self.accelerator.unwrap_model(model)))

    def _target_lm_head(self, head: Eagle3DraftHead) -> Callable[[torch.Tensor], torch.Tensor]:
        """The target's LM head for the draft vocabulary alone; its rows are gathered once."""
        if self._lm_head_rows is None:
            self._lm_head_rows = draft_vocab_logits(self.target, head.draft_to_target)
        return self._lm_head_rows

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Any:
        """What the summed loss is divided by: learnt tokens, or all slots, padding included."""
        if self.args.loss_normaliser == "slots":
            # The parent counts labels that are not -100.
            batch_samples = [
                {"labels": torch.zeros_like(batch["labels"])} for batch in batch_samples
            ]
        return super()._get_num_items_in_batch(batch_samples, device)

    def _stop_at_nan(self, loss: torch.Tensor, inputs: dict[str, Any]) -> None:
        """Refuse a loss that is not finite, naming the conversations."""
        if torch.isfinite(loss):
            return
        last = last_checkpoint(str(self.args.output_dir)) or "not yet written"
        raise DivergedError(
            f"the loss is {loss.item()} at step {self.state.global_step} for the conversations "
            f"{inputs['id']}; lower the learning rate, look at these conversations, or train in "
            f"another dtype. The last checkpoint is {last}"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the parent's; acc_k, the argmax agreement of each pass, beside the training loss."""
        if "loss" in logs:
            logs = logs | self._metrics.compute(self.accelerator)
            self._metrics.reset()
        super().log(logs, start_time)

    def save_head(self, output_dir: str | None = None) -> None:
        """Save the head in the engines' layout; a LoRA is merged into a copy of it.

        Args:
            output_dir: default: the run's.
        """
        model = self.accelerator.unwrap_model(self.model)
        output_dir = output_dir or self.args.output_dir
        if not hasattr(model, "merge_and_unload"):
            self.save_model(output_dir)
        elif self.is_world_process_zero():
            merged(model).save_pretrained(output_dir)

    def save_adapter(self, output_dir: str) -> None:
        """Save the adapter alone, as PEFT does; `head.load_adapter` reads it.

        Args:
            output_dir: a folder of its own.

        Raises:
            ValueError: all weights of the head are trained.
        """
        model = self.accelerator.unwrap_model(self.model)
        if not hasattr(model, "merge_and_unload"):
            raise ValueError(
                "save_adapter was called but no adapter is trained; give the Trainer a "
                "peft_config, or call save_head"
            )
        if self.is_world_process_zero():
            # the LM head's own weights are the head's, not the adapter's
            model.save_pretrained(output_dir, save_embedding_layers=False)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """As the parent's; a set given here may be anything that the constructor takes."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._maker.prepare(eval_dataset)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def evaluation_loop(
        self,
        dataloader: torch.utils.data.DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As the parent's, with metrics of draft heads.

        Returns:
            The metrics hold the loss per learnt token of the whole set, the argmax agreement of
            each pass `eval_acc_k`, and what real generation accepts, `eval_tau` and `eval_alpha_k`.
        """
        training_metrics = self._metrics
        self._metrics = EvaluationMetrics(self.accelerator.device)
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        measured = self._metrics.compute(self.accelerator)
        measured |= self._measure_acceptance(dataloader.dataset)
        self._metrics = training_metrics
        metrics = dict(output.metrics or {})
        for name, value in measured.items():
            metrics[f"{metric_key_prefix}_{name}"] = value
        return output._replace(metrics=metrics)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, None, None]:
        """The loss alone: no logits exist that could be returned."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None

    def _measure_acceptance(self, examples: Any) -> dict[str, float]:
        """tau and alpha_k on the first turns of an evaluation set; every process measures all."""
        if not self.args.eval_prompts:
            return {}
        head = self._unwrap_head(self.model)
        prompts = answerable_prompts(examples, self.args, self.target)
        return measure_acceptance(self.target, head, prompts, self.args.eval_new_tokens)


def _add_adapter(model: nn.Module, peft_config: Any) -> nn.Module:
    """The model inside a new PeftModel; the model itself where peft_config is None."""
    if peft_config is None:
        return model
    if isinstance(unwrap(model).fc, ScaledLinear):
        raise ValueError(
            'the head has fc_start="scaled" and peft_config is given; an adapter would be merged '
            'into weights of other units: take fc_start="random", or plain_fc(head) beforehand'
        )
    from peft import get_peft_model

    return get_peft_model(cast(Any, model), peft_config)


def _check_trained_in_float32(model: nn.Module) -> None:
    """Refuse trained weights in half precision."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in HALF_PRECISION:
            raise ValueError(
                f"the head's weights are {unwrap(model).dtype}, in which most of AdamW's steps "
                "round away; open the head with dtype=torch.float32 and train with bf16=True"
            )


def _note_length(head: Eagle3DraftHead, length: int) -> None:
    """Keep the longest trained conversation in the head's config, which is saved with it."""
    facts = head.config.eagle_hf or {}
    if length > facts.get("trained_length", 0):
        head.config.eagle_hf = {**facts, "trained_length": length}
