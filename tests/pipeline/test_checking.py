"""What a later step would refuse is refused before the first one computes anything."""

import pytest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"privacy__actions": {"e-mail": "drop"}}, "'e-mail'"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "reads no enable_thinking"),
        ({"features__head": "no/such/head"}, "no/such/head"),
        ({"answers__servers": ["gpu-1:8000"]}, "is no address; write http://gpu-1:8000"),
        ({"answers__servers": ["http://a"], "answers__attempts": 0}, "attempts is 0"),
        ({"answers__servers": ["http://a"], "answers__api_key_variable": "NO_KEY"}, "NO_KEY"),
    ],
)
def test_a_run_that_cannot_end_does_not_begin(workplace, changes, message):
    with pytest.raises((ValueError, OSError), match=message):
        workplace.run(**changes)
    assert not (workplace.output / "prompts").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"answers__max_new_tokens": 0},
        {"answers__temperature": -0.5},
        {"answers__batch_size": 0},
        {"prompts__magpie": -1},
        {"prompts__per_source": 0},
        {"examples__max_length": 0},
        {"features__batch_tokens": 0},
        {"max_prompts": 0},
    ],
)
def test_numbers_that_are_too_small_are_refused_by_name(workplace, changes):
    name = next(iter(changes)).replace("__", ".")
    with pytest.raises(ValueError, match=f"{name} is .*; it must be at least"):
        workplace.config(**changes)
