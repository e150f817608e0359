"""The charts of a report: what is drawn from which file, what is absent, what is simulated."""

import json
from xml.etree import ElementTree

import pytest
import report_data

from eagle_hf import cli
from eagle_hf.evaluation.charts import read_sources, report_page
from eagle_hf.evaluation.charts.building import build_charts
from eagle_hf.evaluation.charts.building.naming import drawn_series, names_apart
from eagle_hf.evaluation.charts.chart import Point, Series, shorten, two_lines
from eagle_hf.evaluation.charts.forms import Node, Tree
from eagle_hf.evaluation.charts.forms.lines import spread
from eagle_hf.evaluation.charts.headline import headline


@pytest.fixture
def built(tmp_path):
    """Builds the charts of one file, by their names."""

    def build(content, name="metrics.json"):
        file = report_data.write(tmp_path, name, content)
        charts, absent = build_charts(read_sources([file]))
        return {chart.name: chart for chart in charts}, {one.title: one for one in absent}

    return build


def test_methods_are_sorted_by_speed_and_a_failed_one_is_a_row_that_says_why(built):
    charts, _ = built(report_data.methods(temperatures=(0.0,)))
    chart = charts["speed-by-method"]
    assert chart.form.names[0] == "head@dynamic:4:4:12"
    assert chart.form.names[-1] == "early-exit:9"
    assert chart.form.notes == {5: "failed"}
    (failed,) = [row for row in chart.table.rows if row[0] == "early-exit:9"]
    assert failed[1] == "failed: the target has 8 layers; early exit needs 9"
    speeds = [point.x for point in chart.form.series[0].points]
    assert speeds == sorted(speeds, reverse=True)
    assert chart.caption.startswith("Fastest: head@dynamic:4:4:12 with 1.96 times")


def test_an_interval_that_holds_one_is_no_clear_difference(built):
    row = report_data.method_row("head", "all", 0.0, 1.02)
    charts, _ = built({"schema": 2, "rows": [row]})
    assert "no clear difference" in charts["speed-by-method"].caption


def test_a_served_run_is_a_point_and_a_row(built):
    charts, _ = built(report_data.serving(), "serving.json")
    chart = charts["time-per-token"]
    plain, drafted = chart.form.series
    assert (plain.name, plain.is_plain) == ("without head", True)
    assert (drafted.name, drafted.is_plain) == ("with head", False)
    assert [point.x for point in drafted.points] == [1, 2, 4, 8]
    assert plain.points[0].y == 24
    assert len(chart.table.rows) == 8
    assert "4 requests failed" in chart.caption
    assert chart.table.rows[-1][-1] == "1 disconnected"
    assert [point.x for point in charts["time-per-token-rate"].form.series[0].points] == [0.5, 2]
    assert len(charts["served-categories"].table.rows) == 8


def test_what_another_tool_does_not_say_is_left_out_and_counted_as_absent(built):
    content = report_data.serving()
    for run in content["runs"]:
        run.update(ttft_ms=None, source="guidellm", acceptance=None)
    charts, absent = built(content, "serving.json")
    assert "time-to-first-token" not in charts
    assert "Time to the first token against concurrency" in absent
    assert len(charts["throughput"].form.series[0].points) == 4


def test_charts_without_their_data_are_named_with_what_they_need(built):
    charts, absent = built(report_data.training(), "trainer_state.json")
    assert list(charts) == ["tau-by-step"]
    needs = absent["Time per token against concurrency"].needs
    assert needs == "serving.json of `eagle-hf bench-serving`"
    assert absent["Drafters by acceptance"].needs == "metrics.json of `eagle-hf pair`"
    assert len(absent) == 17


def test_a_counted_tree_has_every_node_and_its_share(built):
    charts, _ = built(report_data.methods())
    chart = charts["tree"]
    assert not chart.is_simulated
    assert len(chart.form.nodes) == 13
    assert chart.form.nodes[1].share == 0.61
    assert chart.form.nodes[4].parent == 1
    assert chart.table.rows[3] == ("4", "1", "2", "610", "400", "0.66")
    assert max(chart.form.depths) == 5


