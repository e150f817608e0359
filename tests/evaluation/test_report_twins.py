"""The charts that the articles end in: their numbers, from files of each command."""

import pytest
import report_data

from eagle_hf import cli
from eagle_hf.evaluation.charts import read_sources
from eagle_hf.evaluation.charts.building import build_charts


@pytest.fixture
def built(tmp_path):
    """Builds the charts of one file, by their names."""

    def build(content, name="metrics.json"):
        file = report_data.write(tmp_path, name, content)
        charts, absent = build_charts(read_sources([file]))
        return {chart.name: chart for chart in charts}, {one.title: one for one in absent}

    return build


def test_generation_time_is_that_of_whole_answers_in_seconds(built):
    charts, _ = built(report_data.serving(), "serving.json")
    plain, _ = charts["generation-time"].form.series
    assert [point.x for point in plain.points] == [1, 2, 4, 8]
    assert plain.points[0].y == pytest.approx(64 * 24 / 1000)
    assert plain.points[0].interval == pytest.approx((60 * 24 / 1000, 70 * 24 / 1000))
    assert "generation-time-rate" in charts


def test_measured_speed_is_a_line_a_tree_and_length(built):
    charts, _ = built(report_data.speeds(), "speeds.json")
    chart = charts["speed-by-batch"]
    assert [series.name for series in chart.form.series] == [
        "sequoia, 256 tokens",
        "adaptive, 256 tokens",
        "sequoia, 2,048 tokens",
        "adaptive, 2,048 tokens",
    ]
    first = chart.form.series[0].points
    assert [point.x for point in first] == [1, 4]
    assert first[0].y == pytest.approx(1.4 * 0.95)
    assert first[0].interval is not None
    assert not chart.is_simulated


def test_methods_at_several_batch_sizes_are_lines_and_those_at_one_are_not(built):
    charts, absent = built(report_data.long_methods())
    series = charts["speed-by-batch"].form.series
    assert [one.name for one in series] == [
        f"head@adaptive:6:8:32, {length} tokens" for length in ("2,048", "4,096", "8,192")
    ]
    assert [(point.x, point.y) for point in series[0].points] == [
        (1, pytest.approx(1.1524)),
        (4, pytest.approx(1.0024)),
    ]
    _, absent = built(report_data.methods())
    assert "--batch-sizes" in absent["Speed by batch and length"].needs


def test_drafts_a_round_are_counted_by_the_length_of_the_prompts(built):
    chart = built(report_data.long_methods())[0]["drafts-by-length"]
    assert not chart.is_simulated
    assert len(chart.form.series) == 2  # a line for each batch size
    for series in chart.form.series:
        assert [(point.x, point.y) for point in series.points] == [(2048, 4), (4096, 8), (8192, 16)]


def test_a_simulated_chain_is_a_line_a_batch_and_ends_where_the_memory_does(built):
    charts, _ = built(report_data.roofline(), "roofline.json")
    chart = charts["drafts-roofline-1"]
    assert chart.is_simulated
    by_batch = {series.name: series.points for series in chart.form.series}
    assert [(point.x, point.y) for point in by_batch["batch 32"]] == [(1000, 0), (32000, 8)]
    assert [point.x for point in by_batch["batch 128"]] == [1000]


def test_a_forward_is_shares_by_what_limits_it(built):
    charts, _ = built(report_data.roofline(), "roofline.json")
    chart = charts["limits-1"]
    shares = {series.name: {} for series in chart.form.parts}
    for series in chart.form.parts:
        for point in series.points:
            shares[series.name][chart.form.names[int(point.y)]] = point.x
    # 5 ms for the weights, 0.03 for the cache, 4 for layers
    assert shares["weights, limited by memory"]["1,000 tokens, batch 1"] == pytest.approx(
        100 * 5 / 9.03
    )
    # 128 rows are more than the 74 at which arithmetic takes over
    whole = 5 * 128 / 74 + 3.84 + 4
    many = shares["weights, limited by arithmetic"]["1,000 tokens, batch 128"]
    assert many == pytest.approx(100 * 5 * 128 / 74 / whole)
    for row in chart.form.names:
        assert sum(part.get(row, 0.0) for part in shares.values()) == pytest.approx(100)
    assert "up to 74 tokens a forward" in chart.caption


def test_operations_on_weights_grow_with_the_batch_and_those_on_the_cache_do_not(built):
    chart = built(report_data.roofline(), "roofline.json")[0]["operations-1"]
    lines = {series.name: [point.y for point in series.points] for series in chart.form.series}
    assert lines["weights"] == pytest.approx([1, 8, 32, 128])
    assert lines["KV cache"] == pytest.approx([74 / 15] * 4)
    assert chart.form.reference == (74.0, "balance of H100")


def test_a_roofline_of_an_earlier_version_has_its_speeds_alone(built):
    content = report_data.roofline()
    for cell in content["cells"]:
        del cell["forward"], cell["best_chain"]
    del content["operations_per_byte"]
    charts, absent = built(content, "roofline.json")
    assert list(charts) == ["roofline-1"]
    assert absent["Memory or arithmetic"].needs == "roofline.json of `eagle-hf roofline`"


def test_the_command_simulates_what_the_charts_need(tmp_path):
    """Of Llama-2-7B every cached byte is worth one operation: as many KV heads as heads."""
    command = "roofline --model Llama-2-7B-32K --machine A100 --gpus 8 --batches 1 64 --lengths"
    assert cli.main([*command.split(), "1000", "16000", "--output-dir", str(tmp_path)]) == 0
    charts, _ = build_charts(read_sources([tmp_path]))
    by_name = {chart.name: chart for chart in charts}
    lines = {series.name: series.points for series in by_name["operations-1"].form.series}
    assert [point.y for point in lines["KV cache"]] == pytest.approx([1, 1])
    assert [point.y for point in lines["weights"]] == pytest.approx([1, 64])
    chains = {series.name: series.points for series in by_name["drafts-roofline-1"].form.series}
    short, long = chains["batch 64"]
    assert short.y < long.y


def test_drafters_are_ranked_by_acceptance_and_by_speed(built):
    charts, _ = built(report_data.pairs())
    assert charts["pairs-accepted"].form.names == ("model small", "head mine")
    assert [point.x for point in charts["pairs-accepted"].form.series[0].points] == [71, 36]
    assert charts["pairs-speed"].form.names == ("head mine", "model small")
    assert charts["pairs-speed"].caption.startswith("Fastest: head mine")


def test_pairs_of_an_earlier_version_have_no_acceptance(built):
    content = report_data.pairs()
    for pair in content["pairs"]:
        del pair["accepted"]
    charts, absent = built(content)
    assert "pairs-speed" in charts
    assert absent["Drafters by acceptance"].needs.endswith("measured anew")
