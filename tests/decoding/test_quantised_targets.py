"""Quantised and offloaded targets draft and verify losslessly."""

import pytest
import quantised
import torch
from drafting import given_tree, plain_and_drafted
from tiny import left_padded, tiny_head

from eagle_hf import SelfSpeculation, TreeConfig, WindowedDraft
from eagle_hf.compilation.forwards import NodesForward
from eagle_hf.compilation.graphs import export_forward
from eagle_hf.compilation.keys import package_folder
from eagle_hf.compilation.operators import is_available
from eagle_hf.compilation.packages import EXPORTED, PACKAGE

MOST = 4.5  # of the 5 tokens that a round with four accepted drafts emits


def named(layouts):
    return pytest.mark.parametrize("layout", layouts, ids=lambda layout: layout.__name__)


def assistants(target):
    """One of every kind; the last drafts what the target would say."""
    return [
        tiny_head(target),
        WindowedDraft(target, sinks=2, window=8),
        SelfSpeculation(sinks=2, window=8),
        WindowedDraft(target, window=None),
    ]


@named(quantised.EXACT)
@pytest.mark.parametrize("lengths", [[9], [9, 4]], ids=["one row", "two rows"])
def test_greedy_output_is_that_of_the_quantised_target_alone(layout, lengths, tmp_path):
    target = layout(quantised.plain_target(), tmp_path)
    inputs = left_padded(target, lengths)
    settings = dict(max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0)
    tau = 0.0
    for assistant in assistants(target):
        plain, drafted = plain_and_drafted(target, assistant, inputs, **settings)
        assert torch.equal(plain, drafted), type(assistant).__name__
        tau = assistant.last_run.tau
    assert tau > MOST


@pytest.mark.skipif(not is_available(), reason="needs a C++ compiler")
@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        (quantised.torchao_int8, ""),
        (quantised.nf4, "its forward cannot be compiled"),
        (quantised.offloaded, "a hook is on its"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_layout_is_compiled_or_refused_with_the_reason(
    layout, reason, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("EAGLE_HF_CACHE", str(tmp_path / "cache"))
    target = layout(quantised.plain_target(), tmp_path)
    draft_model = WindowedDraft(target, window=None)
    inputs = left_padded(target, [9])
    settings = dict(max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0)
    with given_tree(draft_model, TreeConfig("chain", depth=4, compile=True)):
        plain, drafted = plain_and_drafted(target, draft_model, inputs, **settings)
    assert torch.equal(plain, drafted)
    assert draft_model.last_run.tau > MOST
    is_kept = (package_folder(NodesForward(target)) / PACKAGE).exists()
    assert is_kept == (not reason)
    assert reason in caplog.text


@pytest.mark.skipif(not is_available(), reason="needs a C++ compiler")
def test_weights_in_int8_are_multiplied_as_they_lie(tmp_path):
    target = quantised.torchao_int8(quantised.plain_target(), tmp_path)
    forward = NodesForward(target)
    program = export_forward(forward, forward.example(EXPORTED))
    weights = []
    for node in program.graph.nodes:
        if node.target is torch.ops.eagle_hf.linear.default:
            weights.append(node.args[1].meta["val"].dtype)
    assert weights == [torch.int8] * (7 * quantised.LAYERS + 1)


@named([quantised.nf4, quantised.disk])
def test_sampled_output_is_that_of_the_quantised_target_alone(layout, tmp_path):
    target = layout(quantised.plain_target(), tmp_path)
    inputs = left_padded(target, [9])
    settings = dict(max_new_tokens=16, do_sample=True, eos_token_id=None, pad_token_id=0)
    for assistant in assistants(target):
        plain, drafted = plain_and_drafted(target, assistant, inputs, 3, **settings)
        assert torch.equal(plain, drafted), type(assistant).__name__


@named([quantised.dynamic, quantised.nf4, quantised.compressed_int8, quantised.offloaded])
def test_a_quantised_model_drafts_for_a_plain_target(layout, tmp_path):
    target = quantised.plain_target()
    draft_model = layout(target, tmp_path)
    settings = dict(max_new_tokens=16, do_sample=False, eos_token_id=None)
    for assistant in (WindowedDraft(draft_model, 2, 8), WindowedDraft(draft_model, window=None)):
        plain, drafted = plain_and_drafted(target, assistant, left_padded(target, [9]), **settings)
        assert torch.equal(plain, drafted)


def test_a_target_that_mixes_tokens_is_named(tmp_path, caplog):
    target = quantised.int8_with_outliers(quantised.plain_target(), tmp_path)
    head = tiny_head(target)
    inputs = left_padded(target, [9])
    target.generate(**inputs, max_new_tokens=4, assistant_model=head, pad_token_id=0)
    said = [record.getMessage() for record in caplog.records]
    assert any("Linear8bitLt" in line and "llm_int8_threshold=0.0" in line for line in said)


@named(quantised.OFFLOADED)
def test_advice_names_a_device_that_computes(layout, tmp_path):
    target = layout(quantised.plain_target(), tmp_path)
    head = tiny_head(quantised.plain_target()).to("meta")
    inputs = left_padded(target, [9])
    with pytest.raises(ValueError, match=r'target is on cpu .* head\.to\("cpu"\)'):
        target.generate(**inputs, max_new_tokens=4, assistant_model=head)
