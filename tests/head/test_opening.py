"""Opening trusts no file.

Broken maps and weights, links and names that lead away, and pickles that are more than tensors are
refused.
"""

import json
import os
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from test_dialects import logits, original, their_config, their_weights, write_head, write_weights
from tiny import tiny_head

from eagle_hf import Eagle3DraftHead


def rewritten(head, folder, edit):
    """A SpecForge folder whose tensors went through `edit`."""
    weights = their_weights(head, "specforge")
    edit(weights)
    (folder / "config.json").write_text(json.dumps(their_config(head, "specforge")))
    write_weights(weights, folder)


@pytest.mark.parametrize(
    "edit, what",
    [
        (lambda w: w.pop("d2t"), r"missing_keys: \['d2t'\]"),
        (lambda w: w.pop("lm_head.weight"), r"missing_keys: \['lm_head.weight'\]"),
        (lambda w: w.update(d2t=w["d2t"] + 20), "d2t is unusable.*span"),
        (lambda w: w.update(d2t=w["d2t"].flip(0)), "d2t is unusable.*ascending"),
        (lambda w: w.update(d2t=w["d2t"].double()), "d2t is of torch.float64"),
        (lambda w: w.update(d2t=w["d2t"][:-1]), "mismatched_keys.*d2t"),
        (lambda w: w.update(t2d=~w["t2d"]), "t2d marks other tokens"),
        (
            lambda w: w.update({"midlayer.self_attn.q_proj.bias": torch.zeros(32)}),
            "missing_keys.*k_proj.bias",
        ),
        (
            lambda w: w.update({"fc.weight": w["fc.weight"].to(torch.float8_e4m3fn)}),
            "quantised or damaged",
        ),
    ],
)
def test_broken_vocabularies_and_weights_are_refused(target, tmp_path, edit, what):
    rewritten(original(target, "specforge"), tmp_path, edit)
    with pytest.raises(ValueError, match=what):
        Eagle3DraftHead.from_pretrained(tmp_path)


def test_a_map_of_the_full_vocabulary_onto_itself_is_dropped_and_any_other_refused(
    target, tmp_path
):
    head = tiny_head(target, draft_vocab_size=31)
    to_itself = {"d2t": torch.zeros(31, dtype=torch.long), "t2d": torch.ones(31, dtype=torch.bool)}
    rewritten(head, tmp_path, lambda w: w.update(to_itself))
    assert not hasattr(Eagle3DraftHead.from_pretrained(tmp_path), "d2t")
    rewritten(head, tmp_path, lambda w: w.update(d2t=torch.ones(31, dtype=torch.long)))
    with pytest.raises(ValueError, match=r"unexpected_keys: \['d2t'\]"):
        Eagle3DraftHead.from_pretrained(tmp_path)


def test_a_head_that_borrows_the_targets_lm_head_asks_for_the_target(target, tmp_path):
    rewritten(tiny_head(target, draft_vocab_size=31), tmp_path, lambda w: w.pop("lm_head.weight"))
    with pytest.raises(ValueError, match="eagle-hf check .* --target TARGET --fix"):
        Eagle3DraftHead.from_pretrained(tmp_path)


def test_our_own_layout_stays_strict(target, tmp_path):
    head = tiny_head(target)
    head.save_pretrained(tmp_path)
    weights = head.state_dict() | {"embed_tokens.weight": torch.zeros(31, 32)}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"unexpected_keys: \['embed_tokens.weight'\]"):
        Eagle3DraftHead.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "options, dtype",
    [
        ({}, torch.float64),
        ({"dtype": torch.float32}, torch.float32),
        ({"torch_dtype": "bfloat16"}, torch.bfloat16),
    ],
)
def test_the_usual_options_of_from_pretrained_hold(target, tmp_path, options, dtype):
    write_head(original(target, "authors"), "authors", tmp_path / "sub")
    head, info = Eagle3DraftHead.from_pretrained(
        tmp_path,
        subfolder="sub",
        device_map="cpu",
        attn_implementation="eager",
        norm_output=True,
        output_loading_info=True,
        **options,
    )
    assert head.dtype == dtype
    assert head.config._attn_implementation == "eager"
    assert head.config.norm_output
    assert not info["missing_keys"]
    assert head.d2t.dtype == torch.long
    assert head.name_or_path == str(tmp_path)


@pytest.mark.parametrize(
    "option", [{"weights_only": False}, {"variant": "fp16"}, {"config": "elsewhere"}]
)
def test_options_that_would_be_unsafe_or_ignored_are_refused(tmp_path, option):
    with pytest.raises(ValueError, match="given|give"):
        Eagle3DraftHead.from_pretrained(tmp_path, **option)


