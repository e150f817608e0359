"""Heads of image-text targets: trained on text and on conversations with images."""

import pytest
import torch
from tiny import tiny_head
from tiny_vision import picture, vision_processor, vision_target
from training_checks import evaluations

from eagle_hf import Eagle3Trainer, new_head
from eagle_hf.data import capture_features, prepare_examples
from eagle_hf.training.acceptance import held_out_prompts, measure_acceptance
from eagle_hf.training.batches import TargetStates, collate

EVALUATING = dict(eval_strategy="steps", eval_steps=6, eval_prompts=4, eval_new_tokens=8)


@pytest.fixture(params=["llava", "gemma3", "qwen2_5_vl"])
def kind(request):
    return request.param


def conversation(number, images):
    """One answer for every number of images."""
    messages = []
    for turn, count in enumerate(images):
        content = [{"type": "image", "image": picture(10 * number + turn)} for _ in range(count)]
        content.append({"type": "text", "text": f"w{5 + number} w{9 + turn}"})
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": f"w{6 + number} w7 w8 w{10 + number} w11"})
    return {"id": f"c{number}", "messages": messages}


ROWS = [conversation(n, images) for n, images in enumerate([[1], [0], [2], [1, 0], [1, 1], [0]])]


def prepared(kind, dtype=torch.float64):
    """(target, head, processor, examples) of a kind."""
    target = vision_target(kind, dtype)
    processor = vision_processor(kind)
    examples, skipped = prepare_examples(target, processor, ROWS)
    assert not skipped
    return target, tiny_head(target), processor, examples


@pytest.mark.parametrize("packing", [False, True])
def test_the_teacher_reads_the_images(kind, packing):
    target, head, _, examples = prepared(kind)
    states = TargetStates(target, head.config.aux_layer_ids)
    batch = collate(examples, packing=packing)
    features = states.run_target(batch)
    best = []
    for example in examples:
        ids = torch.tensor([example["input_ids"]])
        logits = target(input_ids=ids, **example.get("image_inputs", {})).logits
        best.append(logits[0].argmax(-1))
    learnt = [torch.tensor(example["loss_mask"]).bool() for example in examples]
    told = [own[:-1][mask[1:]] for own, mask in zip(best, learnt, strict=True)]
    is_asked = batch["labels"].roll(-1, dims=1) != -100
    assert torch.equal(features["best"][is_asked], torch.cat(told))


def test_training_on_images_is_evaluated_by_generating(kind, arguments, tmp_path):
    target, head, processor, _ = prepared(kind, torch.float32)
    trainer = Eagle3Trainer(
        model=head,
        target=target,
        args=arguments(tmp_path, **EVALUATING),
        train_dataset=ROWS[:4],
        eval_dataset=ROWS[3:],
        processing_class=processor,
    )
    trainer.train()
    (log,) = evaluations(trainer)
    prompts = held_out_prompts(trainer.eval_dataset, EVALUATING["eval_prompts"])
    measured = measure_acceptance(target, head, prompts, EVALUATING["eval_new_tokens"])
    assert log["eval_tau"] == pytest.approx(measured["tau"])
    assert log["eval_loss"] > 0
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]


def test_remembered_features_of_images_are_those_of_the_target(kind):
    target, head, _, examples = prepared(kind)
    indexed = [{"index": number, **example} for number, example in enumerate(examples)]
    ahead = TargetStates(target, head.config.aux_layer_ids, gigabytes=1)
    ahead.fill(indexed, batch_size=4)
    batch = collate(indexed)
    remembered = ahead.run_target(batch)
    computed = TargetStates(target, head.config.aux_layer_ids).run_target(batch)
    for name, column in computed.items():
        assert torch.allclose(remembered[name], column)


def test_acceptance_is_measured_over_the_images_themselves(kind):
    target, head, _, examples = prepared(kind)
    prompts = held_out_prompts(examples[4:5], 1)
    assert len(prompts[0].input_ids) > examples[4]["loss_mask"].index(1)  # the last of two answers
    measured = measure_acceptance(target, head, prompts, 12)
    ids = torch.tensor([prompts[0].input_ids])
    images = {
        name: part.double() if part.is_floating_point() else part
        for name, part in prompts[0].image_inputs.items()
    }
    torch.manual_seed(0)
    target.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        assistant_model=head,
        max_new_tokens=12,
        do_sample=False,
        **images,
    )
    assert measured["tau"] == pytest.approx(head.last_run.tau)


def test_a_new_head_is_made_of_conversations_with_images(kind):
    target, _, _, examples = prepared(kind, torch.float32)
    head, coverage = new_head(target, examples, draft_vocab_size=8, fc_norm=True)
    assert coverage > 0.5
    assert all(norm.weight.isfinite().all() for norm in head.fc_norm)


def test_images_are_not_captured_to_disk(tmp_path):
    target, head, _, examples = prepared("llava")
    with pytest.raises(ValueError, match="'c0' holds images.*Eagle3Trainer"):
        capture_features(
            target,
            examples,
            tmp_path,
            layer_ids=head.config.aux_layer_ids,
            template_sha256="",
        )


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "mistral3", "gemma3"])
def test_text_alone_trains_heads_of_image_text_targets(kind, trained, tmp_path):
    target = vision_target(kind, torch.float32)
    rows = []
    for number in range(8):
        ids = torch.arange(3, 19).roll(number).tolist()
        rows.append({"id": str(number), "input_ids": ids, "loss_mask": [0] * 4 + [1] * 12})
    trainer = trained(
        target, tiny_head(target), rows, tmp_path, eval_dataset=rows[:4], **EVALUATING
    )
    (log,) = evaluations(trainer)
    assert "eval_tau" in log
