"""vLLM's own states become the features that the target computes in this process.

Layers are counted as `read_layer_states` counts them, and the files look like those that
tests/engine_folders.py makes for the tests without an engine.
"""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import torch
from driving import environment, need, run
from engine_folders import engine_tensors
from environments import program
from ours import Case
from safetensors.torch import load_file
from tiny import tiny_head

from eagle_hf import Eagle3Trainer, Eagle3TrainingArguments, load_target
from eagle_hf.data import (
    EngineServer,
    EngineStates,
    Features,
    capture_features,
    write_engine_request,
)

pytestmark = pytest.mark.engine

RECIPE = Path(__file__).parents[2] / "recipes" / "engine_states.py"
PATIENCE = 600  # seconds until a server answers
LAYERS = [2, 4, 5]
LENGTHS = [5, 17, 60, 12, 130, 16]  # 16 is a block of vLLM's cache
# More than one chunk for the longest text.
CHUNKS = '{"max_num_batched_tokens": 64, "enable_chunked_prefill": true}'


@pytest.fixture(scope="module")
def examples(tiny_case: Case) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number, length in enumerate(LENGTHS):
        ids = torch.randint(3, 31, (length,), generator=generator).tolist()
        rows.append({"id": f"c{number}", "input_ids": ids, "loss_mask": [1] * length})
    return rows


