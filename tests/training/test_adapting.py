"""A head goes on learning: from what was saved, by all its weights or a LoRA."""

import shutil

import pytest
import torch
from head_adapters import load_adapters
from peft import LilyConfig, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from tiny import left_padded, tiny_head, tiny_target
from training_checks import copied_parameters, losses, same_weights

from eagle_hf import Eagle3DraftHead, Eagle3Trainer, TreeConfig, new_head
from eagle_hf.data import capture_features
from eagle_hf.decoding.assistants import as_assistant
from eagle_hf.target import unwrap
from eagle_hf.training import last_checkpoint, merge_adapter
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
def adapting(target, examples, arguments, saved):
    """adapting(folder, target=target, lora=LORA, **overrides) -> a trainer of the saved head.

    lora=None trains all its weights.
    """

    def make(folder, target=target, lora=LORA, **overrides):
        torch.manual_seed(0)
        return Eagle3Trainer(
            model=Eagle3DraftHead.from_pretrained(saved, dtype=torch.float32),
            target=target,
            args=arguments(folder, **overrides),
            train_dataset=examples,
            peft_config=lora and LoraConfig(**lora),
        )

    return make


def test_the_adapter_is_saved_alone(adapting, saved, tmp_path):
    lora = LORA | {"target_modules": ["fc", "lm_head"]}
    trainer = adapting(tmp_path / "run", lora=lora, save_strategy="steps", save_steps=1)
    trainer.train()
    trainer.save_adapter(str(tmp_path / "adapter"))
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all("lora_" in name for name in weights)
    trainer.save_head(str(tmp_path / "merged"))
    head = Eagle3DraftHead.from_pretrained(saved, dtype=torch.float32)
    ours = merge_adapter(head, tmp_path / "adapter")
    assert same_weights(ours, Eagle3DraftHead.from_pretrained(tmp_path / "merged"))
    head.load_adapter(tmp_path / "adapter", adapter_name="code")
    head.load_adapter(last_checkpoint(tmp_path / "run"), adapter_name="checkpoint")


def test_a_run_of_all_weights_has_no_adapter_to_save(adapting, tmp_path):
    trainer = adapting(tmp_path / "run", lora=None)
    with pytest.raises(ValueError, match="no adapter is trained; give the Trainer a peft_config"):
        trainer.save_adapter(str(tmp_path / "adapter"))


def test_a_head_with_adapters_loaded_learns_as_one_without(target, examples, arguments, tmp_path):
    runs = []
    for with_adapters in (True, False):
        head = tiny_head(target).float()
        if with_adapters:
            load_adapters(head, tmp_path)
            as_assistant(head.with_adapter("code"))
        folder = tmp_path / str(with_adapters)
        args = arguments(folder)
        trainer = Eagle3Trainer(model=head, target=target, args=args, train_dataset=examples)
        trainer.train()
        trainer.save_head()
        runs.append(Eagle3DraftHead.from_pretrained(folder))
    assert same_weights(*runs)
    assert not torch.equal(runs[0].fc.weight, tiny_head(target).float().fc.weight)


@pytest.fixture
def adapted(adapting):
    """adapted(folder, resume=None, ...) -> the trainer, after training."""

    def run(folder, resume=None, **settings):
        trainer = adapting(folder, **settings)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def test_a_saved_head_keeps_its_vocabulary_whatever_the_data_says(
    target, examples, adapting, saved, tmp_path
):
    ids = Eagle3DraftHead.from_pretrained(saved).draft_to_target
    assert not torch.equal(new_head(target, examples, len(ids))[0].draft_to_target, ids)
    trainer = adapting(tmp_path / "run", lora=None)
    before = copied_parameters(trainer.model)
    trainer.train()
    trainer.save_head(tmp_path / "out")
    out = Eagle3DraftHead.from_pretrained(tmp_path / "out")
    assert torch.equal(out.draft_to_target, ids)
    assert out.tree == TreeConfig(depth=3, top_k=2, nodes=5)
    assert out.config.eagle_hf["trained_length"] == 39  # longer than any conversation before
    for name, parameter in out.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_a_head_stored_in_bf16_goes_on_in_float32(head, adapting, saved, tmp_path):
    shutil.rmtree(saved)
    head.to(torch.bfloat16).save_pretrained(saved)
    trainer = adapting(tmp_path / "run", lora=None, learning_rate=1e-5)
    before = copied_parameters(trainer.model)
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        assert parameter.dtype == torch.float32
        step = (parameter - before[name]).abs().max()
        assert 0 < step < 1e-4, name  # bfloat16 would round most of them away
    trainer.save_head(tmp_path / "out")
    assert Eagle3DraftHead.from_pretrained(tmp_path / "out").dtype == torch.float32


