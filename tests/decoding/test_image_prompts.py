"""Prompts with images: the target reads them, drafts are text, the output is the target's own."""

import pytest
import torch
import transformers
from drafting import plain_and_drafted
from packaging.version import Version
from tiny import left_padded, tiny_head, tiny_target
from tiny_vision import IMAGE_TOKEN, KINDS, image_prompts, vision_target
from transformers import AutoModelForImageTextToText, GPT2Config, GPT2LMHeadModel

from eagle_hf import SelfSpeculation, WindowedDraft
from eagle_hf.decoding.masks import TreeMask
from eagle_hf.decoding.tree import Tree

ROWS = "rows with two, no and one image"
# The lengths of the pieces of text of every row; an image stands between two.
PROMPTS = {
    "one image": [[5, 4]],
    "an image at the end": [[6, 0]],
    ROWS: [[3, 2, 4], [6], [9, 3]],
    "text": [[8]],
    "rows of text": [[8], [3]],
}
GREEDY = dict(do_sample=False, max_new_tokens=24, eos_token_id=None)
SAMPLED = dict(do_sample=True, temperature=1.0, top_k=0, max_new_tokens=24, eos_token_id=None)


def settings_for(inputs):
    """Greedy, and for one row sampled: the rows of a batch share plain generate's draws."""
    return [GREEDY, SAMPLED] if len(inputs["input_ids"]) == 1 else [GREEDY]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def target(kind):
    return vision_target(kind)


@pytest.fixture(scope="module")
def head(target):
    return tiny_head(target)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_output_over_images_equals_the_target_alone(kind, target, head, prompt):
    inputs = image_prompts(kind, PROMPTS[prompt])
    for settings in settings_for(inputs):
        plain, fast = plain_and_drafted(target, head, inputs, **settings)
        assert torch.equal(plain, fast)
    assert head.last_run.rounds > 1


def test_a_model_that_sees_no_images_drafts_losslessly(kind, target):
    small = WindowedDraft(tiny_target(layers=2, seed=3), sinks=2, window=6)
    plain, fast = plain_and_drafted(target, small, image_prompts(kind, PROMPTS[ROWS]), **GREEDY)
    assert torch.equal(plain, fast)


def test_the_target_accepts_its_own_drafts_behind_images(kind, target):
    knows_all = SelfSpeculation(snapkv=30, window=60, gamma=4)
    plain, fast = plain_and_drafted(target, knows_all, image_prompts(kind, PROMPTS[ROWS]), **GREEDY)
    assert torch.equal(plain, fast)
    assert knows_all.last_run.tau > 4.5


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_sinks_are_turned_to_where_text_behind_images_is_placed(kind):
    if Version(transformers.__version__) < Version("5.20"):
        pytest.skip("RoPE takes positions on three axes alone, so sinks are refused by name")
    knows_nearly_all = SelfSpeculation(sinks=2, window=20, gamma=4)
    inputs = image_prompts(kind, PROMPTS["one image"])
    plain, fast = plain_and_drafted(vision_target(kind), knows_nearly_all, inputs, **GREEDY)
    assert torch.equal(plain, fast)
    assert knows_nearly_all.last_run.tau > 1.5


def test_placeholders_beyond_the_vocabulary_are_read_as_the_target_reads_them():
    config = KINDS["gemma3"].config()
    config.image_token_id = 40
    torch.manual_seed(0)
    target = AutoModelForImageTextToText.from_config(config).double().eval()
    inputs = image_prompts("gemma3", PROMPTS[ROWS])
    inputs["input_ids"].masked_fill_(inputs["input_ids"] == IMAGE_TOKEN, 40)
    plain, fast = plain_and_drafted(target, tiny_head(target), inputs, **GREEDY)
    assert torch.equal(plain, fast)


class CountsSlots(GPT2LMHeadModel):
    """Counts positions itself, padding included, as Exaone 4.5 does."""

    def prepare_inputs_for_generation(self, *args, **kwargs):
        return super().prepare_inputs_for_generation(*args, **kwargs) | {"position_ids": None}


class CountsFromOne(GPT2LMHeadModel):
    """Begins at position 1, as PaliGemma does."""

    def prepare_inputs_for_generation(self, *args, **kwargs):
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        return inputs | {"position_ids": inputs["position_ids"] + 1}


@pytest.mark.parametrize("made_of", [CountsSlots, CountsFromOne])
def test_trees_are_placed_where_the_model_itself_places_text(made_of):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=31,
        n_embd=32,
        n_layer=7,
        n_head=4,
        n_positions=128,
        initializer_range=0.25,
        eos_token_id=2,
        pad_token_id=0,
    )
    target = made_of(config).double().eval()
    inputs = left_padded(target, [9, 4])
    plain, fast = plain_and_drafted(target, tiny_head(target), inputs, **GREEDY)
    assert torch.equal(plain, fast)


def test_trees_after_an_image_go_on_by_one_on_every_axis():
    target = vision_target("qwen2_5_vl")
    ids = torch.ones(1, 9, dtype=torch.long)
    # a b, an image of 2 by 3 patches, c
    axes = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8],
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]
    masks = TreeMask(target, ids, position_ids=torch.tensor(axes)[:, None])
    tree = Tree(ids[:, :3], torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 2]]))
    _, positions = masks.for_tree(tree, ends=[9], limit=64)
    assert positions[:, 0].tolist() == [[9, 10, 11], [6, 7, 8], [6, 7, 8], [6, 7, 8]]
