"""What tau says about weights that were just learnt."""

from eagle_hf.rollouts.watch import PATIENCE, TauWatch


def verdicts(watch: TauWatch, taus: list[float]) -> list[str]:
    """What is said to each tau in turn."""
    return [watch.add(tau) for tau in taus]


def test_weights_that_draft_better_are_kept():
    assert verdicts(TauWatch(), [2.0, 2.1, 2.2]) == ["keep"] * 3


def test_noise_is_no_divergence():
    assert "roll back" not in verdicts(TauWatch(), [2.0, 1.7, 2.2, 1.6] * 20)


def test_a_collapse_is_rolled_back_once():
    watch = TauWatch()
    verdicts(watch, [2.0] * 10)
    said = verdicts(watch, [1.1] * PATIENCE)
    assert said == ["go on"] * (PATIENCE - 1) + ["roll back"]
    assert verdicts(watch, [1.1] * 3) == ["keep"] * 3


def test_a_slow_fall_is_the_policy_that_moves():
    taus = [2.5 - 0.01 * step for step in range(100)]
    assert "roll back" not in verdicts(TauWatch(), taus)
