"""Real servers with the head and without: `bench-serving` measures both, and their counters."""

import json
import subprocess
import sys

import pytest
from driving import need
from environments import FOLDER, HERE
from ours import Case

pytestmark = pytest.mark.engine

ROOT = HERE.parents[1]


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
def test_the_head_is_accepted_at_every_concurrency(engine, smollm2: Case, tmp_path):
    need(engine)
    flags = ["--target", "smollm2", "--head", smollm2.head_folder, "--output_dir", tmp_path]
    flags += ["--engines", engine, "--environments", FOLDER, "--concurrency", "1", "2"]
    flags += ["--prompts", "1", "--new_tokens", "24"]
    recipe = ROOT / "recipes" / "serving_charts.py"
    subprocess.run([sys.executable, recipe, *flags], check=True, cwd=ROOT, timeout=1500)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["failures"] == {}
    assert len(metrics["runs"]) == 4
    for row in metrics["runs"]:
        assert row["tpot_ms"] > 0
        assert (row["tau"] is None) == row["label"].endswith("plain")
        if row["tau"] is not None:
            # llama.cpp accepts next to nothing in a second slot (xllamacpp 2026.10.11549)
            assert row["tau"] > (1.2 if row["concurrency"] == 1 else 1.0)
    runs = json.loads((tmp_path / "serving.json").read_text())["runs"]
    assert all(run["itl_ms"] for run in runs)  # tokens are counted chunk by chunk
