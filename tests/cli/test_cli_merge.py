"""`eagle-hf merge`: a plain head comes out, and nothing is overwritten."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import tiny_head

from eagle_hf import Eagle3DraftHead, cli
from eagle_hf.training import merge_adapter


@pytest.fixture
def saved_head(target, tmp_path, monkeypatch):
    """A head and an adapter of it, in the folder that the command runs in."""
    head = tiny_head(target).to(torch.bfloat16)
    head.save_pretrained(tmp_path / "head")
    config = LoraConfig(target_modules=["fc", "o_proj"], init_lora_weights=False)
    get_peft_model(tiny_head(target), config).save_pretrained(tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    return head


COMMAND = ["merge", "--head", "head", "--adapter", "adapter", "--out", "out"]


def test_merge_writes_a_plain_head(saved_head, tmp_path, capsys):
    assert cli.main(COMMAND) == 0
    assert "out" in capsys.readouterr().out
    merged = Eagle3DraftHead.from_pretrained(tmp_path / "out")
    assert merged.dtype == torch.bfloat16
    assert merged.tree == saved_head.tree
    assert not torch.equal(merged.fc.weight, saved_head.fc.weight)
    expected = merge_adapter(saved_head, tmp_path / "adapter").state_dict()
    for name, ours in merged.state_dict().items():
        assert torch.equal(ours, expected[name])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["config.json", "model.safetensors"]


def test_merge_overwrites_nothing(saved_head, capsys):
    assert cli.main(COMMAND) == 0
    capsys.readouterr()
    assert cli.main(COMMAND) == 2
    assert capsys.readouterr().err == (
        "eagle-hf merge: out already holds config.json and model.safetensors; "
        "choose another folder, nothing is overwritten\n"
    )


def test_merge_refuses_what_is_no_adapter(saved_head, tmp_path, capsys):
    assert cli.main([*COMMAND[:4], "head", "--out", "new"]) == 2
    assert "is no adapter" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