def test_of_a_large_tree_the_most_accepted_nodes_are_drawn_and_all_are_in_the_table(built):
    content = report_data.methods()
    slots = report_data.slots()
    for rank in range(60):
        slots.append({"parent": 3, "depth": 3, "visited": 400, "accepted": rank})
    for row in content["rows"]:
        if "tree" in row:
            row["tree"] = slots
    chart = built(content)[0]["tree"]
    assert len(chart.form.nodes) == 33
    assert len(chart.table.rows) == 72
    assert "The 32 nodes accepted most of 72" in chart.caption


def test_what_a_plan_predicts_is_marked_as_simulated(built):
    charts, _ = built(json.loads(report_data.PLAN.read_text()), "plan.json")
    assert set(charts) == {"tree", "plan", "drafts-by-length-plan"}
    assert all(chart.is_simulated for chart in charts.values())
    assert charts["plan"].form.series[0].points[0].y > 1


def test_a_file_that_says_so_is_simulated_in_every_chart_and_not_at_the_top(tmp_path, built):
    content = report_data.methods() | {"simulated": True}
    charts, _ = built(content)
    assert all(chart.is_simulated for chart in charts.values())
    assert headline(read_sources([tmp_path])) == []


def test_times_of_a_round_add_up_without_the_prompts_reading(built):
    charts, _ = built(report_data.methods(temperatures=(0.0,)))
    table = charts["round-time"].table
    assert table.columns == ("method", "target", "head", "draft", "accept", "round")
    for row in table.rows:
        numbers = [float(cell) for cell in row[1:]]
        assert sum(numbers[:-1]) == pytest.approx(numbers[-1], abs=0.03)


def test_the_top_says_speed_tau_identity_and_served_time(tmp_path):
    figures = headline(read_sources([report_data.write_all(tmp_path)]))
    assert [figure.value for figure in figures] == ["1.96×", "2.96", "100%", "14.5 ms"]
    assert "instead of 24.0 ms" in figures[3].detail


def test_the_top_says_identity_in_float32_where_rounding_parts_answers(tmp_path):
    """Of the reference head 52 % are identical in bfloat16, and all of them in float32."""
    kept = report_data.ROOT / "docs" / "benchmarks" / "kept" / "reference-head"
    content = json.loads((kept / "metrics.json").read_text())
    figure = headline(read_sources([kept]))[2]
    assert figure.value == "100%"
    assert figure.detail == "in float32; 52% in bfloat16, which rounds"
    content["settings"] = [one for one in content["settings"] if one["dtype"] == "bfloat16"]
    file = report_data.write(tmp_path, "metrics.json", content)
    figure = headline(read_sources([file]))[2]
    assert (figure.value, figure.detail) == ("52%", "and 15 differ by a tie, in bfloat16")


def test_absent_charts_stand_together_with_what_they_need(tmp_path):
    file = report_data.write(tmp_path, "trainer_state.json", report_data.training())
    page = report_page(read_sources([file]), "Trained")
    needs = "needs metrics.json of <code>eagle-hf pair</code>"
    assert f"<li>Drafters by acceptance, Drafters by speed: {needs}</li>" in page
    assert "`" not in page.partition("Not drawn")[2].partition("</ul>")[0]


def test_series_have_names_by_what_differs():
    keys = [("head", "greedy", "vllm"), ("head", "", "vllm"), ("plain", "greedy", "vllm")]
    assert list(names_apart(keys[::2]).values()) == ["head", "plain"]
    assert len(set(names_apart(keys).values())) == 3


def test_more_series_than_colours_are_in_the_table_only():
    series = [Series(f"s{number}", (Point(1, 1, ""),)) for number in range(9)]
    kept, said = drawn_series([*series, Series("plain", (), is_plain=True)])
    assert [one.name for one in kept] == ["plain", "s0", "s1", "s2", "s3", "s4", "s5"]
    assert said == " 3 more are in the table."
    assert drawn_series(series[:7])[1] == " 1 more is in the table."


def test_long_names_are_shortened_to_what_tells_them_apart():
    assert shorten("head@chain:4:1:4") == "head@chain:4:1:4"
    assert shorten("assistant:/a/very/long/path/to/some/model-135M") == "assistant:model-135M"
    assert len(shorten("x" * 50)) <= 30
    assert two_lines("head, greedy, batch 4", 30) == "head\ngreedy, batch 4"


