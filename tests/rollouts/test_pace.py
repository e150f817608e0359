"""When rollouts are drafted, by seconds that are given."""

import pytest

from eagle_hf.rollouts.pace import LEAST_PAUSE, LOSS_LIMIT, Pace


def calls(pace: Pace, count: int, drafted: float, plain: float) -> list[bool]:
    """Which of so many calls were drafted, where a token takes these seconds."""
    kinds = []
    for _ in range(count):
        kind = pace.drafts
        kinds.append(kind)
        pace.add(kind, 100 * (drafted if kind else plain), tokens=100)
    return kinds


def test_every_so_many_calls_one_is_plain():
    kinds = calls(Pace(measure_every=10), 31, drafted=1.0, plain=1.5)
    assert [call for call, kind in enumerate(kinds) if not kind] == [1, 11, 21]


def test_speed_is_plain_over_drafted_seconds():
    pace = Pace(measure_every=10)
    calls(pace, 12, drafted=1.0, plain=1.5)
    assert pace.speed == pytest.approx(1.5)


def test_the_first_call_is_not_timed():
    pace = Pace(measure_every=10)
    pace.add(True, 1000.0, tokens=1)
    calls(pace, 3, drafted=1.0, plain=1.5)
    assert pace.speed == pytest.approx(1.5)


@pytest.mark.parametrize("slowness", [1.01, 1.3, 3.0])
def test_a_losing_head_costs_at_most_two_percent(slowness):
    pace = Pace(measure_every=50)
    calls(pace, 6, drafted=slowness, plain=1.0)
    kinds = calls(pace, 2000, drafted=slowness, plain=1.0)
    seconds = sum(slowness if kind else 1.0 for kind in kinds)
    assert any(kinds), "drafting is never tried again"
    assert seconds / len(kinds) <= 1 + LOSS_LIMIT


def test_a_head_that_became_good_is_used_again():
    pace = Pace(measure_every=50)
    calls(pace, 6, drafted=2.0, plain=1.0)
    assert pace.is_paused
    kinds = calls(pace, 400, drafted=0.5, plain=1.0)
    assert sum(kinds[-100:]) > 90


def test_without_measurements_there_is_no_pause():
    assert all(calls(Pace(measure_every=0), 50, drafted=9.0, plain=1.0))


def test_calls_without_a_token_say_nothing():
    pace = Pace(measure_every=10)
    for _ in range(20):
        pace.add(pace.drafts, 1.0, tokens=0)
    assert pace.speed is None


def test_a_state_goes_on():
    pace = Pace(measure_every=50)
    calls(pace, 8, drafted=1.2, plain=1.0)
    assert pace.is_paused
    other = Pace(measure_every=50)
    other.load_state(pace.state())
    assert calls(other, 60, 1.2, 1.0) == calls(pace, 60, 1.2, 1.0)


def test_a_pause_has_a_least_length():
    pace = Pace(measure_every=50)
    kinds = calls(pace, 4, drafted=1.001, plain=1.0)
    assert kinds == [True, False, True, True]
    assert calls(pace, LEAST_PAUSE, 1.001, 1.0) == [False] * LEAST_PAUSE
