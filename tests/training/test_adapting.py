"""A head goes on learning: from what was saved, by all its weights or a LoRA, for a target with an adapter of its own."""

import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from tiny import left_padded, tiny_head, tiny_target, word_tokenizer

from eagle_hf import (
    Eagle3DraftHead,
    Eagle3Trainer,
    TreeConfig,
    load_target,
    merge_adapter,
    new_head,
)
from eagle_hf.target import unwrap
from eagle_hf.training.merging import merged

LORA = dict(r=4, target_modules=["fc", "q_proj", "down_proj"])


@pytest.fixture
def saved(head, tmp_path):
    """Folder of a saved head with a tree and a trained length of its own."""
    head.tree = TreeConfig(depth=3, top_k=2, nodes=5)
    head.config.eagle_hf = {**head.config.eagle_hf, "trained_length": 17}
    head.save_pretrained(tmp_path / "head")
    return tmp_path / "head"


@pytest.fixture
def adapted(target, examples, arguments, saved):
    """adapted(folder, resume=None, target=target, **arguments) -> the trainer of a LoRA run over the saved head."""

    def run(folder, resume=None, target=target, lora=LORA, **overrides):
        torch.manual_seed(0)
        head = Eagle3DraftHead.from_pretrained(saved, dtype=torch.float32)
        args = arguments(folder, **overrides)
        trainer = Eagle3Trainer(
            model=head,
            target=target,
            args=args,
            train_dataset=examples,
            peft_config=lora and LoraConfig(**lora),
        )
        trainer.before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def losses(trainer):
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def same_weights(a, b):
    ours, theirs = a.state_dict(), b.state_dict()
    return list(ours) == list(theirs) and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )


def test_a_saved_head_keeps_its_vocabulary_whatever_the_data_says(
    target, examples, adapted, saved, tmp_path
):
    ids = Eagle3DraftHead.from_pretrained(saved).draft_to_target
    assert not torch.equal(new_head(target, examples, len(ids))[0].draft_to_target, ids)
    trainer = adapted(tmp_path / "run", lora=None)
    trainer.save_head(tmp_path / "out")
    out = Eagle3DraftHead.from_pretrained(tmp_path / "out")
    assert torch.equal(out.draft_to_target, ids) and out.tree == TreeConfig(
        depth=3, top_k=2, nodes=5
    )
    assert out.config.eagle_hf["trained_length"] == 39  # longer than any conversation before
    assert all(not torch.equal(p, trainer.before[name]) for name, p in out.named_parameters())


def test_a_head_stored_in_bf16_goes_on_in_float32(head, adapted, saved, tmp_path):
    shutil.rmtree(saved)
    head.to(torch.bfloat16).save_pretrained(saved)
    trainer = adapted(tmp_path / "run", lora=None, learning_rate=1e-5)
    steps = [(p - trainer.before[name]).abs() for name, p in trainer.model.named_parameters()]
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert all(0 < step.max() < 1e-4 for step in steps)  # bfloat16 would round most of them away
    trainer.save_head(tmp_path / "out")
    assert Eagle3DraftHead.from_pretrained(tmp_path / "out").dtype == torch.float32


def test_a_lora_run_moves_the_adapter_alone(adapted, tmp_path):
    trainer = adapted(tmp_path)
    moved = {
        name
        for name, p in trainer.model.named_parameters()
        if not torch.equal(p, trainer.before[name])
    }
    assert moved == {name for name in trainer.before if "lora_" in name}


def test_a_resumed_lora_run_ends_where_the_uninterrupted_one_does(adapted, tmp_path):
    saving = dict(save_strategy="steps", save_steps=3, logging_steps=1)
    whole = adapted(tmp_path / "whole", **saving)
    files = {path.name for path in (tmp_path / "whole" / "checkpoint-3").iterdir()}
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "cut" / "checkpoint-3")
    resumed = adapted(tmp_path / "cut", resume=True, **saving)
    assert same_weights(whole.model, resumed.model) and losses(whole)[3:] == losses(resumed)[-3:]


def test_the_saved_head_draws_the_wrapped_heads_logits(target, adapted, saved, tmp_path):
    trainer = adapted(tmp_path / "run", learning_rate=0.1)
    trainer.save_head(tmp_path / "out")
    head, wrapped = Eagle3DraftHead.from_pretrained(tmp_path / "out"), unwrap(trainer.model).eval()
    torch.manual_seed(0)
    embeddings, aux = torch.randn(2, 9, 32), torch.randn(2, 9, 96)
    for merged_pass, wrapped_pass in zip(
        head(embeddings, aux, ttt_length=2), wrapped(embeddings, aux, ttt_length=2)
    ):
        assert torch.allclose(head.logits(merged_pass), wrapped.logits(wrapped_pass), atol=1e-5)
    old = Eagle3DraftHead.from_pretrained(saved)
    assert not torch.allclose(
        head.logits(head(embeddings, aux)[0]), old.logits(old(embeddings, aux)[0]), atol=1e-2
    )
    assert isinstance(trainer.model, PeftModel)  # training can go on


