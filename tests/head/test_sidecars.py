"""Files beside a head go along with it; its measured figures do not outlive a change."""

import os

import pytest
import torch
from tiny import tiny_head, tiny_target

from eagle_hf import Eagle3DraftHead, Eagle3Trainer, Eagle3TrainingArguments, TreeConfig

FIGURES = {"README.md", "metrics.json", "acceptance.png"}
LASTING = {
    "plan.json",
    "custom_generate/generate.py",
    "tokenizer.json",
    "chat_template.jinja",
    "additional_chat_templates/tools.jinja",
}


@pytest.fixture
def folder(target, tmp_path):
    """A saved head with all files beside it, and run.json, which belongs to no head."""
    folder = tmp_path / "head"
    tiny_head(target, eagle_hf={"trained_length": 100}).save_pretrained(folder)
    for name in FIGURES | LASTING | {"run.json"}:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    return folder


def beside(folder):
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return files - {"config.json", "model.safetensors"}


@pytest.mark.parametrize("dtype", ["auto", torch.bfloat16], ids=str)
def test_an_unchanged_head_takes_everything_along(folder, tmp_path, dtype):
    Eagle3DraftHead.from_pretrained(folder, dtype=dtype).save_pretrained(tmp_path / "copy")
    assert beside(tmp_path / "copy") == FIGURES | LASTING
    assert (tmp_path / "copy" / "README.md").read_text() == "README.md"


def move_a_weight(head):
    head.fc.weight.data[0, 0] += 1e-3


def give_another_tree(head):
    head.tree = TreeConfig(depth=2, top_k=2, nodes=3)


def redraw_the_vocabulary(head):
    head.set_draft_vocabulary(torch.arange(24))


@pytest.mark.parametrize("change", [move_a_weight, give_another_tree, redraw_the_vocabulary])
def test_figures_do_not_outlive_a_change(folder, tmp_path, change):
    head = Eagle3DraftHead.from_pretrained(folder)
    change(head)
    head.save_pretrained(tmp_path / "copy")
    assert beside(tmp_path / "copy") == LASTING


def test_a_changed_head_in_its_own_folder_sets_the_old_figures_aside(folder):
    head = Eagle3DraftHead.from_pretrained(folder)
    head.save_pretrained(folder)
    assert beside(folder) == FIGURES | LASTING | {"run.json"}
    move_a_weight(head)
    head.save_pretrained(folder)
    assert beside(folder) == {f"{name}.outdated" for name in FIGURES} | LASTING | {"run.json"}


def test_a_checkpoint_carries_no_figures_of_the_head_it_began_with(folder, tmp_path):
    head = Eagle3DraftHead.from_pretrained(folder, dtype=torch.float32)
    example = {"input_ids": list(range(3, 23)), "loss_mask": [0] * 4 + [1] * 16}
    dataset = [example | {"id": str(number)} for number in range(4)]
    arguments = Eagle3TrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=1,
        save_steps=1,
        ttt_length=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    target = tiny_target(dtype=torch.float32)
    Eagle3Trainer(model=head, target=target, args=arguments, train_dataset=dataset).train()
    assert beside(tmp_path / "run" / "checkpoint-1") >= LASTING
    assert not FIGURES & beside(tmp_path / "run" / "checkpoint-1")


def test_a_head_whose_folder_is_damaged_or_gone_is_saved_without_its_figures(folder, tmp_path):
    head = Eagle3DraftHead.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"torn")
    head.save_pretrained(tmp_path / "copy")
    assert beside(tmp_path / "copy") == LASTING
    folder.rename(tmp_path / "elsewhere")
    head.save_pretrained(tmp_path / "again")
    assert beside(tmp_path / "again") == set()


def test_links_out_of_the_folder_are_not_followed_those_of_the_hub_cache_are(folder, tmp_path):
    blobs = tmp_path / "models--user--name" / "blobs"
    snapshot = tmp_path / "models--user--name" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    folder.rename(blobs)
    for name in ("config.json", "model.safetensors", "README.md"):
        os.symlink(f"../../blobs/{name}", snapshot / name)
    (tmp_path / "secret.png").write_text("not yours")
    os.symlink(tmp_path / "secret.png", snapshot / "plot.png")
    Eagle3DraftHead.from_pretrained(snapshot).save_pretrained(tmp_path / "copy")
    assert beside(tmp_path / "copy") == {"README.md"}
    assert not (tmp_path / "copy" / "README.md").is_symlink()


def test_saving_and_pushing_in_one_call_is_refused(head, tmp_path):
    with pytest.raises(ValueError, match="save first, then call head.push_to_hub"):
        head.save_pretrained(tmp_path, push_to_hub=True)
