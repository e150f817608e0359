"""Result files of other tools, as they wrote them about vLLM 0.32.0 with a head.

vLLM 0.32.0 (bench serve), guidellm 0.8.1 and aiperf 0.13.0; long lists were cut out.
"""

import json
from pathlib import Path

import pytest

from eagle_hf.evaluation.serving import read_results, serving_table

RESULTS = Path(__file__).parent / "serving_results"
FIELDS = {
    "label",
    "engine",
    "model",
    "arrival",
    "category",
    "requests",
    "ttft_ms",
    "tpot_ms",
    "itl_ms",
    "e2e_ms",
    "output_tokens_s",
    "goodput",
    "acceptance",
    "source",
}


def rows_of(tool: str) -> list[dict]:
    rows = read_results(f"with head={RESULTS / tool}.json")
    for row in rows:
        assert set(row) == FIELDS
        assert row["label"] == "with head"
        assert row["model"] == "models/target"
    return rows


def test_vllm_bench_serve_is_read():
    (row,) = rows_of("vllm")
    assert row["source"] == "vllm bench serve"
    assert row["arrival"] == {"kind": "closed", "concurrency": 2}
    assert row["requests"] == {"sent": 4, "finished": 4, "failed": {}}
    assert row["tpot_ms"]["median"] == pytest.approx(95.41176633)
    assert row["output_tokens_s"] == pytest.approx(17.6125114)
    assert row["acceptance"]["tau"] == pytest.approx(1 + 6 / 54)
    assert row["acceptance"]["accepted_per_position"] == [6, 0, 0, 0]
    assert row["acceptance"]["alpha"] == [6 / 54, 0, None, None]


def test_vllms_latency_by_chunk_is_not_taken_for_one_by_token(tmp_path):
    (row,) = rows_of("vllm")
    assert row["itl_ms"] is None
    document = json.loads((RESULTS / "vllm.json").read_text())
    plain = {name: value for name, value in document.items() if "spec_decode" not in name}
    path = tmp_path / "plain.json"
    path.write_text(json.dumps(plain) + "\n" + json.dumps(plain))  # appended, two of them
    first, second = read_results(f"plain={path}")
    assert first == second
    assert first["itl_ms"]["median"] == pytest.approx(85.92957)


def test_guidellm_is_read_benchmark_by_benchmark():
    one, two = rows_of("guidellm")
    assert one["arrival"] == {"kind": "closed", "concurrency": 1}
    assert two["arrival"] == {"kind": "closed", "concurrency": 2}
    assert one["requests"] == {"sent": 3, "finished": 3, "failed": {}}
    assert one["ttft_ms"]["median"] == pytest.approx(298.289, abs=1e-3)
    assert one["output_tokens_s"] == pytest.approx(48 / 4.326796)
    assert one["acceptance"]["source"] == "guidellm"
    assert 1 < one["acceptance"]["tau"] < 2
    assert one["itl_ms"] is None


def test_aiperf_is_read():
    (row,) = rows_of("aiperf")
    assert row["arrival"] == {"kind": "closed", "concurrency": 2}
    assert row["tpot_ms"] == {
        "median": pytest.approx(195.48807924),
        "p99": pytest.approx(661.7636241),
    }
    assert row["acceptance"]["tau"] == pytest.approx(1 + 8 / 47)
    assert row["acceptance"]["drafted"] == 188


def test_the_table_names_who_measured():
    table = serving_table(rows_of("vllm") + rows_of("aiperf"))
    assert "| with head (aiperf) | 2 at a time | 4 of 4 |" in table
    assert "| with head (vllm bench serve) | 2 at a time |" in table


def test_other_files_are_refused_with_what_can_be_read(tmp_path):
    other = tmp_path / "other.json"
    other.write_text('{"kind": "card"}')
    with pytest.raises(ValueError, match="no result file of vllm bench serve, guidellm or aiperf"):
        read_results(f"x={other}")
    other.write_text('{"benchmarks": [{}]}')
    with pytest.raises(ValueError, match="can be read"):
        read_results(str(other))
    with pytest.raises(ValueError, match="write LABEL=FILE"):
        read_results("x=nowhere.json")
