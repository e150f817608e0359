"""The Trainer: only the head moves, acceptance grows, checkpoints come back to the bit, bad data is named."""

import json

import pytest
import torch
from tiny import tiny_head, tiny_target, word_tokenizer

from eagle_hf import Eagle3DraftHead, Eagle3Trainer, new_head
from eagle_hf.target import target_states
from eagle_hf.training.batches import TargetStates, collate


def test_every_parameter_of_the_head_moves_and_the_target_stays(
    target, head, examples, tmp_path, trained
):
    before = {name: p.clone() for name, p in head.named_parameters()}
    frozen = {name: p.clone() for name, p in target.state_dict().items()}
    trainer = trained(target, head, examples, tmp_path)
    assert all(not torch.equal(p, before[name]) for name, p in head.named_parameters())
    assert all(torch.equal(p, frozen[name]) for name, p in target.state_dict().items())
    assert {"loss", "acc_0", "acc_1", "acc_2"} <= set(trainer.state.log_history[0])


def test_one_batch_is_overfitted(target, head, examples, tmp_path, trained):
    trainer = trained(target, head, examples[:4], tmp_path, max_steps=150, logging_steps=10)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert logs[-1]["loss"] < 0.75 * logs[0]["loss"] and logs[-1]["acc_0"] > logs[0]["acc_0"] + 0.2


def test_pooled_micro_batches_equal_one_large_batch(target, examples, tmp_path, trained):
    heads = [tiny_head(target) for _ in range(2)]
    losses = []
    for head, (rows, pooled) in zip(heads, [(4, 1), (1, 4)]):
        trainer = trained(
            target,
            head,
            examples[:4],
            tmp_path,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=pooled,
            max_steps=1,
            logging_steps=1,
            optim="sgd",
            max_grad_norm=0.0,
        )
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for a, b in zip(*(h.parameters() for h in heads)):
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
    for step in (3, 5, 7):
        resumed = trained(
            target,
            tiny_head(target, seed=9),
            examples,
            tmp_path / f"b{step}",
            resume=str(tmp_path / "a" / f"checkpoint-{step}"),
            **saving,
        )
        for (name, ours), theirs in zip(
            whole.model.state_dict().items(), resumed.model.state_dict().values()
        ):
            assert torch.equal(ours, theirs), (step, name)


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
    for ours, theirs in zip(plain.model.parameters(), saved.model.parameters()):
        assert (ours - theirs).norm() <= 1e-4 * ours.norm()


