"""Training over two nodes: one is killed, one is started again, and the run goes on to its end.

The nodes are two agents of torchrun on this machine, started by recipes/cluster/train_node.sh.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from tiny import tiny_target, word_tokenizer

from eagle_hf import Eagle3Config, Eagle3DraftHead
from eagle_hf.data import capture_features, template_sha256
from eagle_hf.training.checkpoints import checkpoint_step, last_checkpoint

ROOT = Path(__file__).parents[2]
NODE = ROOT / "recipes" / "cluster" / "train_node.sh"
STEPS = 500
WAITS_S = 240
RESUMED = re.compile(r"Resuming training from checkpoint .* global step (\d+)")


@pytest.fixture
def folder(tmp_path):
    """A tiny target and features of it."""
    target = tiny_target(dtype=torch.float32)
    tokenizer = word_tokenizer()
    target.save_pretrained(tmp_path / "target")
    tokenizer.save_pretrained(tmp_path / "target")
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(40):
        ids = torch.randint(5, 30, (16 + number % 7,), generator=generator).tolist()
        mask = [0] * 4 + [1] * (len(ids) - 4)
        rows.append({"id": f"c{number}", "input_ids": ids, "loss_mask": mask})
    capture_features(
        target,
        rows,
        tmp_path / "features",
        layer_ids=Eagle3Config.from_target(target).aux_layer_ids,
        template_sha256=template_sha256(tokenizer),
        dtype="float32",
        progress=False,
    )
    return tmp_path


class Nodes:
    """Agents of one run.

    Args:
        folder: with target and features; the run goes to its `out`.
    """

    def __init__(self, folder):
        self.folder = folder
        self.out = folder / "out"
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.running = []

    def start(self, name):
        """Start a node, which logs to a file of its own."""
        tools = Path(sys.executable).parent
        environment = os.environ | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "info",
            "RENDEZVOUS": f"127.0.0.1:{self.port}",
            "NODES": "1:2",
            "PROCESSES": "1",
            "LAST_CALL": "5",
        }
        flags = f"""
            --target {self.folder / "target"} --target_dtype float32 --draft_vocab_size 0
            --features {self.folder / "features"} --output_dir {self.out}
            --use_cpu --max_steps {STEPS} --save_steps 20 --save_total_limit 3 --logging_steps 20
            --per_device_train_batch_size 2 --ttt_length 2 --report_to none --disable_tqdm true
        """
        with (self.folder / f"{name}.log").open("w") as log:
            node = subprocess.Popen(
                [NODE, *flags.split()], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        self.running.append(node)
        return node

    def kill(self, node):
        """Kill a node with its worker, as a power cut does."""
        processes = psutil.Process(node.pid).children(recursive=True)
        node.send_signal(signal.SIGKILL)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()

    def stop(self):
        """Kill whatever still runs."""
        for node in self.running:
            if node.poll() is None:
                self.kill(node)

    def step(self):
        """The step of the newest checkpoint."""
        found = last_checkpoint(self.out)
        return 0 if found is None else checkpoint_step(Path(found))

    def wait_for_step(self, step):
        """Wait for a checkpoint of that step, or a later one."""
        deadline = time.monotonic() + WAITS_S
        while self.step() < step:
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.1)

    def logs(self):
        """What all nodes have logged."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("*.log")))


@pytest.mark.slow
def test_a_killed_node_costs_the_steps_since_the_last_checkpoint(folder):
    nodes = Nodes(folder)
    try:
        first = nodes.start("first")
        time.sleep(3)  # the first one to be there is where they meet
        second = nodes.start("second")
        nodes.wait_for_step(40)
        nodes.kill(second)
        killed_at = nodes.step()
        again = nodes.start("again")
        assert first.wait(WAITS_S) == 0, nodes.logs()
        again.wait(60)
    finally:
        nodes.stop()
    # 1) It went on from a checkpoint, and never from the start.
    resumed = [int(step) for step in RESUMED.findall(nodes.logs())]
    assert resumed
    assert min(resumed) >= killed_at
    # 2) Both nodes were in it at the end, and it has every step once.
    metrics = json.loads((nodes.out / "metrics.json").read_text())
    assert metrics["steps"] == STEPS
    state = json.loads((Path(last_checkpoint(nodes.out)) / "trainer_state.json").read_text())
    logged = [log["step"] for log in state["log_history"] if "loss" in log]
    assert logged == list(range(20, STEPS + 1, 20))
    # 3) The head is whole.
    Eagle3DraftHead.from_pretrained(nodes.out)