def test_a_lora_run_moves_the_adapter_alone(adapting, tmp_path):
    trainer = adapting(tmp_path)
    before = copied_parameters(trainer.model)
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        has_moved = not torch.equal(parameter, before[name])
        assert has_moved == ("lora_" in name), name


def test_a_resumed_lora_run_ends_where_the_uninterrupted_one_does(adapted, tmp_path):
    saving = dict(save_strategy="steps", save_steps=3, logging_steps=1)
    whole = adapted(tmp_path / "whole", **saving)
    files = {path.name for path in (tmp_path / "whole" / "checkpoint-3").iterdir()}
    assert "adapter_model.safetensors" in files
    assert "model.safetensors" not in files
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "cut" / "checkpoint-3")
    resumed = adapted(tmp_path / "cut", resume=True, **saving)
    assert same_weights(whole.model, resumed.model)
    assert losses(whole)[3:] == losses(resumed)[-3:]


def test_a_lora_of_the_lm_head_survives_a_checkpoint(target, examples, trained, tmp_path):
    saving = dict(save_strategy="steps", save_steps=3)

    def run(folder, resume=None):
        model = get_peft_model(tiny_head(target), LoraConfig(r=2, target_modules=["lm_head", "fc"]))
        return trained(target, model, examples, tmp_path / folder, resume=resume, **saving)

    whole = run("a")
    resumed = run("b", resume=str(tmp_path / "a" / "checkpoint-3"))
    assert same_weights(whole.model, resumed.model)


def test_an_adapter_resumes_only_over_its_own_head(target, examples, trained, tmp_path):
    saving = dict(save_strategy="steps", save_steps=3)

    def lora(seed, adapter_seed=0):
        head = tiny_head(target, seed=seed)
        torch.manual_seed(adapter_seed)  # its first weights are the checkpoint's business
        return get_peft_model(head, LoraConfig(r=2, target_modules=["fc"]))

    trained(target, lora(1), examples, tmp_path, **saving)
    trained(target, lora(1, adapter_seed=5), examples, tmp_path, resume=True, **saving)
    with pytest.raises(ValueError, match="head_weights is .* there and .* now"):
        trained(target, lora(2), examples, tmp_path, resume=True, **saving)


def test_the_saved_head_draws_the_wrapped_heads_logits(adapted, saved, tmp_path):
    trainer = adapted(tmp_path / "run", learning_rate=0.1)
    trainer.save_head(tmp_path / "out")
    head = Eagle3DraftHead.from_pretrained(tmp_path / "out")
    old = Eagle3DraftHead.from_pretrained(saved)
    wrapped = unwrap(trainer.model).eval()
    torch.manual_seed(0)
    inputs = torch.randn(2, 9, 32), torch.randn(2, 9, 96)  # embeddings, aux hidden states
    ours = [head.logits(states) for states in head(*inputs, ttt_length=2)]
    theirs = [wrapped.logits(states) for states in wrapped(*inputs, ttt_length=2)]
    assert torch.allclose(ours[0], theirs[0], atol=1e-5)
    assert torch.allclose(ours[1], theirs[1], atol=1e-5)
    assert not torch.allclose(ours[0], old.logits(old(*inputs)[0]), atol=1e-2)
    assert isinstance(trainer.model, PeftModel)  # training can go on


def test_merging_a_checkpoint_gives_what_the_run_saved(adapted, saved, tmp_path):
    trainer = adapted(tmp_path / "run", save_strategy="steps", save_steps=3)
    trainer.save_head(tmp_path / "out")
    head = Eagle3DraftHead.from_pretrained(saved)
    ours = merge_adapter(head, tmp_path / "run" / "checkpoint-6")
    assert same_weights(ours, Eagle3DraftHead.from_pretrained(tmp_path / "out"))
    assert same_weights(ours, merged(trainer.model))
    assert same_weights(head, Eagle3DraftHead.from_pretrained(saved))  # left alone
    assert ours.tree == head.tree
    assert ours.config.eagle_hf["trained_length"] == 17
    assert not ours.training
    assert all(p.requires_grad for p in ours.parameters())