def test_packed_batches_arrive_packed(target, head, examples, tmp_path, arguments):
    trainer = Eagle3Trainer(
        model=head, target=target, args=arguments(tmp_path, packing=True), train_dataset=examples
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert (
        batch["input_ids"].shape[0] == 1
        and (batch["position_ids"] == 0).sum() == 4
        and "attention_mask" not in batch
    )


def test_the_evaluation_loss_is_per_token_whatever_the_batch_size(
    target, head, examples, tmp_path, trained
):
    trainer = trained(target, head, examples, tmp_path, eval_prompts=0)
    losses = []
    for size in (1, 2, 8):
        trainer.args.per_device_eval_batch_size = size
        losses.append(trainer.evaluate(examples[:9])["eval_loss"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_the_best_checkpoint_comes_back_with_its_map(target, head, examples, tmp_path, arguments):
    ids = head.draft_to_target.clone()
    trainer = Eagle3Trainer(
        model=head,
        target=target,
        train_dataset=examples,
        eval_dataset=examples[:4],
        args=arguments(
            tmp_path,
            save_strategy="steps",
            save_steps=2,
            eval_strategy="steps",
            eval_steps=2,
            load_best_model_at_end=True,
        ),
    )
    trainer.train()
    saved = Eagle3DraftHead.from_pretrained(trainer.state.best_model_checkpoint)
    assert torch.equal(saved.draft_to_target, ids)
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(head.state_dict().values(), saved.state_dict().values())
    )
    config = json.loads((tmp_path / "checkpoint-2" / "config.json").read_text())
    assert (
        config["architectures"] == ["LlamaForCausalLMEagle3"]
        and config["eagle_hf"]["trained_length"] == 39
    )


def test_remembered_states_change_no_loss(target, examples, tmp_path, trained):
    logs = []
    for gigabytes in (0.0, 1.0):
        trainer = trained(
            target, tiny_head(target), examples, tmp_path, max_steps=12, target_states_gb=gigabytes
        )
        logs.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)


def test_states_are_remembered_only_while_memory_lasts(target, examples):
    batch, calls = collate([{"index": i, **examples[i]} for i in range(3)]), []
    states = TargetStates(
        target, [2, 3, 4], gigabytes=20 * (4 * 32 * 4 + 8) / 1e9
    )  # the first conversation's 20 tokens
    first = states(batch)
    assert list(states._remembered) == [0]
    batch = collate([{"index": 0, **examples[0]}])
    target.get_decoder().register_forward_pre_hook(lambda *_: calls.append(1))
    again = states(batch)
    assert not calls and set(again) == {"aux_hidden_states", "hidden_states", "best"}
    assert all(torch.equal(again[name][0], first[name][0, :20]) for name in again)


def test_the_curriculum_lengthens_the_passes(target, head, examples, tmp_path, trained):
    trainer = trained(target, head, examples, tmp_path, ttt_curriculum=[1, 3], logging_steps=1)
    assert [("acc_2" in log) for log in trainer.state.log_history if "loss" in log] == [
        False
    ] * 3 + [True] * 3


def test_evaluation_always_unrolls_every_pass(target, head, examples, tmp_path, arguments):
    trainer = Eagle3Trainer(
        model=head,
        target=target,
        train_dataset=examples,
        eval_dataset={"held": examples[:4]},
        args=arguments(
            tmp_path, ttt_curriculum=[1, 3], eval_strategy="steps", eval_steps=2, logging_steps=2
        ),
    )
    trainer.train()
    evaluated = [log for log in trainer.state.log_history if "eval_held_loss" in log]
    assert len(evaluated) == 3 and all("eval_held_acc_2" in log for log in evaluated)
    first = next(log for log in trainer.state.log_history if "loss" in log)
    assert "acc_1" not in first


@pytest.mark.parametrize(
    "field, value",
    [
        ("ttt_decay", 0.1),
        ("ttt_length", 1),
        ("adam_beta2", 0.5),
        ("max_grad_norm", 1e-3),
        ("max_length", 25),
        ("learn_prompts", True),
        ("feature_dropout", 0.3),
        ("loss_type", "log_alpha"),
        ("loss_type", "lk_hybrid"),
        ("loss_normaliser", "slots"),
        ("train_sampling_strategy", "group_by_length"),
    ],
)
def test_every_argument_changes_the_run(target, examples, tmp_path, field, value, trained):
    runs = [
        trained(target, tiny_head(target), examples, tmp_path, max_steps=4, **change)
        for change in ({}, {field: value})
    ]
    assert not all(torch.equal(a, b) for a, b in zip(*(run.model.parameters() for run in runs)))


def test_a_dataset_column_called_index_is_harmless(target, head, examples, tmp_path, arguments):
    rows = [{**example, "index": 0} for example in examples]
    trainer = Eagle3Trainer(model=head, target=target, args=arguments(tmp_path), train_dataset=rows)
    assert [row["index"] for row in trainer.train_dataset] == list(range(20))


def test_unusable_tokenised_rows_are_skipped_and_reported(
    target, head, examples, tmp_path, arguments
):
    rows = [
        *examples[:3],
        {"input_ids": [5] * 9, "loss_mask": [0] * 9},
        {"input_ids": [5] * 9, "loss_mask": [1]},
        examples[-1],
    ]
    trainer = Eagle3Trainer(
        model=head, target=target, args=arguments(tmp_path, max_length=30), train_dataset=rows
    )
    assert len(trainer.train_dataset) == 3
    assert [skip.id for skip in trainer.skipped] == ["row-3", "row-4", "c19"]
    with pytest.raises(ValueError, match="none of 1 tokenised conversations is usable"):
        Eagle3Trainer(model=head, target=target, args=arguments(tmp_path), train_dataset=rows[3:4])


def test_a_clocked_run_stops_in_time(target, head, examples, tmp_path, trained):
    trainer = trained(
        target, head, examples, tmp_path, max_steps=100_000, max_minutes=0.05, logging_steps=1
    )
    assert 3 < trainer.state.global_step < 100_000 and trainer.progress() == 1.0
    rates = [log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log]
    assert max(rates) > 10 * rates[-1]


def test_a_resumed_clocked_run_knows_what_is_spent(target, head, examples, tmp_path, trained):
    clocked = dict(
        max_steps=100_000,
        max_minutes=0.04,
        save_strategy="steps",
        save_steps=10,
        save_total_limit=2,
    )
    trainer = trained(target, head, examples, tmp_path, **clocked)
    last = max(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    resumed = trained(target, tiny_head(target), examples, tmp_path, resume=str(last), **clocked)
    more = resumed.state.global_step - int(last.name.split("-")[1])
    assert 0 < more < 0.5 * trainer.state.global_step


def test_new_head_starts_from_the_target(target, examples):
    head, covered = new_head(target, examples, 20, fc_norm=True)
    assert torch.equal(head.lm_head.weight, target.lm_head.weight[head.draft_to_target])
    counts = torch.bincount(
        torch.tensor(sum((example["input_ids"][4:] for example in examples), [])), minlength=31
    )
    assert (
        covered == pytest.approx(float(counts[head.draft_to_target].sum() / counts.sum()))
        and counts[head.draft_to_target].min() >= counts.sort().values[11]
    )
    longest = torch.tensor([example["input_ids"][:32] for example in examples[-8:]])
    aux, _ = target_states(target, longest, [2, 3, 4])
    for norm, stream in zip(head.fc_norm, aux.chunk(3, dim=-1)):
        assert torch.allclose(
            norm(stream).square().mean((0, 1)), torch.ones(32), atol=1e-4
        )  # every dimension speaks as loud
    with pytest.raises(ValueError, match="hold 1 distinct tokens"):
        new_head(target, [{"id": "x", "input_ids": [5, 6], "loss_mask": [0, 1]}], 20)


@pytest.fixture
def tokenizer():
    return word_tokenizer()


def conversation(answer, question="w5 w6"):
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def test_conversations_are_rendered_and_unusable_ones_reported(
    target, head, tokenizer, tmp_path, arguments
):
    rows = [conversation("w7 w8 w9")] * 3 + [conversation("w7 " * 600), {"messages": []}]
    trainer = Eagle3Trainer(
        model=head,
        target=target,
        args=arguments(tmp_path),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    assert len(trainer.train_dataset) == 3 and len(trainer.skipped) == 2
    example = trainer.train_dataset[0]
    learnt = [i for i, m in zip(example["input_ids"], example["loss_mask"]) if m]
    assert learnt == [7, 8, 9, 2]
    assert "max_length is 512" in trainer.skipped[0].reason


def test_conversations_without_a_tokenizer_or_template_are_refused(
    target, head, tokenizer, tmp_path, arguments
):
    settings = dict(
        model=head, target=target, args=arguments(tmp_path), train_dataset=[conversation("w7 w8")]
    )
    with pytest.raises(ValueError, match="processing_class"):
        Eagle3Trainer(**settings)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="chat template"):
        Eagle3Trainer(**settings, processing_class=tokenizer)


def test_an_all_zero_mask_is_refused():
    with pytest.raises(ValueError, match="loss masks"):
        collate([{"input_ids": [5, 6, 7], "loss_mask": [0, 0, 0]}])


def test_a_head_of_another_target_is_refused(head, examples, tmp_path, arguments):
    with pytest.raises(ValueError, match="layer count 7, this target's is 9"):
        Eagle3Trainer(
            model=head,
            target=tiny_target(layers=9),
            args=arguments(tmp_path),
            train_dataset=examples,
        )


@pytest.mark.parametrize(
    "bad",
    [dict(ttt_length=0), dict(max_minutes=-1.0), dict(ttt_curriculum=[0, 2]), dict(max_length=0)],
)
def test_impossible_arguments_are_refused(tmp_path, bad, arguments):
    with pytest.raises(ValueError, match=next(iter(bad))):
        arguments(tmp_path, **bad)