def run_vllm(folder: Path, *flags: str | Path) -> dict:
    """Run the recipe in vLLM's environment; its metrics."""
    need("vllm")
    run("vllm", program("vllm"), RECIPE, folder, *flags)
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def folder(tiny_case: Case, examples: list[dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A request that vLLM has answered, interrupted once: first one text, then the rest."""
    folder = tmp_path_factory.mktemp("states")
    write_engine_request(tiny_case.target, examples, folder, layer_ids=LAYERS)
    flags = ["--target", tiny_case.target_folder, "--engine", CHUNKS]
    first = run_vllm(folder, *flags, "--max_steps", "1")
    assert (first["texts"], first["lost"]) == (1, 0)
    (folder / "states" / "killed.part").write_bytes(b"half")
    rest = run_vllm(folder, *flags)
    assert (rest["texts"], rest["lost"]) == (5, 0)
    return folder


def captured(target, examples: list[dict], folder: Path, **settings) -> Features:
    usual = dict(layer_ids=LAYERS, template_sha256="t", dtype="float32", progress=False)
    capture_features(target, examples, folder, **(usual | settings))
    return Features(folder)


def test_vllm_writes_the_files_that_the_other_tests_make(tiny_case, examples, folder):
    names = {path.suffix for path in (folder / "states").iterdir()}
    assert names == {".safetensors"}
    by_length = {len(example["input_ids"]): example for example in examples}
    for path in sorted((folder / "states").iterdir()):
        theirs = load_file(path)
        example = by_length[len(theirs["token_ids"])]
        made = engine_tensors(tiny_case.target, example["input_ids"], [*LAYERS, 8])
        assert theirs.keys() == made.keys()
        assert torch.equal(theirs["token_ids"], made["token_ids"])
        assert theirs["hidden_states"].dtype == made["hidden_states"].dtype
        # State 8 of 8 layers is the last layer's, before the final norm.
        assert torch.allclose(theirs["hidden_states"], made["hidden_states"], atol=1e-3)


def test_vllms_states_become_the_features_of_the_target(tiny_case, examples, folder, tmp_path):
    own = captured(tiny_case.target, examples, tmp_path / "own")
    theirs = captured(tiny_case.target, examples, tmp_path / "theirs", source=EngineStates(folder))
    for mine, its in zip(own, theirs, strict=True):
        assert torch.equal(mine["input_ids"], its["input_ids"])
        assert torch.equal(mine["best"], its["best"])
        for name in ("aux_hidden_states", "hidden_states", "log_normaliser"):
            assert torch.allclose(mine[name], its[name], rtol=1e-3, atol=1e-3), name


def test_training_on_vllms_states_has_the_loss_of_training_online(
    tiny_case, examples, folder, tmp_path
):
    features = captured(
        tiny_case.target, examples, tmp_path / "features", source=EngineStates(folder)
    )
    losses = []
    for rows in (examples, features):
        args = Eagle3TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=3,
            max_steps=4,
            ttt_length=3,
            learning_rate=3e-3,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            seed=1,
            bf16=False,
        )
        head = tiny_head(tiny_case.target, eagle_hf={"aux_layer_ids": LAYERS})
        trainer = Eagle3Trainer(model=head, target=tiny_case.target, args=args, train_dataset=rows)
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    online, offline = losses
    assert len(online) == 4
    assert online == pytest.approx(offline, rel=1e-3)


def test_other_layers_of_vllm_are_refused_by_name(tiny_case, examples, folder, tmp_path):
    plain = EngineStates(folder / "states")  # without the request, nothing but the numbers tells
    problem = "state 3 is off by .*, and is the target's state 4"
    with pytest.raises(ValueError, match=problem):
        captured(tiny_case.target, examples, tmp_path, layer_ids=[2, 3, 5], source=plain)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server(tiny_case: Case, tmp_path: Path) -> Iterator[str]:
    """The URL of `vllm serve` with the connector for CPUs; it writes below tmp_path."""
    need("vllm")
    port = free_port()
    states = {"eagle_aux_hidden_state_layer_ids": [*LAYERS, 8]}
    speculative = {
        "method": "extract_hidden_states",
        "num_speculative_tokens": 1,
        "draft_model_config": {"hf_config": states},
    }
    connector = {
        "kv_connector": "CpuHiddenStatesConnector",
        "kv_connector_module_path": "connectors.vllm_cpu",
        "kv_role": "kv_producer",
        "kv_connector_extra_config": {"shared_storage_path": str(tmp_path / "served")},
    }
    command = [str(program("vllm", "vllm")), "serve", str(tiny_case.target_folder)]
    command += ["--dtype", "float32", "--enforce-eager", "--skip-tokenizer-init"]
    command += f"--no-enable-prefix-caching --max-model-len 131 --port {port}".split()
    command += ["--speculative-config", json.dumps(speculative)]
    command += ["--kv-transfer-config", json.dumps(connector)]
    own = environment("vllm")
    own["PYTHONPATH"] = f"{own['PYTHONPATH']}{os.pathsep}{RECIPE.parent}"
    log = tmp_path / "log"
    with log.open("w") as file:
        vllm = subprocess.Popen(
            command,
            env=own,
            stdout=file,
            stderr=file,
            start_new_session=True,  # so that the processes it starts end with it
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, vllm, log)
        yield url
    finally:
        os.killpg(vllm.pid, signal.SIGTERM)
        vllm.wait(60)


def wait_for(url: str, vllm: subprocess.Popen, log: Path) -> None:
    """Return when the server answers; fail with its last words if it ends before."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and vllm.poll() is None:
        try:
            urlopen(f"{url}/health", timeout=5).close()
            return
        except (URLError, TimeoutError, ConnectionError):
            time.sleep(2)
    pytest.fail(f"no answer from the server:\n{log.read_text()[-4000:]}")


def test_a_running_vllm_gives_the_features_of_the_target(tiny_case, examples, server, tmp_path):
    own = captured(tiny_case.target, examples, tmp_path / "own")
    theirs = captured(tiny_case.target, examples, tmp_path / "theirs", source=EngineServer(server))
    assert theirs.ids == own.ids  # 130 tokens and one to write are the server's 131
    for mine, its in zip(own, theirs, strict=True):
        for name in ("aux_hidden_states", "hidden_states", "log_normaliser"):
            assert torch.allclose(mine[name], its[name], rtol=1e-3, atol=1e-3), name
    assert not list((tmp_path / "served").iterdir())


def test_smollm2_in_bfloat16_differs_by_rounding_alone(smollm2, tmp_path):
    target, _ = load_target("smollm2", dtype=torch.bfloat16)
    layers = [2, 15, 27]
    examples = []
    for number, prompt in enumerate(smollm2.prompts):
        examples.append({"id": str(number), "input_ids": prompt, "loss_mask": [1] * len(prompt)})
    write_engine_request(target, examples, tmp_path / "engine", layer_ids=layers)
    run_vllm(tmp_path / "engine", "--target", smollm2.target_folder)
    settings: dict = dict(layer_ids=layers, dtype="bfloat16")
    source = EngineStates(tmp_path / "engine")
    own = captured(target, examples, tmp_path / "own", **settings)
    theirs = captured(target, examples, tmp_path / "theirs", source=source, **settings)
    for mine, its in zip(own, theirs, strict=True):
        for name in ("aux_hidden_states", "hidden_states"):
            distance = (mine[name].float() - its[name].float()).norm(dim=-1)
            share = (distance / mine[name].float().norm(dim=-1)).mean()
            print(f"{name}: off by {share:.1e}")
            assert share < 0.05
        same = (mine["best"] == its["best"]).float().mean()
        assert same > 0.9