def test_labels_of_an_axis_by_doublings_have_room():
    assert spread([1, 2, 4, 8], 0.1) == [1, 2, 4, 8]
    assert spread([1, 8, 9, 10, 64], 0.2) == [1, 8, 64]


def test_parents_of_a_drawn_tree_lie_amid_their_children():
    nodes = [Node(parent, 1.0, 1.0, "") for parent in (-1, 0, 0, 1, 1)]
    assert Tree(tuple(nodes)).places == [1.25, 0.5, 2, 0, 1]


def test_names_from_files_are_escaped(tmp_path):
    row = report_data.method_row("<b>$x$ & co</b>", "all", 0.0, 1.5)
    file = report_data.write(tmp_path, "metrics.json", {"schema": 2, "rows": [row]})
    page = report_page(read_sources([file]), "<script>alert(1)</script>")
    assert "<script>alert" not in page
    assert "<b>$x$" not in page
    assert "&lt;b&gt;$x$ &amp; co&lt;/b&gt;" in page


def test_the_command_writes_page_and_pictures(tmp_path, capsys):
    file = report_data.write(tmp_path / "in", "roofline.json", report_data.roofline())
    report_data.write(tmp_path / "in" / "other", "metrics.json", {"loss": 1})
    out = tmp_path / "new" / "report.html"
    flags = ["--out", str(out), "--pictures", str(tmp_path / "pictures"), "--title", "Ours"]
    assert cli.main(["report", str(file.parent), *flags]) == 0
    screen = capsys.readouterr().out
    assert "left out" in screen
    assert "the report is in" in screen
    assert "<h1>Ours</h1>" in out.read_text()
    drawing = ElementTree.parse(tmp_path / "pictures" / "roofline-1.svg").getroot()
    texts = "".join(drawing.itertext())
    assert "Speed on a machine not at hand: H100 (simulated)" in texts
    assert (tmp_path / "pictures" / "roofline-1.png").read_bytes().startswith(b"\x89PNG")


def test_files_without_any_charts_data_are_refused(tmp_path, capsys):
    file = report_data.write(tmp_path, "trainer_state.json", {"log_history": []})
    assert cli.main(["report", str(file), "--out", str(tmp_path / "r.html")]) == 2
    assert "Tau by training step: trainer_state.json" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_a_folder_as_the_page_is_refused(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "give a file such as report.html" in capsys.readouterr().err


def test_a_prediction_is_held_against_the_loop_that_it_is_made_for(built):
    charts, _ = built(report_data.methods(temperatures=(0.0,)))
    chart = charts["predicted-measured"]
    for point in chart.form.series[0].points:
        assert point.y / point.x == pytest.approx(1.1 / 1.2)
    assert "reach 92%" in chart.caption


def test_a_method_that_failed_in_one_setting_is_a_row_of_that_setting(built):
    content = report_data.methods()
    failed = {"method": "itself", "temperature": 1.0, "batch": 1, "failed": "out of memory"}
    content["rows"].append(failed | {"category": "all"})
    table = built(content)[0]["speed-by-method"].table
    assert ("itself", "failed: out of memory") in [row[:2] for row in table.rows]


def test_a_chain_is_no_tree_where_another_method_has_one(built):
    content = report_data.methods(temperatures=(0.0,))
    chain = [{"parent": -1, "depth": 1, "visited": 9, "accepted": 4}]
    for row in content["rows"]:
        if row["method"].startswith("head@chain"):
            row["tree"] = chain
    charts, _ = built(content)
    assert [name for name in charts if name.startswith("tree")] == ["tree"]
    assert charts["tree"].caption.startswith("head@dynamic")
    for row in content["rows"]:
        if row["method"].startswith("head@dynamic"):
            del row["tree"]
    assert built(content)[0]["tree"].caption.startswith("head@chain")


@pytest.mark.parametrize(
    "label, expected", [("vLLM plain", True), ("Without head", True), ("plainly drafted", False)]
)
def test_a_label_says_what_the_others_are_compared_with(built, label, expected):
    content = report_data.serving()
    for run in content["runs"]:
        run["label"] = label
    (series,) = built(content, "serving.json")[0]["throughput"].form.series
    assert series.is_plain == expected
