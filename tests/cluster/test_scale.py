"""A plan of servers, hours and bytes follows from what a sample took."""

from dataclasses import replace

import pytest

from eagle_hf.cluster import (
    WantedScale,
    feature_bytes_a_token,
    plan_scale,
    simulated_sample,
)
from eagle_hf.data.features.shards import Layout
from eagle_hf.pipeline import MeasuredSample
from eagle_hf.planning.roofline import MAGICDEC_H100, machine_named, model_named

# 100 prompts of 200 + 600 tokens in 36 s.
SAMPLE = MeasuredSample(
    prompts=100,
    prompt_tokens=20_000,
    response_tokens=60_000,
    answer_seconds=36.0,
    servers=1,
    conversation_bytes=1_000_000,
    read_tokens=40_000,
    read_seconds=9.0,
    feature_bytes_per_token=10.0,
)


def test_ten_thousand_times_the_prompts_take_ten_thousand_times_as_much():
    plan = plan_scale(SAMPLE, WantedScale(1_000_000, servers=1, efficiency=1.0))
    assert plan.prompt_tokens == 200_000_000
    assert plan.response_tokens == 600_000_000
    assert plan.answer_hours == pytest.approx(100.0)
    assert plan.read_hours == pytest.approx(50.0)
    assert plan.server_hours == pytest.approx(150.0)
    assert plan.conversation_bytes == 10_000_000_000
    assert plan.feature_bytes == 8_000_000_000


def test_servers_share_the_hours_and_not_the_bytes():
    one = plan_scale(SAMPLE, WantedScale(1_000_000, servers=1))
    eight = plan_scale(SAMPLE, WantedScale(1_000_000, servers=8))
    assert eight.answer_hours == pytest.approx(one.answer_hours / 8)
    assert eight.read_hours == pytest.approx(one.read_hours / 8)
    assert eight.server_hours == one.server_hours
    assert eight.feature_bytes == one.feature_bytes


def test_hours_say_how_many_servers_and_one_less_takes_longer():
    plan = plan_scale(SAMPLE, WantedScale(1_000_000, hours=10.0))
    assert plan.servers == 12  # 100 h at 0.9 are 111 h
    assert plan.answer_hours <= 10.0
    fewer = plan_scale(SAMPLE, WantedScale(1_000_000, servers=plan.servers - 1))
    assert fewer.answer_hours > 10.0


def test_a_sample_of_two_servers_is_one_of_each():
    two = plan_scale(replace(SAMPLE, servers=2), WantedScale(1000, servers=1))
    assert two.answer_hours == 2 * plan_scale(SAMPLE, WantedScale(1000, servers=1)).answer_hours


def test_idle_servers_take_longer():
    busy = plan_scale(SAMPLE, WantedScale(1000, servers=1, efficiency=1.0))
    idle = plan_scale(SAMPLE, WantedScale(1000, servers=1, efficiency=0.5))
    assert idle.answer_hours == pytest.approx(2 * busy.answer_hours)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_bytes_of_a_token_are_those_of_the_shards(dtype):
    counted = Layout(hidden_size=576, num_states=4, dtype=dtype).count_bytes(400).total
    assert counted == 400 * feature_bytes_a_token(576, dtype)


def test_an_unknown_storage_dtype_is_refused():
    with pytest.raises(ValueError, match="'fp8'; choose one of float32, bfloat16, int8"):
        feature_bytes_a_token(576, "fp8")


def test_the_terminal_sees_what_was_computed():
    shown = str(plan_scale(SAMPLE, WantedScale(1_000_000, servers=2)))
    for text in ("1,000,000 prompts", "55.6 h on 2 servers", "10.0 GB", "8.0 GB of features"):
        assert text in shown


@pytest.mark.parametrize(
    "settings, needed",
    [
        ({}, "give one of the two"),
        ({"servers": 1, "hours": 1.0}, "give one of the two"),
        ({"servers": 0}, "servers is 0"),
        ({"hours": 0.0}, "hours is 0.0"),
        ({"servers": 1, "efficiency": 1.5}, "efficiency is 1.5"),
    ],
)
def test_impossible_plans_are_refused(settings, needed):
    with pytest.raises(ValueError, match=needed):
        WantedScale(1000, **settings)


def test_a_sample_without_an_answer_is_refused():
    with pytest.raises(ValueError, match="response_tokens 0; answer at least one prompt"):
        plan_scale(replace(SAMPLE, response_tokens=0), WantedScale(1000, servers=1))
    with pytest.raises(ValueError, match="took 0.0 s"):
        plan_scale(replace(SAMPLE, answer_seconds=0.0), WantedScale(1000, servers=1))


def test_a_larger_batch_answers_more_tokens_a_second_until_memory_ends():
    speeds = []
    for batch in (64, 256):
        sample = simulated_seventy_billion(batch)
        speeds.append(sample.response_tokens / sample.answer_seconds)
    assert speeds[0] < speeds[1]
    with pytest.raises(ValueError, match="needs .* GB per GPU"):
        simulated_seventy_billion(4096)


def test_the_plan_of_the_documentation_is_simulated_and_has_its_figures():
    """docs/scale.md prints these."""
    plan = plan_scale(
        simulated_seventy_billion(256),
        WantedScale(5_000_000, servers=10),
        basis="a simulated server",
    )
    assert "from a simulated server" in str(plan)
    assert plan.answer_hours == pytest.approx(15.1, abs=0.05)
    assert plan.read_hours == pytest.approx(11.2, abs=0.05)
    assert plan.feature_bytes == pytest.approx(262.2e12, rel=1e-3)


def simulated_seventy_billion(batch):
    """A 70B on eight H100."""
    return simulated_sample(
        model_named("Llama-3.1-70B"),
        machine_named("H100"),
        MAGICDEC_H100,
        gpus=8,
        batch=batch,
        prompt_tokens=200,
        response_tokens=600,
    )
