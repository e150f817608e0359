"""A line that is known is found again, and what lies beyond the points is an extrapolation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eagle_hf import DecodingStats
from eagle_hf.evaluation import fit_scaling, read_acceptance, write_acceptance

RECIPE = Path(__file__).parents[2] / "recipes" / "scaling.py"
PROMPTS = [{"id": str(number), "category": "chat"} for number in range(12)]


def runs(tau):
    """Twelve prompts of 100 rounds each, whose tau taken together is `tau`."""
    stats = []
    for number in range(12):
        tokens = round(100 * tau) + (5 if number % 2 == 0 else -5)
        stats.append(DecodingStats(rounds=100, tokens=tokens))
    return stats


def test_the_line_is_tau_over_doublings():
    scaling = fit_scaling([400, 100, 200], [runs(1.7), runs(1.5), runs(1.6)], times=8)
    assert [point[0] for point in scaling.points] == [100, 200, 400]
    assert scaling.tau_per_doubling == pytest.approx(0.1)
    assert scaling.extrapolated_tau == pytest.approx(2.0)
    low, high = scaling.extrapolated_interval
    assert low < 2.0 < high
    words = "Extrapolation, not a measurement: 8 times as many would give 2.00"
    assert words in scaling.summary


@pytest.mark.parametrize("tokens", [[100, 200], [100, 200, 200]])
def test_too_few_points_are_refused(tokens):
    with pytest.raises(ValueError, match="three different ones"):
        fit_scaling(tokens, [runs(1.5)] * len(tokens))


def test_acceptance_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "tau.json"
    write_acceptance(path, "dynamic:3:5:8", PROMPTS, runs(1.7))
    assert read_acceptance(path) == runs(1.7)


def test_acceptance_of_another_tree_is_not_compared(tmp_path):
    for tree in ("dynamic:3:5:8", "chain:4:1:4"):
        write_acceptance(tmp_path / f"{tree}.json", tree, PROMPTS, runs(1.7))
    with pytest.raises(ValueError, match="measured on different prompts or trees"):
        read_acceptance(tmp_path / "chain:4:1:4.json", like=tmp_path / "dynamic:3:5:8.json")


def test_the_recipe_reads_what_the_ablations_left(tmp_path):
    for tokens, tau in ((100, 1.5), (200, 1.6), (400, 1.7)):
        folder = tmp_path / "runs" / f"data-{tokens}"
        folder.mkdir(parents=True)
        write_acceptance(folder / "tau.json", "dynamic:3:5:8", PROMPTS, runs(tau))
        (folder / "metrics.json").write_text(json.dumps({"response_tokens": tokens}))
    command = [sys.executable, RECIPE, "--runs", "runs", "--output_dir", "curve"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads(done.stdout.splitlines()[-1])
    assert metrics["extrapolated_tau"] == pytest.approx(1.7 + 0.1 * 3.3219, abs=1e-3)
    assert (tmp_path / "curve" / "scaling.png").stat().st_size
    assert metrics["points"][0][:2] == [100, 1.5]
