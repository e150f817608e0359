"""A target with a table of positions never reads beyond it while a head learns."""

import pytest
import torch
from tiny import tiny_head
from transformers import GPT2Config, GPT2LMHeadModel

from eagle_hf import Eagle3Trainer, new_head
from eagle_hf.data import capture_features, prepare_examples

POSITIONS = 16


@pytest.fixture(scope="module")
def short_target():
    """A GPT-2 that knows 16 positions."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=31,
        n_embd=32,
        n_layer=7,
        n_head=4,
        n_positions=POSITIONS,
        bos_token_id=1,
        eos_token_id=2,
    )
    return GPT2LMHeadModel(config).eval()


@pytest.fixture
def rows():
    """Two rows that fit, and between them one of 20 tokens."""
    lengths = {"short": 12, "long": 20, "full": POSITIONS}
    made = []
    for name, length in lengths.items():
        ids = [3 + token % 20 for token in range(length)]
        made.append({"id": name, "input_ids": ids, "loss_mask": [1] * length})
    return made


def test_rows_beyond_the_table_are_skipped_whatever_max_length_says(short_target, rows):
    for max_length in (None, 30):
        examples, skipped = prepare_examples(short_target, None, rows, max_length=max_length)
        assert [example["id"] for example in examples] == ["short", "full"]
        assert skipped[0].id == "long"
        assert "20 tokens and max_length is 16" in skipped[0].reason


def test_the_trainer_skips_rows_beyond_the_table(short_target, rows, tmp_path, arguments):
    trainer = Eagle3Trainer(
        model=tiny_head(short_target).float(),
        target=short_target,
        args=arguments(tmp_path, max_length=30, max_steps=1),
        train_dataset=rows,
    )
    assert [row.id for row in trainer.skipped] == ["long"]
    trainer.train()


def test_a_new_head_may_be_calibrated_on_rows_beyond_the_table(short_target, rows):
    head, _ = new_head(short_target, rows, 10, fc_norm=True)
    assert torch.isfinite(head.fc_norm[0].weight).all()


def test_capture_refuses_them_by_name_before_the_target_reads_them(short_target, rows, tmp_path):
    read = []

    def count(embeddings, args):
        read.append(args[0].shape[1])

    short_target.transformer.wte.register_forward_pre_hook(count)
    folder = tmp_path / "features"
    message = "conversation 'long' has 20 tokens and the target knows 16 positions; leave it out"
    with pytest.raises(ValueError, match=message):
        capture_features(short_target, rows, folder, layer_ids=[2, 3, 4], template_sha256="")
    assert max(read) < 16  # a few random tokens, to see whether it can teach
    assert not folder.exists()
