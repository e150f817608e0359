"""The Trainer: only the head moves, acceptance grows, checkpoints come back to the bit."""

import json

import pytest
import torch
from tiny import tiny_head, tiny_target
from training_checks import assert_close_weights, copied_parameters, evaluations, losses
from transformers import TrainerCallback

from eagle_hf import Eagle3DraftHead, Eagle3Trainer
from eagle_hf.training.batches import TargetStates, collate


def test_every_parameter_of_the_head_moves_and_the_target_stays(
    target, head, examples, tmp_path, trained
):
    before = copied_parameters(head)
    frozen = {name: value.clone() for name, value in target.state_dict().items()}
    trainer = trained(target, head, examples, tmp_path)
    for name, parameter in head.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    for name, value in target.state_dict().items():
        assert torch.equal(value, frozen[name]), name
    assert {"loss", "acc_0", "acc_1", "acc_2"} <= set(trainer.state.log_history[0])


def test_one_batch_is_overfitted(target, head, examples, tmp_path, trained):
    trainer = trained(target, head, examples[:4], tmp_path, max_steps=150, logging_steps=10)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert logs[-1]["loss"] < 0.75 * logs[0]["loss"]
    assert logs[-1]["acc_0"] > logs[0]["acc_0"] + 0.2


def test_pooled_micro_batches_equal_one_large_batch(target, examples, tmp_path, trained):
    trainers = []
    for batch_size, pooled in [(4, 1), (1, 4)]:
        trainer = trained(
            target,
            tiny_head(target),
            examples[:4],
            tmp_path,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=pooled,
            max_steps=1,
            logging_steps=1,
            optim="sgd",
            max_grad_norm=0.0,
        )
        trainers.append(trainer)
    large, small = trainers
    assert losses(large)[0] == pytest.approx(losses(small)[0], rel=1e-5)
    for a, b in zip(large.model.parameters(), small.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"train_sampling_strategy": "group_by_length"},
        {"packing": True, "gradient_accumulation_steps": 2},
    ],
    ids=str,
)
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(
    target, examples, tmp_path, trained, settings
):
    """Five steps an epoch; resumed in the first, at its end and in the second."""
    saving = dict(save_strategy="steps", save_steps=1, max_steps=12, **settings)
    whole = trained(target, tiny_head(target), examples, tmp_path / "a", **saving)
    ours = whole.model.state_dict()
    for step in (3, 5, 7):
        checkpoint = str(tmp_path / "a" / f"checkpoint-{step}")
        head = tiny_head(target, seed=9)
        resumed = trained(
            target, head, examples, tmp_path / f"b{step}", resume=checkpoint, **saving
        )
        for name, theirs in resumed.model.state_dict().items():
            assert torch.equal(ours[name], theirs), (step, name)


def test_every_saving_of_memory_together_changes_no_weight(target, examples, tmp_path, trained):
    plain = trained(target, tiny_head(target), examples, tmp_path, per_device_train_batch_size=4)
    saving = dict(
        packing=True,
        gradient_checkpointing=True,
        gradient_accumulation_steps=2,
        per_device_train_batch_size=2,
    )
    saved = trained(target, tiny_head(target), examples, tmp_path, **saving)
    assert saved.model.gradient_checkpointing
    assert_close_weights(plain.model, saved.model, 1e-4)


