"""Adapters of a head: chosen by call and by row, never a trace of one in another's drafts."""

import copy
import pickle
import threading
from dataclasses import asdict

import pytest
import torch
from drafting import drafter_of, plain_and_drafted
from head_adapters import load_adapters
from tiny import left_padded, tiny_head

from eagle_hf import TreeConfig
from eagle_hf.decoding.assistants import as_assistant
from eagle_hf.measuring import automatic
from eagle_hf.training import merge_adapter

ROWS = ["code", None, "chat"]
LENGTHS = [5, 7, 3]
ENDS = dict(max_new_tokens=40, eos_token_id=[2, 7], pad_token_id=0)


@pytest.fixture
def head(target, tmp_path):
    """A tiny head with two adapters, of different layers and ranks."""
    return load_adapters(tiny_head(target), tmp_path)


def run(target, assistant, lengths=(5,), **settings):
    """What a call returns, and its statistics without their seconds."""
    settings = dict(max_new_tokens=30, eos_token_id=None) | settings
    inputs = left_padded(target, lengths)
    output = target.generate(**inputs, assistant_model=assistant, **settings)
    facts = asdict(assistant.last_run)
    del facts["seconds"]
    return output, facts


@pytest.mark.parametrize("name", ["code", "chat"])
def test_drafts_by_name_are_those_of_the_merged_head(target, head, tmp_path, name):
    merged = merge_adapter(tiny_head(target), tmp_path / name)
    _, ours = run(target, head.with_adapter(name))
    _, theirs = run(target, merged)
    assert ours == theirs
    _, bare = run(target, head)
    assert bare != ours


def test_the_draft_probabilities_are_those_of_the_merged_head(target, head, tmp_path):
    torch.manual_seed(0)
    aux = torch.randn(2, 5, 96, dtype=torch.float64)
    merged = merge_adapter(tiny_head(target), tmp_path / "code")
    found = []
    for assistant in (head.with_adapter("code"), merged, head):
        drafter = drafter_of(assistant, target)
        visible = torch.ones(2, 5, dtype=torch.bool)
        drafter.start(torch.full((2, 5), 3), visible, aux, torch.tensor([4, 5]), None)
        found.append(drafter.log_probs(drafter.extend()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)
    assert (found[0] - found[2]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["code", ROWS, [None, "chat", "chat"], ["chat"] * 3, [None] * 3])
@pytest.mark.parametrize("do_sample", [False, True])
def test_the_output_is_the_targets_own(target, head, name, do_sample):
    inputs = left_padded(target, LENGTHS)
    # sampled batches agree in distribution alone
    settings = dict(ENDS, do_sample=do_sample)
    if do_sample:
        name = name if isinstance(name, str) else name[:1]
        inputs = left_padded(target, LENGTHS[:1])
    plain, fast = plain_and_drafted(target, head.with_adapter(name), inputs, **settings)
    assert torch.equal(plain, fast)


def test_every_row_drafts_as_it_does_by_itself_while_others_end(target, head):
    inputs = left_padded(target, LENGTHS)
    adapted = head.with_adapter(ROWS)
    output = target.generate(**inputs, assistant_model=adapted, **ENDS)
    ends = [row.tolist().count(0) for row in output]
    assert len(set(ends)) > 1  # rows have left the batch
    rounds = []
    for row, name in enumerate(ROWS):
        length = LENGTHS[row]
        one = {key: value[row : row + 1, -length:] for key, value in inputs.items()}
        alone = head.with_adapter(name)
        target.generate(**one, assistant_model=alone, **ENDS)
        rounds += alone.last_run.row_rounds
    assert adapted.last_run.row_rounds == rounds


def test_names_follow_the_rows_that_stay(target, head):
    drafter = drafter_of(head.with_adapter(ROWS), target)
    names = drafter.names
    drafter.keep_rows(torch.tensor([2, 1]))
    assert drafter.names == [names[2], names[1]]
    drafter.keep_rows(torch.tensor([0]))
    assert drafter.names == [names[2]]


def test_rows_differ_by_their_adapters(target, head):
    """One text in all rows: each row's drafts are those of its own adapter."""
    text = left_padded(target, [6])
    inputs = {key: value.expand(3, -1) for key, value in text.items()}
    settings = dict(max_new_tokens=30, eos_token_id=None)
    adapted = head.with_adapter(ROWS)
    target.generate(**inputs, assistant_model=adapted, **settings)
    rounds = []
    for name in ROWS:
        alone = head.with_adapter(name)
        target.generate(**text, assistant_model=alone, **settings)
        rounds += alone.last_run.row_rounds
    assert adapted.last_run.row_rounds == rounds
    assert len(set(rounds)) > 1


def test_a_head_without_a_name_drafts_without_adapters(target, head):
    _, expected = run(target, tiny_head(target))
    for assistant in (head, head.with_adapter(None), head.with_adapter([None])):
        run(target, head.with_adapter("code"))
        _, found = run(target, assistant)
        assert found == expected


def test_a_call_that_fails_leaves_nothing_behind(target, head):
    class Interrupted(Exception):
        """Raised by a streamer in the middle of a call."""

    class Failing:
        count = 0

        def put(self, value):
            self.count += 1
            if self.count == 4:
                raise Interrupted

        def end(self):
            """Never reached."""

    _, expected = run(target, head)
    _, of_chat = run(target, head.with_adapter("chat"))
    with pytest.raises(Interrupted):
        run(target, head.with_adapter("code"), streamer=Failing())
    assert run(target, head)[1] == expected
    assert run(target, head.with_adapter("chat"))[1] == of_chat
    assert not any(module._forward_pre_hooks for module in head.modules())


def test_calls_at_the_same_time_draft_with_their_own_adapters(target, head):
    assistants = ["code", "chat", None, ["code", "chat"], ["chat", None], [None, "code"]]
    expected = [run(target, head.with_adapter(name), (5, 4))[1] for name in assistants]
    found = [None] * len(assistants)
    start = threading.Barrier(len(assistants))

    def work(index):
        start.wait()
        found[index] = run(target, head.with_adapter(assistants[index]), (5, 4))[1]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(assistants))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_laying_an_adapter_draws_no_number_of_the_callers(target, head):
    inputs = left_padded(target, [5])
    outputs = []
    for assistant in (None, head.with_adapter("code"), head.with_adapter("code")):
        torch.manual_seed(5)
        outputs.append(target.generate(**inputs, assistant_model=assistant, do_sample=True, **ENDS))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_the_statistics_are_on_the_object_and_on_its_head(target, head):
    adapted = head.with_adapter("code")
    run(target, adapted)
    assert head.last_run is adapted.last_run
    stats = adapted.last_run
    run(target, head)
    assert adapted.last_run is stats
    assert head.last_run is not stats


