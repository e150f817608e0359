"""A forward is exported once for all sizes, compiled, kept, and reads the model's own weights."""

from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_target
from transformers import LlamaForCausalLM, OPTConfig, OPTForCausalLM

from eagle_hf.compilation import keys, packages
from eagle_hf.compilation.attention import load_attention
from eagle_hf.compilation.forwards import NodesForward, Sizes, example_inputs
from eagle_hf.compilation.graphs import aten, export_forward
from eagle_hf.compilation.keys import package_key
from eagle_hf.compilation.operators import is_available
from eagle_hf.compilation.packages import (
    PACKAGE,
    PackageError,
    keep,
    make_forward,
    open_forward,
)

pytestmark = pytest.mark.skipif(not is_available(), reason="needs a C++ compiler")

LAYERS = [1, 2]
SIZES = [
    Sizes(batch=1, tokens=1, wanted=1, base=9, capacity=64),
    Sizes(batch=3, tokens=7, wanted=7, base=30, capacity=128),  # trees
    Sizes(batch=2, tokens=4, wanted=4, base=7, capacity=24),
    Sizes(batch=2, tokens=70, wanted=1, base=0, capacity=512),  # a chunk of a prompt
]
# transformers computes norms and RoPE in float32, whatever the model's dtype
ROUNDING = 1e-4


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, for packages; the operators are there already."""
    load_attention()
    folder = tmp_path / "cache"
    monkeypatch.setenv("EAGLE_HF_CACHE", str(folder))
    return folder


def tiny_opt():
    """A model in whose forward nothing is rounded to float32."""
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=31,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=512,
        init_std=0.2,
    )
    return OPTForCausalLM(config).double().eval()


def filled_inputs(model, sizes):
    """Random tokens behind a random cache, the same at every call."""
    torch.manual_seed(1)
    return example_inputs(model, sizes)


def assert_equal_forwards(run, forward, sizes, tolerance):
    """Both return the same and leave the same in the cache."""
    given = filled_inputs(forward.model, sizes)
    wanted = filled_inputs(forward.model, sizes)
    with torch.no_grad():
        results = run(given)
        expected = forward(*wanted)
    for result, reference in zip(results, expected, strict=True):
        torch.testing.assert_close(result, reference, atol=tolerance, rtol=0)
    for buffer, reference in zip(given.buffers, wanted.buffers, strict=True):
        torch.testing.assert_close(buffer, reference, atol=tolerance, rtol=0)


def exported(model):
    """(forward, its exported program) of a model."""
    forward = NodesForward(model, LAYERS)
    return forward, export_forward(forward, forward.example(packages.EXPORTED))


@pytest.mark.parametrize(
    ("model", "tolerance"), [(tiny_opt(), 1e-10), (tiny_target(layers=3), ROUNDING)]
)
def test_one_graph_serves_every_size(model, tolerance):
    forward, program = exported(model)
    for sizes in SIZES:
        assert_equal_forwards(lambda inputs: program.module()(*inputs), forward, sizes, tolerance)


def test_no_key_is_repeated_for_grouped_queries():
    _, program = exported(tiny_target(layers=3))
    attends = []
    for node in program.graph.nodes:
        assert node.target is not aten.scaled_dot_product_attention.default
        if node.target is torch.ops.eagle_hf.attend.default:
            attends.append(node)
    assert len(attends) == 3
    for node in attends:
        assert node.args[1].meta["val"].shape[1] == 2  # key heads, of 4 query heads


def test_linear_layers_become_our_operator_where_it_has_their_dtype():
    linear = torch.ops.eagle_hf.linear.default
    for dtype, count in ((torch.float32, 3 * 7 + 1), (torch.float64, 0)):
        _, program = exported(tiny_target(layers=3, dtype=dtype))
        assert sum(node.target is linear for node in program.graph.nodes) == count


def test_a_key_follows_all_that_a_package_depends_on(monkeypatch):
    model = tiny_target(layers=3)
    found = [package_key(NodesForward(model, LAYERS))]
    assert package_key(NodesForward(tiny_target(layers=3, seed=5), LAYERS)) == found[0]
    found.append(package_key(NodesForward(model, [0])))
    found.append(package_key(NodesForward(tiny_target(layers=3, dtype=torch.float32), LAYERS)))
    found.append(package_key(NodesForward(tiny_target(layers=3, rms_norm_eps=0.1), LAYERS)))
    monkeypatch.setattr(keys, "cpu_features", lambda: "another processor")
    found.append(package_key(NodesForward(model, LAYERS)))
    assert len(set(found)) == len(found)


def test_masks_of_several_kinds_are_passed_in_one_order():
    """A set of kinds has another order in every process."""
    model = tiny_target()
    inputs = example_inputs(model, SIZES[1])
    passed = []

    class Loader:
        def boxed_run(self, flat):
            passed.append(flat)
            return ()

    kept = object.__new__(packages.KeptForward)
    kept._label = "compiled"
    kept._package = SimpleNamespace(loader=Loader())
    masks = {"full_attention": inputs.mask, "sliding_attention": inputs.mask.clone()}
    for order in (sorted(masks), sorted(masks, reverse=True)):
        kept(inputs._replace(mask={kind: masks[kind] for kind in order}))
    for first, second in zip(*passed, strict=True):
        assert first is second


class Undecided(LlamaForCausalLM):
    """A model whose forward depends on the values of its inputs."""

    def forward(self, input_ids, **kwargs):
        assert bool(input_ids.sum() >= 0)
        return super().forward(input_ids, **kwargs)


def test_a_model_that_cannot_be_exported_is_named_and_leaves_nothing(cache):
    with pytest.raises(PackageError, match=r"its forward cannot be compiled \("):
        make_forward(NodesForward(Undecided(tiny_target(layers=2).config).eval()))
    assert list((cache / "forwards").iterdir()) == []


def test_a_cache_folder_that_cannot_be_written_is_named(cache):
    cache.write_text("a file")
    with pytest.raises(PackageError, match="cannot be written .* set EAGLE_HF_CACHE"):
        make_forward(NodesForward(tiny_target(layers=2)))


def test_the_first_of_two_processes_keeps_its_package(tmp_path):
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / PACKAGE).write_text(name)
        keep(folder, tmp_path / "kept")
    assert (tmp_path / "kept" / PACKAGE).read_text() == "first"


@pytest.mark.slow
def test_a_kept_forward_equals_the_model_and_reads_its_weights_in_place(cache):
    model = tiny_target(layers=3, dtype=torch.float32)
    forward = NodesForward(model, LAYERS)
    assert open_forward(forward) is None
    make_forward(forward)
    kept = open_forward(forward)
    for sizes in SIZES:
        assert_equal_forwards(kept, forward, sizes, ROUNDING)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)  # no copy: the code sees it
    assert kept.reads(forward)
    assert_equal_forwards(kept, forward, SIZES[0], ROUNDING)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    assert not kept.reads(forward)
