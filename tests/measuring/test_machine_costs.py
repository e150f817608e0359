"""What this machine costs is measured once, kept for other processes, and said."""

import json

import pytest
import torch
from machines import CHEAP_TREES, answer, pretend_machine

from eagle_hf.measuring import costs as measured_costs
from eagle_hf.measuring import machine_costs
from eagle_hf.planning.cost import CostTable


def test_it_measures_once_a_target_and_says_so_once(
    target, opened_head, costs_folder, monkeypatch, notices
):
    batches = pretend_machine(monkeypatch, CHEAP_TREES)
    for _ in range(3):
        answer(target, opened_head)
    assert batches == [1]
    assert len(notices) == 1
    assert "1, 2, 4, 8, 16 tokens cost 40, 41, 42, 44, 48 ms" in notices[0]
    assert str(costs_folder) in notices[0]
    assert 'tree="saved"' in notices[0]


def test_batches_are_measured_by_powers_of_two(
    target, opened_head, costs_folder, monkeypatch, notices
):
    batches = pretend_machine(monkeypatch, CHEAP_TREES)
    for lengths in ((5, 6, 7), (5, 6, 7, 8), (5, 6)):
        answer(target, opened_head, lengths)
    assert batches == [4, 2]


def answer_as_another_process(target, head):
    machine_costs._known.clear()
    answer(target, head)


def test_another_process_reads_what_was_kept(
    target, opened_head, costs_folder, monkeypatch, notices
):
    batches = pretend_machine(monkeypatch, CHEAP_TREES)
    answer(target, opened_head)
    answer_as_another_process(target, opened_head)
    assert batches == [1]
    assert len(notices) == 1


@pytest.mark.parametrize(
    "change", ["device", "cpu_features", "threads", "torch", "transformers", "dtype", "weights"]
)
def test_what_was_measured_of_something_else_is_measured_again(
    target, opened_head, costs_folder, monkeypatch, notices, change
):
    batches = pretend_machine(monkeypatch, CHEAP_TREES)
    answer(target, opened_head)
    [file] = costs_folder.glob("*.json")
    table = json.loads(file.read_text())
    table["facts"][change] = "another"
    file.write_text(json.dumps(table))
    answer_as_another_process(target, opened_head)
    assert batches == [1, 1]


def test_a_damaged_file_is_measured_again(target, opened_head, costs_folder, monkeypatch, notices):
    batches = pretend_machine(monkeypatch, CHEAP_TREES)
    answer(target, opened_head)
    [file] = costs_folder.glob("*.json")
    file.write_text(file.read_text()[:50])
    answer_as_another_process(target, opened_head)
    assert batches == [1, 1]
    assert CostTable.load(file).tokens


def test_a_folder_that_cannot_be_written_is_said_and_the_call_goes_on(
    target, opened_head, costs_folder, monkeypatch, notices
):
    costs_folder.write_text("a file where the folder should be")
    batches = pretend_machine(monkeypatch, CHEAP_TREES)
    assert torch.equal(answer(target, opened_head), answer(target, None))
    answer(target, opened_head)
    assert batches == [1]
    assert "cannot be written" in notices[0]
    assert "EAGLE_HF_CACHE" in notices[0]


def test_measuring_for_real_takes_its_time_and_leaves_the_random_state(target, opened_head):
    before = torch.get_rng_state()
    table = measured_costs.measure_quickly(target, opened_head, 2, {"a": 1})
    assert torch.equal(before, torch.get_rng_state())
    assert table.batches == (2,)
    assert table.tokens == (1, 2, 4, 8, 16)
    assert table.facts == {"a": 1}


def test_a_slow_target_is_timed_with_one_and_eight_tokens_alone(target, opened_head, monkeypatch):
    monkeypatch.setattr(measured_costs, "QUICK_SECONDS", 0.0)
    assert measured_costs.measure_quickly(target, opened_head, 1, {}).tokens == (1, 8)