def test_merging_a_checkpoint_gives_what_the_run_saved(adapted, saved, tmp_path):
    trainer = adapted(tmp_path / "run", save_strategy="steps", save_steps=3)
    trainer.save_head(tmp_path / "out")
    head, theirs = (
        Eagle3DraftHead.from_pretrained(saved),
        Eagle3DraftHead.from_pretrained(tmp_path / "out"),
    )
    ours = merge_adapter(head, tmp_path / "run" / "checkpoint-6")
    assert same_weights(ours, theirs) and same_weights(ours, merged(trainer.model))
    assert same_weights(head, Eagle3DraftHead.from_pretrained(saved))  # left alone
    assert ours.tree == head.tree and ours.config.eagle_hf["trained_length"] == 17
    assert not ours.training and all(p.requires_grad for p in ours.parameters())


def test_a_bf16_head_is_merged_in_float32_and_rounded_once(target, tmp_path):
    head = tiny_head(target).to(torch.bfloat16)
    wrapped = get_peft_model(
        tiny_head(target).to(torch.bfloat16), LoraConfig(**LORA, init_lora_weights=False)
    )
    wrapped.save_pretrained(tmp_path)
    out = merge_adapter(head, tmp_path)
    exact = merge_adapter(tiny_head(target).to(torch.bfloat16).float(), tmp_path)
    assert out.dtype == torch.bfloat16 and exact.dtype == torch.float32
    assert all(
        torch.equal(ours, theirs.to(ours.dtype))
        for ours, theirs in zip(out.state_dict().values(), exact.state_dict().values())
    )
    assert torch.equal(out.rotary_emb.inv_freq, head.rotary_emb.inv_freq)


@pytest.fixture(params=[["q_proj", "down_proj"], ["v_proj", "lm_head", "embed_tokens"]], ids=str)
def tuned(request, tmp_path):
    """(a float32 target under a LoRA that changes what it says, the same target with the LoRA merged in)."""

    def lora(base):
        torch.manual_seed(5)
        return get_peft_model(
            base,
            LoraConfig(target_modules=request.param, r=4, lora_alpha=8, init_lora_weights=False),
        ).eval()

    targets = (
        lora(tiny_target(dtype=torch.float32)),
        lora(tiny_target(dtype=torch.float32)).merge_and_unload(),
    )
    return [target.requires_grad_(False) for target in targets]


def test_a_target_with_an_adapter_teaches_what_the_merged_one_does(
    target, tuned, adapted, tmp_path
):
    wrapped, plain = (
        adapted(tmp_path / name, target=t, lora=None, logging_steps=1)
        for name, t in zip("ab", tuned)
    )
    untuned = adapted(tmp_path / "c", lora=None, logging_steps=1)
    assert losses(wrapped) == pytest.approx(losses(plain), rel=1e-5)
    assert losses(wrapped)[0] != pytest.approx(losses(untuned)[0], rel=1e-3)
    batch = next(iter(wrapped.get_train_dataloader()))
    for name, ours in wrapped.states(batch).items():
        assert torch.allclose(ours.double(), plain.states(batch)[name].double(), atol=1e-4), name
    assert not torch.allclose(
        wrapped.states(batch)["hidden_states"], untuned.states(batch)["hidden_states"], atol=1e-1
    )


def test_a_head_trained_for_an_adapted_target_decodes_it_losslessly(tuned, adapted, tmp_path):
    head = unwrap(adapted(tmp_path, target=tuned[0]).model).double().eval()
    target = tuned[0].double()
    inputs = left_padded(tuned[1], [9, 4])
    plain, fast = (
        target.generate(**inputs, assistant_model=a, max_new_tokens=40, eos_token_id=None)
        for a in (None, head)
    )
    assert torch.equal(plain, fast) and head.last_run.rounds > 0
    assert not torch.equal(
        plain, tiny_target().generate(**inputs, max_new_tokens=40, eos_token_id=None)
    )


def test_no_adapter_says_what_is_one(head, adapted, saved, tmp_path):
    with pytest.raises(
        ValueError,
        match="head is no adapter: it holds no adapter_config.json; give a folder that PEFT saved",
    ):
        merge_adapter(head, saved)
    adapted(tmp_path / "run", save_strategy="steps", save_steps=3)
    with pytest.raises(ValueError, match="give one of its checkpoints, the last is .*checkpoint-6"):
        merge_adapter(head, tmp_path / "run")
    (tmp_path / "run" / "checkpoint-6" / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="cannot be laid over this Eagle3DraftHead"):
        merge_adapter(head, tmp_path / "run" / "checkpoint-6")
    with pytest.raises(
        ValueError, match="no-such-folder cannot be laid .*Can't find 'adapter_config.json'"
    ):
        merge_adapter(head, tmp_path / "no-such-folder")