def test_packed_batches_arrive_packed(target, head, examples, tmp_path, arguments):
    trainer = Eagle3Trainer(
        model=head, target=target, args=arguments(tmp_path, packing=True), train_dataset=examples
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[0] == 1
    assert (batch["position_ids"] == 0).sum() == 4
    assert "attention_mask" not in batch


def test_the_evaluation_loss_is_per_token_whatever_the_batch_size(
    target, head, examples, tmp_path, trained
):
    trainer = trained(target, head, examples, tmp_path, eval_prompts=0)
    evaluated = []
    for size in (1, 2, 8):
        trainer.args.per_device_eval_batch_size = size
        evaluated.append(trainer.evaluate(examples[:9])["eval_loss"])
    assert evaluated == pytest.approx([evaluated[0]] * 3, rel=1e-6)


def test_the_best_checkpoint_comes_back_with_its_map(target, head, examples, tmp_path, arguments):
    ids = head.draft_to_target.clone()
    args = arguments(
        tmp_path,
        save_strategy="steps",
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
    )
    trainer = Eagle3Trainer(
        model=head, target=target, train_dataset=examples, eval_dataset=examples[:4], args=args
    )
    trainer.train()
    saved = Eagle3DraftHead.from_pretrained(trainer.state.best_model_checkpoint)
    assert torch.equal(saved.draft_to_target, ids)
    ours = list(head.state_dict().values())
    theirs = list(saved.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    config = json.loads((tmp_path / "checkpoint-2" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLMEagle3"]
    assert config["eagle_hf"]["trained_length"] == 39


def test_remembered_states_change_no_loss(target, examples, tmp_path, trained):
    logs = []
    for gigabytes in (0.0, 1.0):
        trainer = trained(
            target, tiny_head(target), examples, tmp_path, max_steps=12, target_states_gb=gigabytes
        )
        logs.append(losses(trainer))
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)


def test_states_are_remembered_only_while_memory_lasts(target, examples):
    batch = collate([{"index": i, **examples[i]} for i in range(3)])
    first_conversation = 20 * (4 * 32 * 4 + 8) / 1e9  # its 20 tokens, in GB
    states = TargetStates(target, [2, 3, 4], gigabytes=first_conversation)
    first = states.run_target(batch)
    assert list(states._remembered) == [0]

    calls = []

    def note_call(*_):
        calls.append(1)

    target.get_decoder().register_forward_pre_hook(note_call)
    again = states.run_target(collate([{"index": 0, **examples[0]}]))
    assert not calls
    assert set(again) == {"aux_hidden_states", "hidden_states", "best"}
    for name, features in again.items():
        assert torch.equal(features[0], first[name][0, :20]), name


def test_the_curriculum_lengthens_the_passes(target, head, examples, tmp_path, trained):
    trainer = trained(target, head, examples, tmp_path, ttt_curriculum=[1, 3], logging_steps=1)
    has_third_pass = ["acc_2" in log for log in trainer.state.log_history if "loss" in log]
    assert has_third_pass == [False] * 3 + [True] * 3


def test_evaluation_always_unrolls_every_pass(target, head, examples, tmp_path, arguments):
    args = arguments(
        tmp_path, ttt_curriculum=[1, 3], eval_strategy="steps", eval_steps=2, logging_steps=2
    )
    trainer = Eagle3Trainer(
        model=head,
        target=target,
        train_dataset=examples,
        eval_dataset={"held": examples[:4]},
        args=args,
    )
    trainer.train()
    evaluated = evaluations(trainer, "eval_held")
    assert len(evaluated) == 3
    assert all("eval_held_acc_2" in log for log in evaluated)
    first = next(log for log in trainer.state.log_history if "loss" in log)
    assert "acc_1" not in first


def test_a_clocked_run_stops_in_time(target, head, examples, tmp_path, trained):
    trainer = trained(
        target, head, examples, tmp_path, max_steps=100_000, max_minutes=0.05, logging_steps=1
    )
    assert 3 < trainer.state.global_step < 100_000
    assert trainer.progress() == 1.0
    rates = [log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log]
    assert max(rates) > 10 * rates[-1]


class TableOfSteps(TrainerCallback):
    """What transformers shows in a notebook, which must be gone where the clock has its bar."""

    def on_train_begin(self, *args, **kwargs):
        raise AssertionError("it counts the steps of a run whose end is not a step")


def test_a_clocked_run_has_one_bar_in_a_notebook_too(
    target, head, examples, tmp_path, trained, monkeypatch
):
    monkeypatch.setattr("transformers.trainer.DEFAULT_PROGRESS_CALLBACK", TableOfSteps)
    shown = dict(max_steps=100_000, disable_tqdm=False)
    trainer = trained(target, head, examples, tmp_path, max_minutes=0.01, **shown)
    assert trainer.state.global_step > 0


def test_a_resumed_clocked_run_knows_what_is_spent(target, head, examples, tmp_path, trained):
    clocked = dict(
        max_steps=100_000,
        max_minutes=0.04,
        save_strategy="steps",
        save_steps=10,
        save_total_limit=2,
    )
    trainer = trained(target, head, examples, tmp_path, **clocked)
    steps = [int(path.name.split("-")[1]) for path in tmp_path.glob("checkpoint-*")]
    last = max(steps)
    checkpoint = str(tmp_path / f"checkpoint-{last}")
    resumed = trained(target, tiny_head(target), examples, tmp_path, resume=checkpoint, **clocked)
    more = resumed.state.global_step - last
    assert 0 < more < 0.5 * trainer.state.global_step


def test_a_head_of_another_target_is_refused(head, examples, tmp_path, arguments):
    with pytest.raises(ValueError, match="layer count 7, this target's is 9"):
        Eagle3Trainer(
            model=head,
            target=tiny_target(layers=9),
            args=arguments(tmp_path),
            train_dataset=examples,
        )


def test_a_half_precision_head_is_not_trained(target, head, examples, trained, tmp_path):
    problem = "weights are torch.bfloat16.*dtype=torch.float32 and train with bf16=True"
    with pytest.raises(ValueError, match=problem):
        trained(target, head.to(torch.bfloat16), examples, tmp_path)