def cached_head(head, cache, commit="a" * 40):
    """A hub cache that holds the head as user/head: links to blobs, as huggingface_hub has it."""
    repo = cache / "models--user--head"
    snapshot = repo / "snapshots" / commit
    blobs = repo / "blobs"
    write_head(head, "specforge", snapshot)
    blobs.mkdir()
    for file in list(snapshot.iterdir()):
        blob = blobs / f"blob-{file.name}"
        file.rename(blob)
        file.symlink_to(os.path.relpath(blob, snapshot))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    return snapshot


def test_a_hub_id_opens_from_the_cache_by_name_and_revision(target, tmp_path):
    head = original(target, "specforge")
    snapshot = cached_head(head, tmp_path)
    for options in ({}, {"revision": "a" * 40}):
        opened = Eagle3DraftHead.from_pretrained(
            "user/head", cache_dir=tmp_path, local_files_only=True, **options
        )
        assert torch.equal(logits(opened), logits(head))
        assert opened.name_or_path == "user/head"
    assert torch.equal(logits(Eagle3DraftHead.from_pretrained(snapshot)), logits(head))
    with pytest.raises(OSError):
        Eagle3DraftHead.from_pretrained("user/other", cache_dir=tmp_path, local_files_only=True)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_links_out_of_the_folder_are_refused(target, tmp_path, file):
    write_head(original(target, "specforge"), "specforge", tmp_path / "head")
    (tmp_path / "head" / file).rename(tmp_path / "elsewhere")
    (tmp_path / "head" / file).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="outside of its folder"):
        Eagle3DraftHead.from_pretrained(tmp_path / "head")


@pytest.mark.parametrize(
    "shard",
    [
        "../model-00001-of-00002.safetensors",
        "/etc/passwd",
        "..",
        "a\\b.safetensors",
        ".hidden.safetensors",
        "pytorch_model.bin",
        "",
        7,
    ],
)
def test_shards_cannot_lie_outside_of_the_folder(target, tmp_path, shard):
    write_head(original(target, "specforge"), "specforge", tmp_path / "head", "safetensors shards")
    index = tmp_path / "head" / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    (tmp_path / "head" / places["fc.weight"]).rename(tmp_path / places["fc.weight"])
    index.write_text(json.dumps({"weight_map": places | {"fc.weight": shard}}))
    with pytest.raises(ValueError, match="shards lie beside it|no weight_map"):
        Eagle3DraftHead.from_pretrained(tmp_path / "head")


@pytest.mark.parametrize(
    "edit, what",
    [
        (lambda places: places.pop("fc.weight"), "disagree about"),
        (lambda places: places.update(extra=places["fc.weight"]), "disagree about"),
        (
            lambda places: places.update({"fc.weight": "model-00009-of-00002.safetensors"}),
            "disagree about|which is not there",
        ),
    ],
)
def test_an_index_that_does_not_match_its_shards_is_refused(target, tmp_path, edit, what):
    write_head(original(target, "specforge"), "specforge", tmp_path, "safetensors shards")
    index = tmp_path / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    edit(places)
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ValueError, match=what):
        Eagle3DraftHead.from_pretrained(tmp_path)


class Intruder:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def old_format(weights, file):
    torch.save(weights, file, _use_new_zipfile_serialization=False)


def compressed(weights, file):
    torch.save(weights, file)
    with zipfile.ZipFile(file) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)


def with_intruder(weights, file):
    torch.save(weights | {"x": Intruder(file.parent / "trace")}, file)


def damaged(weights, file):
    file.write_bytes(b"PK" * 99)


def nested(weights, file):
    torch.save({"state_dict": weights}, file)


def listed(weights, file):
    torch.save([weights], file)


def unfolding(weights, file):
    torch.save(weights | {"fc.weight": torch.zeros(1).double().expand(32, 96)}, file)


@pytest.mark.parametrize(
    "write, what",
    [
        (with_intruder, "more than tensors .*mkdir"),
        (old_format, "before torch 1.6"),
        (compressed, "compressed"),
        (damaged, "damaged"),
        (nested, "no plain dictionary"),
        (listed, "no plain dictionary"),
        (unfolding, "no plain dictionary"),
    ],
)
def test_pickles_that_are_more_than_tensors_are_never_executed(target, tmp_path, write, what):
    head = original(target, "authors")
    (tmp_path / "config.json").write_text(json.dumps(their_config(head, "authors")))
    write(their_weights(head, "authors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=f"(?s){what}.*no pickle is executed"):
        Eagle3DraftHead.from_pretrained(tmp_path)
    assert not (tmp_path / "trace").exists()


def test_an_opened_head_does_not_depend_on_its_file_any_more(target, tmp_path):
    head = original(target, "specforge")
    write_head(head, "specforge", tmp_path)
    opened = Eagle3DraftHead.from_pretrained(tmp_path)
    opened.save_pretrained(tmp_path)
    assert torch.equal(logits(opened), logits(head))
    assert Eagle3DraftHead.from_pretrained(tmp_path).dialect == "eagle_hf"