@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
@pytest.mark.parametrize(
    "modules, width",
    [(["q_proj"], 32), (["embed_tokens"], 32), (["q_proj", "down_proj"], 48)],
    ids=str,
)
def test_an_adapter_of_something_else_is_refused(head, tmp_path, task, modules, width):
    other = tiny_target(dtype=torch.float32, hidden_size=width)
    if task is None and width != 32:
        other = tiny_head(other)
    get_peft_model(
        other, LoraConfig(task_type=task, target_modules=modules, init_lora_weights=False)
    ).save_pretrained(tmp_path)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    with pytest.raises(ValueError, match="trained on this very model"):
        merge_adapter(head, tmp_path)
    assert list(head.state_dict()) == list(before)


def test_an_adapter_that_is_not_a_number_is_refused(head, tmp_path):
    wrapped = get_peft_model(tiny_head(tiny_target()), LoraConfig(**LORA, init_lora_weights=False))
    with torch.no_grad():
        next(p for name, p in wrapped.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        merged(wrapped)


def test_a_target_is_not_opened_with_an_adapter_of_another(tmp_path):
    """PEFT warns of weights that are missing and would go on with the bare target."""
    tiny_target(layers=8, dtype=torch.float32).save_pretrained(tmp_path / "target")
    word_tokenizer().save_pretrained(tmp_path / "target")
    get_peft_model(
        tiny_target(dtype=torch.float32), LoraConfig(target_modules=["q_proj"])
    ).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="missing adapter keys.*layers.7"):
        load_target(tmp_path / "target", adapter=tmp_path / "adapter")


def test_a_target_with_virtual_tokens_is_refused(head, examples, tmp_path, arguments):
    target = get_peft_model(
        tiny_target(dtype=torch.float32),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    )
    with pytest.raises(ValueError, match="prompt-learning adapter \\(PROMPT_TUNING\\)"):
        Eagle3Trainer(model=head, target=target, args=arguments(tmp_path), train_dataset=examples)


def test_adapters_with_constant_parts_unroll_as_their_merged_head_does(target):
    """TTT passes add the projections' two shares up: a bias must count once."""
    from peft import IA3Config

    generator = torch.Generator().manual_seed(0)
    modules = ["q_proj", "k_proj", "v_proj"]
    for config in (
        LoraConfig(r=4, target_modules=modules, lora_bias=True),
        IA3Config(target_modules=modules, feedforward_modules=[]),
    ):
        model = get_peft_model(tiny_head(target, attention_bias=True), config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad or name.endswith("bias"):
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
        inputs = (
            torch.randn(1, 9, 32, generator=generator),
            torch.randn(1, 9, 96, generator=generator),
        )
        for ours, theirs in zip(
            model(*inputs, ttt_length=3), merged(model)(*inputs, ttt_length=3), strict=True
        ):
            assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_a_lora_of_the_lm_head_survives_a_checkpoint(target, examples, trained, tmp_path):
    saving = dict(save_strategy="steps", save_steps=3)
    runs = []
    for resume in (None, str(tmp_path / "a" / "checkpoint-3")):
        model = get_peft_model(tiny_head(target), LoraConfig(r=2, target_modules=["lm_head", "fc"]))
        runs.append(
            trained(
                target,
                model,
                examples,
                tmp_path / ("b" if resume else "a"),
                resume=resume,
                **saving,
            )
        )
    assert all(
        torch.equal(a, b) for a, b in zip(*(run.model.state_dict().values() for run in runs))
    )


def test_an_adapter_is_not_opened_as_a_head(target, examples, trained, tmp_path):
    model = get_peft_model(tiny_head(target), LoraConfig(r=2, target_modules=["fc"]))
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(
        ValueError, match="holds a PEFT adapter, not a head; merge it: eagle-hf merge"
    ):
        Eagle3DraftHead.from_pretrained(tmp_path / "adapter")


def test_an_adapter_resumes_only_over_its_own_head(target, examples, trained, tmp_path):
    def lora(seed, adapter_seed=0):
        head = tiny_head(target, seed=seed)
        torch.manual_seed(adapter_seed)  # its first weights are the checkpoint's business
        return get_peft_model(head, LoraConfig(r=2, target_modules=["fc"]))

    saving = dict(save_strategy="steps", save_steps=3)
    trained(target, lora(1), examples, tmp_path, **saving)
    trained(target, lora(1, adapter_seed=5), examples, tmp_path, resume=True, **saving)
    with pytest.raises(ValueError, match="head_weights is .* there and .* now"):
        trained(target, lora(2), examples, tmp_path, resume=True, **saving)


def test_a_half_precision_head_is_not_trained(target, head, examples, trained, tmp_path):
    with pytest.raises(
        ValueError, match="weights are torch.bfloat16.*dtype=torch.float32 and train with bf16=True"
    ):
        trained(target, head.to(torch.bfloat16), examples, tmp_path)