def test_a_tree_of_its_own_is_drafted(target, head):
    adapted = head.with_adapter("code")
    adapted.tree = TreeConfig("chain", depth=1)
    _, stats = run(target, adapted)
    assert stats["deepest"] == 1
    assert head.tree.depth == 4


@pytest.mark.parametrize("names", ["code", ROWS])
def test_the_machine_chooses_a_tree_for_adapters_too(target, head, names, monkeypatch):
    head.tree_by_machine = True
    asked = []

    def costs(target, head, rows, own=automatic.machine_costs):
        asked.append(head)
        return own(target, head, rows)

    monkeypatch.setattr(automatic, "machine_costs", costs)
    lengths = LENGTHS if isinstance(names, list) else LENGTHS[:1]
    adapted = head.with_adapter(names)
    inputs = left_padded(target, lengths)
    plain, fast = plain_and_drafted(target, adapted, inputs, **ENDS)
    assert torch.equal(plain, fast)
    assert adapted.last_run is not None
    assert "adapter_0" in str(asked[0])  # the cost of drafting with an adapter is measured


def test_the_fingerprint_tells_adapters_apart(target, head):
    found = set()
    for names in (None, "code", "chat", ["code", "chat"], ["code", None]):
        facts = as_assistant(head.with_adapter(names)).fingerprint(target)
        found.add(facts["drafter_fingerprint"])
    assert len(found) == 5
    alone = as_assistant(tiny_head(target)).fingerprint(target)
    assert as_assistant(head).fingerprint(target) == alone


def test_a_changed_head_drafts_with_its_new_weights(target, head, tmp_path):
    run(target, head.with_adapter("code"))
    with torch.no_grad():
        head.midlayer.mlp.up_proj.weight.neg_()  # in place, as training does
    other = tiny_head(target)
    with torch.no_grad():
        other.midlayer.mlp.up_proj.weight.neg_()
    merged = merge_adapter(other, tmp_path / "code")
    assert run(target, head.with_adapter("code"))[1] == run(target, merged)[1]


