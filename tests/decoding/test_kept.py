"""compile=True on a CPU: rounds by forwards that are compiled once for every size.

Most tests put the module itself in the place of what is compiled of it.
"""

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from drafting import given_tree, plain_and_drafted
from fixed_trees import SHAPES, assistant_of
from peft import LoraConfig, get_peft_model
from tiny import left_padded, tiny_head, tiny_target

from eagle_hf import TreeConfig, compile_target
from eagle_hf.compilation.operators import is_available
from eagle_hf.compilation.packages import PackageError
from eagle_hf.decoding import compiling, forward
from eagle_hf.decoding.assistants import eagle, small_model
from eagle_hf.measuring import measure_costs
from eagle_hf.measuring.machine_costs import TYPICAL
from eagle_hf.planning.calibration import Calibration
from eagle_hf.planning.plan import Plan

pytestmark = pytest.mark.skipif(not is_available(), reason="needs a C++ compiler")

NAMES = ("head", "model", "window", "itself")
SETTINGS = dict(max_new_tokens=40, do_sample=False, eos_token_id=5, pad_token_id=0)


def compiled_tree(name):
    return replace(SHAPES[name], compile=True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_tokens_and_acceptance_as_eagerly(
    target, trained_head, small_model, name, shape, calls
):
    assistant = assistant_of(name, trained_head, small_model)
    inputs = left_padded(target, [9, 1, 40])
    plain = target.generate(**inputs, **SETTINGS)
    taus = []
    for tree in (SHAPES[shape], compiled_tree(shape)):
        assert not calls
        with given_tree(assistant, tree):
            fast = target.generate(**inputs, **SETTINGS, assistant_model=assistant)
        assert torch.equal(plain, fast)
        taus.append(assistant.last_run.tau)
    assert taus[0] == taus[1]
    assert calls["logits"] > 5
    assert sum(calls[key] for key in calls if key.startswith("nodes")) > 5


def test_sampled_tokens_are_those_of_the_target_alone(target, trained_head, calls):
    settings = dict(max_new_tokens=60, do_sample=True, top_k=0, eos_token_id=None)
    with given_tree(trained_head, compiled_tree("dynamic")) as head:
        plain, fast = plain_and_drafted(target, head, left_padded(target, [8]), 3, **settings)
    assert torch.equal(plain, fast)
    assert calls["head"] > 0


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_masks_that_are_added_to_scores(attention, calls):
    target = tiny_target(attn_implementation=attention)
    head = tiny_head(target)
    with given_tree(head, compiled_tree("dynamic")):
        plain, fast = plain_and_drafted(target, head, left_padded(target, [9, 3]), 0, **SETTINGS)
    assert torch.equal(plain, fast)
    assert calls["head"] > 0


@pytest.mark.parametrize("policy", ["adaptive", "sequoia"])
def test_every_shape_is_compiled_so_a_plan_may_choose(target, trained_head, policy, calls):
    inputs = left_padded(target, [9])
    plain = target.generate(**inputs, **SETTINGS)
    tree = TreeConfig(policy, depth=4, top_k=4, nodes=12, compile=True)
    with given_tree(trained_head, tree), planned(target, trained_head):
        fast = target.generate(**inputs, **SETTINGS, assistant_model=trained_head)
    assert torch.equal(plain, fast)


def test_on_fixed_sizes_a_plan_may_not_choose(target, trained_head, fixed_sizes):
    inputs = left_padded(target, [9])
    with (
        given_tree(trained_head, TreeConfig("adaptive", compile=True)),
        planned(target, trained_head),
        pytest.raises(ValueError, match=r"compile=True on cpu needs a tree of one shape"),
    ):
        target.generate(**inputs, **SETTINGS, assistant_model=trained_head)


@contextmanager
def planned(target, head):
    """The head with a plan of typical acceptance inside the block."""
    costs = measure_costs(target, head, [1], [32], tokens=(1, 4, 13), widths=(1, 4))
    calibration = Calibration(TYPICAL.slopes, TYPICAL.offsets)
    head.plan = Plan(costs, TYPICAL.shares, calibration)
    try:
        yield
    finally:
        head.plan = None


def test_forwards_are_opened_once(target, trained_head, calls):
    opened = []
    with given_tree(trained_head, compiled_tree("dynamic")):
        for length in (3, 9, 30):
            inputs = left_padded(target, [length, 2])
            target.generate(**inputs, **SETTINGS, assistant_model=trained_head)
            kept = dict(compiling._kept[target]) | dict(compiling._kept[trained_head])
            opened.append({name: id(found) for name, found in kept.items()})
    assert opened[0] == opened[1] == opened[2]
    assert len(opened[0]) == 4


def test_what_cannot_be_compiled_decodes_as_before_and_is_told_once(
    target, trained_head, monkeypatch, caplog
):
    def refuse(module):
        raise PackageError("the compiler is broken")

    monkeypatch.setattr(compiling, "_kept", type(compiling._kept)())
    monkeypatch.setattr(compiling, "open_forward", refuse)
    inputs = left_padded(target, [9])
    plain = target.generate(**inputs, **SETTINGS)
    with given_tree(trained_head, compiled_tree("dynamic")), caplog.at_level("WARNING"):
        for _ in range(2):
            fast = target.generate(**inputs, **SETTINGS, assistant_model=trained_head)
            assert torch.equal(plain, fast)
    told = [record for record in caplog.messages if "the compiler is broken" in record]
    assert sorted(told) == sorted(set(told))
    assert any(text.startswith("LlamaForCausalLM (nodes") for text in told)


def test_an_adapter_is_not_compiled(calls, caplog):
    adapted = get_peft_model(tiny_target(), LoraConfig(init_lora_weights=False))
    head = tiny_head(adapted)
    with given_tree(head, compiled_tree("dynamic")), caplog.at_level("WARNING"):
        plain, fast = plain_and_drafted(adapted, head, left_padded(adapted, [9]), 0, **SETTINGS)
    assert torch.equal(plain, fast)
    assert "carries the adapter default" in caplog.text
    assert not any(name.startswith("nodes") for name in calls)


def test_a_hook_that_comes_later_is_called(calls):
    target = tiny_target()
    head = tiny_head(target)
    with given_tree(head, compiled_tree("dynamic")):
        inputs = left_padded(target, [9])
        target.generate(**inputs, **SETTINGS, assistant_model=head)
        before = calls["head"], sum(calls.values())
        seen = []
        handle = target.model.layers[1].register_forward_hook(lambda *_: seen.append(1))
        target.generate(**inputs, **SETTINGS, assistant_model=head)
        handle.remove()
        assert len(seen) > 2
        assert calls["head"] > before[0]  # the head has no hook
        counted = sum(calls.values())
        target.generate(**inputs, **SETTINGS, assistant_model=head)
        assert sum(calls.values()) - counted == before[1]


def test_under_autocast_nothing_is_compiled(target, trained_head, calls, caplog):
    inputs = left_padded(target, [9])
    with (
        given_tree(trained_head, compiled_tree("dynamic")),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        target.generate(**inputs, **SETTINGS, assistant_model=trained_head)
    assert not calls


class TestCompileTarget:
    """`compile_target` gives plain decoding the same forward."""

    CALLS = {
        "greedy": dict(do_sample=False),
        "sampled": dict(do_sample=True, top_k=0),
        "scores": dict(
            do_sample=True,
            repetition_penalty=1.3,
            return_dict_in_generate=True,
            output_scores=True,
        ),
    }

    @pytest.mark.parametrize("name", CALLS)
    def test_the_same_tokens(self, name, calls):
        target = tiny_target()
        inputs = left_padded(target, [9, 1, 40])
        settings = dict(max_new_tokens=30, eos_token_id=5, pad_token_id=0) | self.CALLS[name]
        outputs = []
        for _ in range(2):
            torch.manual_seed(2)
            outputs.append(target.generate(**inputs, **settings))
            compile_target(target)
        plain, compiled = outputs
        if name == "scores":
            for score, other in zip(plain.scores, compiled.scores, strict=True):
                torch.testing.assert_close(score, other)
            plain, compiled = plain.sequences, compiled.sequences
        assert torch.equal(plain, compiled)
        assert calls["nodes []"] > 5

    def test_what_the_loop_does_not_support_decodes_as_before(self, calls, caplog):
        target = tiny_target()
        inputs = left_padded(target, [9, 1])
        settings = dict(max_new_tokens=9, num_beams=2, do_sample=False, pad_token_id=0)
        plain = target.generate(**inputs, **settings)
        assert torch.equal(plain, compile_target(target).generate(**inputs, **settings))
        assert not calls

    def test_drafted_rounds_are_compiled_as_well(self, calls):
        target = tiny_target()
        head = tiny_head(target)
        plain = target.generate(**left_padded(target, [9]), **SETTINGS)
        compile_target(target)
        fast = target.generate(**left_padded(target, [9]), **SETTINGS, assistant_model=head)
        assert torch.equal(plain, fast)
        assert calls["head"] > 0

    def test_costs_say_whether_they_are_of_compiled_forwards(self, calls):
        target = tiny_target()
        head = tiny_head(target)
        eager = measure_costs(target, head, [1], [16], tokens=(1, 4), widths=(1,))
        compile_target(target)
        before = calls["nodes []"]
        compiled = measure_costs(target, head, [1], [16], tokens=(1, 4), widths=(1,))
        assert calls["nodes []"] > before
        with pytest.raises(ValueError, match=r"measured with compiled False, this is True"):
            eager.check(compiled.facts)

    def test_a_target_that_cannot_be_compiled_is_refused(self, monkeypatch):
        def refuse(module):
            raise PackageError("the compiler is broken")

        monkeypatch.setattr(compiling, "open_forward", refuse)
        with pytest.raises(ValueError, match="LlamaForCausalLM is not compiled"):
            compile_target(tiny_target())


@pytest.mark.slow
def test_compiled_for_real_in_float64(tmp_path, monkeypatch):
    """1,000 calls of mixed lengths and batches, and nothing is compiled anew."""
    monkeypatch.setenv("EAGLE_HF_CACHE", str(tmp_path))
    made = Counter()
    original = compiling.make_forward

    def counted(module):
        made[module.name] += 1
        return original(module)

    monkeypatch.setattr(compiling, "make_forward", counted)
    target = tiny_target(layers=4)
    head = tiny_head(target)
    head.tree = compiled_tree("dynamic")
    torch.manual_seed(0)
    for number in range(1000):
        lengths = torch.randint(1, 60, (1 + number % 8,)).tolist()
        inputs = left_padded(target, lengths, seed=number)
        settings = dict(SETTINGS, max_new_tokens=6)
        fast = target.generate(**inputs, **settings, assistant_model=head)
        if number % 20 == 0:
            assert torch.equal(target.generate(**inputs, **settings), fast)
    layers = list(head.config.aux_layer_ids)
    assert made == {f"nodes {layers}": 1, "head": 1, "fuse": 1, "logits": 1}


def test_the_door_asks_only_where_compile_is_wanted(target, monkeypatch):
    def fail(module):
        pytest.fail("a forward was asked for")

    monkeypatch.setattr(forward, "kept_forward", fail)
    for module in (eagle, small_model):
        monkeypatch.setattr(module, "kept_forward", fail)
    head = tiny_head(target)
    target.generate(**left_padded(target, [9]), **SETTINGS, assistant_model=head)