def test_a_checkpoint_or_its_run_is_named_where_it_is_no_adapter(head, adapted, saved, tmp_path):
    problem = "head is no adapter: it holds no adapter_config.json; give a folder that PEFT saved"
    with pytest.raises(ValueError, match=problem):
        merge_adapter(head, saved)
    adapted(tmp_path / "run", save_strategy="steps", save_steps=3)
    with pytest.raises(ValueError, match="give one of its checkpoints, the last is .*checkpoint-6"):
        merge_adapter(head, tmp_path / "run")
    (tmp_path / "run" / "checkpoint-6" / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="cannot be laid over this Eagle3DraftHead"):
        merge_adapter(head, tmp_path / "run" / "checkpoint-6")


def lora_target(modules):
    """A float32 target under a LoRA that changes what it says."""
    base = tiny_target(dtype=torch.float32)
    config = LoraConfig(target_modules=modules, r=4, lora_alpha=8, init_lora_weights=False)
    torch.manual_seed(5)
    return get_peft_model(base, config).eval()


@pytest.fixture(params=[["q_proj", "down_proj"], ["v_proj", "lm_head", "embed_tokens"]], ids=str)
def tuned(request):
    """(a target under a LoRA, the same target with the LoRA merged in)."""
    wrapped = lora_target(request.param).requires_grad_(False)
    plain = lora_target(request.param).merge_and_unload().requires_grad_(False)
    return wrapped, plain


def test_a_target_with_an_adapter_teaches_what_the_merged_one_does(tuned, adapted, tmp_path):
    wrapped = adapted(tmp_path / "a", target=tuned[0], lora=None, logging_steps=1)
    plain = adapted(tmp_path / "b", target=tuned[1], lora=None, logging_steps=1)
    untuned = adapted(tmp_path / "c", lora=None, logging_steps=1)
    assert losses(wrapped) == pytest.approx(losses(plain), rel=1e-5)
    assert losses(wrapped)[0] != pytest.approx(losses(untuned)[0], rel=1e-3)

    batch = next(iter(wrapped.get_train_dataloader()))
    ours = wrapped.states.run_target(batch)
    theirs = plain.states.run_target(batch)
    for name, features in ours.items():
        assert torch.allclose(features.double(), theirs[name].double(), atol=1e-4), name
    others = untuned.states.run_target(batch)
    assert not torch.allclose(ours["hidden_states"], others["hidden_states"], atol=1e-1)


def test_a_head_trained_for_an_adapted_target_decodes_it_losslessly(tuned, adapted, tmp_path):
    head = unwrap(adapted(tmp_path, target=tuned[0]).model).double().eval()
    target = tuned[0].double()
    settings = dict(max_new_tokens=40, eos_token_id=None)
    inputs = left_padded(tuned[1], [9, 4])
    plain = target.generate(**inputs, **settings)
    fast = target.generate(**inputs, assistant_model=head, **settings)
    assert torch.equal(plain, fast)
    assert head.last_run.rounds > 0
    assert not torch.equal(plain, tiny_target().generate(**inputs, **settings))


def test_a_target_with_virtual_tokens_is_refused(head, examples, tmp_path, arguments):
    prompt_tuning = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    target = get_peft_model(tiny_target(dtype=torch.float32), prompt_tuning)
    with pytest.raises(ValueError, match="prompt-learning adapter \\(PROMPT_TUNING\\)"):
        Eagle3Trainer(model=head, target=target, args=arguments(tmp_path), train_dataset=examples)


@pytest.mark.parametrize(
    "adapter, kind",
    [
        (
            LoraConfig(
                task_type="CAUSAL_LM", alora_invocation_tokens=[4], target_modules=["q_proj"]
            ),
            "an activated LoRA",
        ),
        (LilyConfig(target_modules=["q_proj"]), "of the kind LILY"),
    ],
    ids=["activated", "lily"],
)
def test_a_target_whose_states_need_more_than_its_tokens_is_refused(
    head, examples, tmp_path, arguments, adapter, kind
):
    target = get_peft_model(tiny_target(dtype=torch.float32), adapter)
    settings = dict(model=head, target=target, train_dataset=examples)
    with pytest.raises(ValueError, match=f"the adapter 'default' is {kind}"):
        Eagle3Trainer(args=arguments(tmp_path), **settings)
    with pytest.raises(ValueError, match=f"the adapter 'default' is {kind}"):
        capture_features(
            target, examples, tmp_path / "features", layer_ids=[2, 3, 4], template_sha256=""
        )
    assert not (tmp_path / "features").exists()