def test_a_converted_head_takes_its_adapters_along(target, head):
    _, before = run(target, head.with_adapter("code"))
    head.float()
    assert as_assistant(head.with_adapter("code")).head.dtype == torch.float32
    head.double()
    with torch.no_grad():
        head.load_state_dict(tiny_head(target).state_dict())
    assert run(target, head.with_adapter("code"))[1] == before


@pytest.mark.parametrize("names", ["code", ROWS])
def test_a_half_precision_head_drafts_with_adapters(target, head, names):
    exact = as_assistant(head.with_adapter("code")).head
    head.bfloat16()
    laid = as_assistant(head.with_adapter("code")).head
    states = torch.randn(1, 3, 96)
    theirs = exact.fuse(states.double()).float()
    ours = laid.fuse(states.bfloat16())
    assert ours.dtype == torch.bfloat16
    assert (ours.float() - theirs).norm() < 0.02 * theirs.norm()
    lengths = LENGTHS if isinstance(names, list) else LENGTHS[:1]
    inputs = left_padded(target, lengths)
    plain, fast = plain_and_drafted(target, head.with_adapter(names), inputs, **ENDS)
    assert torch.equal(plain, fast)


@pytest.mark.parametrize("make", [copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head))])
def test_a_copied_head_has_the_adapters(target, head, make):
    _, expected = run(target, head.with_adapter("code"))
    copied = make(head)
    assert copied.adapters.names == ("code", "chat")
    assert run(target, copied.with_adapter("code"))[1] == expected


def test_a_wrong_number_of_names_is_refused_before_the_target_reads(target, head, monkeypatch):
    monkeypatch.setattr(target.model, "forward", None)
    problem = "2 adapters were given for 3 rows; give one name a row"
    with pytest.raises(ValueError, match=problem):
        run(target, head.with_adapter(["code", None]), LENGTHS)


def test_a_name_that_is_gone_is_refused(target, head):
    adapted = head.with_adapter("code")
    head.delete_adapter("code")
    with pytest.raises(ValueError, match="no adapter 'code' on this head \\(loaded: 'chat'\\)"):
        run(target, adapted)


def test_adapters_by_row_are_not_captured(target, head, fixed_sizes):
    head.tree = TreeConfig(depth=2, top_k=3, nodes=4, compile=True)
    with pytest.raises(ValueError, match="adapters were given by row .* or compile=False"):
        run(target, head.with_adapter(ROWS), LENGTHS)


@pytest.mark.parametrize("name", ["code", ["chat", "chat"]])
def test_one_adapter_drafts_on_tensors_of_fixed_sizes(target, head, fixed_sizes, name):
    head.tree = TreeConfig(depth=2, top_k=3, nodes=4, compile=True)
    inputs = left_padded(target, [5, 4])
    plain, fast = plain_and_drafted(target, head.with_adapter(name), inputs, **ENDS)
    assert torch.equal(plain, fast)


def test_the_pass_with_an_adapter_is_one_graph(target, head):
    """What a GPU captures: torch.compile with fullgraph=True must follow PEFT's layers."""
    laid = as_assistant(head.with_adapter("code")).head

    def step(states):
        return laid.step(states, laid.fuse(states.repeat(1, 1, 3)), positions, attend)

    def attend(query, key, value):
        return query + value.repeat_interleave(2, dim=1)

    positions = torch.arange(4)[None]
    states = torch.randn(2, 4, 32, dtype=torch.float64)
    with torch.no_grad():
        found = torch.compile(step, fullgraph=True, dynamic=False, backend="eager")(states)
        torch.testing.assert_close(found, step(states))


def test_a_compiled_target_drafts_with_adapters_as_before(target, head, calls, monkeypatch):
    messages = []
    monkeypatch.setattr("eagle_hf.decoding.assistants.adapted.logger.warning_once", messages.append)
    head.tree = TreeConfig(depth=2, top_k=3, nodes=4, compile=True)
    inputs = left_padded(target, LENGTHS)
    plain, fast = plain_and_drafted(target, head.with_adapter(ROWS), inputs, **ENDS)
    assert torch.equal(plain, fast)
    assert calls["head"] == 0
    assert any(name.startswith("nodes") for name in calls)  # the target's forward is compiled
    assert "merge it: eagle-hf merge" in messages[0]
    run(target, head.with_adapter(None))
    assert calls["head"] > 0
