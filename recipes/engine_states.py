"""vLLM reads the texts of a request, and leaves the target's states of every token.

It runs in vLLM's own environment and needs nothing else. The request is a folder of
`capture_features.py --request_engine_states FOLDER`; `--engine_states FOLDER` then makes features
of the states. Interrupted, the same command reads what is missing. One vLLM works on a folder; for
several, make a request for each.

Hardware: any that vLLM runs on; on a CPU with connectors/vllm_cpu.py in the place of vLLM's own.
          Disk: 8 H bytes a token in bfloat16 (SmolLM2-135M: 4.6 kB).
Duration: one prefill of every text, and a minute for vLLM to start.
Command:  VLLM/bin/python recipes/engine_states.py FOLDER
Expected: FOLDER/states/*.safetensors, one for each line of FOLDER/tokens.jsonl; FOLDER/engine.json
          and FOLDER/metrics.json.
"""

import argparse
import fcntl
import json
import subprocess
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

SUFFIX = ".safetensors"
UNFINISHED = ".part"  # until the file is whole
REASONS_SHOWN = 3

Text = dict[str, Any]  # {"name": of its file, "token_ids": [...]}


def read_texts(folder: Path) -> Iterator[Text]:
    """The texts of a request, one by one."""
    with (folder / "tokens.jsonl").open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def missing_texts(folder: Path) -> Iterator[Text]:
    """The texts whose states are not there yet."""
    for text in read_texts(folder):
        if not (folder / "states" / f"{text['name']}{SUFFIX}").exists():
            yield text


def in_chunks(texts: Iterator[Text], size: int) -> Iterator[list[Text]]:
    """The texts, so many at a time."""
    chunk = list(islice(texts, size))
    while chunk:
        yield chunk
        chunk = list(islice(texts, size))


def make_engine(manifest: dict[str, Any], arguments: argparse.Namespace, longest: int) -> Any:
    """vLLM with the speculative method that drafts nothing and keeps the target's states."""
    from vllm import LLM  # in vLLM's own environment alone
    from vllm.platforms import current_platform

    connector = {
        "kv_connector": "ExampleHiddenStatesConnector",
        "kv_role": "kv_producer",
        "kv_connector_extra_config": {"allow_custom_save_path": True},
    }
    settings = {
        "model": arguments.target or manifest["target"],
        "dtype": manifest["dtype"],
        "max_model_len": longest + 1,  # one token is generated behind each text
        "skip_tokenizer_init": True,
        "enable_prefix_caching": False,
        "kv_transfer_config": connector,
        "speculative_config": {
            "method": "extract_hidden_states",
            "num_speculative_tokens": 1,
            "draft_model_config": {
                "hf_config": {"eagle_aux_hidden_state_layer_ids": manifest["state_ids"]}
            },
        },
    }
    if current_platform.is_cpu():
        connector["kv_connector"] = "CpuHiddenStatesConnector"
        connector["kv_connector_module_path"] = "connectors.vllm_cpu"  # beside this file
        settings["enforce_eager"] = True
    return LLM(**(settings | arguments.engine))


def read_with_engine(llm: Any, texts: list[Text], states: Path) -> list[str]:
    """Have the engine read some texts; those whose states cannot be used, with why."""
    from vllm import SamplingParams

    prompts = []
    sampling = []
    for text in texts:
        path = str((states / text["name"]).with_suffix(UNFINISHED))
        prompts.append({"prompt_token_ids": text["token_ids"]})
        sampling.append(
            SamplingParams(
                max_tokens=1,
                temperature=0,
                detokenize=False,
                extra_args={"kv_transfer_params": {"hidden_states_path": path}},
            )
        )
    llm.generate(prompts, sampling, use_tqdm=False)
    lost = []
    for text in texts:
        problem = finish((states / text["name"]).with_suffix(UNFINISHED), text["token_ids"])
        if problem:
            lost.append(f"{text['name']}: {problem}")
    return lost


def finish(unfinished: Path, token_ids: list[int]) -> str | None:
    """Wait until a file is whole, and give it its name; what is wrong with it, or None."""
    lock = Path(f"{unfinished}.lock")
    if not lock.exists():
        return "vLLM wrote no file"
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # the connector holds it while it writes
    lock.unlink()
    problem = find_problem(unfinished, token_ids)
    if problem:
        unfinished.unlink(missing_ok=True)
    else:
        unfinished.rename(unfinished.with_suffix(SUFFIX))
    return problem


def find_problem(path: Path, token_ids: list[int]) -> str | None:
    """Why the states in a file cannot be used; None where they can."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        return f"its file cannot be opened ({error})"
    states = tensors["hidden_states"]  # [S, n, H]
    if tensors["token_ids"].tolist() != token_ids or len(states) != len(token_ids):
        return f"vLLM read {len(tensors['token_ids'])} of its {len(token_ids)} tokens"
    without = int((states == 0).flatten(1).all(1).sum())
    if without:
        return f"{without} of its {len(token_ids)} tokens have no states"
    if not states.isfinite().all():
        return "its states are not finite"
    return None


def run(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Read all texts whose states are missing; what was done."""
    started = time.perf_counter()
    manifest = json.loads((folder / "manifest.json").read_text())
    states = folder / "states"
    # 1) remove what a killed run left, and see how much there is to do
    for leftover in states.glob(f"*{UNFINISHED}*"):
        leftover.unlink()
    lengths = [len(text["token_ids"]) for text in missing_texts(folder)]
    count = len(lengths)
    if arguments.max_steps > 0:
        count = min(count, arguments.max_steps)
    metrics = {"texts": count, "tokens": 0, "lost": 0}
    if count == 0:
        return metrics
    # 2) read some texts at a time
    llm = make_engine(manifest, arguments, max(lengths))
    lost = []
    for texts in in_chunks(islice(missing_texts(folder), count), arguments.at_once):
        lost += read_with_engine(llm, texts, states)
        metrics["tokens"] += sum(len(text["token_ids"]) for text in texts)
        seconds = time.perf_counter() - started
        print(f"{metrics['tokens']:,} of {sum(lengths):,} tokens, {seconds:.0f} s", flush=True)
    # 3) say what is missing
    metrics["lost"] = len(lost)
    if lost:
        shown = "; ".join(lost[:REASONS_SHOWN])
        print(f"{len(lost)} of {count} texts have no states, the first: {shown}")
    metrics["seconds"] = round(time.perf_counter() - started, 1)
    return metrics


def source_commit() -> str | None:
    """The commit of the checkout that this file is in; None where there is no checkout."""
    command = ["git", "rev-parse", "HEAD"]
    here = Path(__file__).parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=here)
    return done.stdout.strip() or None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="Of capture_features.py --request_engine_states.")
    parser.add_argument("--target", help="The target's folder, where the request names another.")
    parser.add_argument(
        "--at_once", type=int, default=256, help="Texts that vLLM is given at once."
    )
    parser.add_argument(
        "--engine",
        type=json.loads,
        default={},
        help="Further settings of vLLM's LLM, as JSON: '{\"tensor_parallel_size\": 8}'.",
    )
    parser.add_argument(
        "--max_steps", type=int, default=-1, help="Read at most this many texts (smoke tests)."
    )
    arguments = parser.parse_args()
    import vllm

    folder = arguments.folder.resolve()
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SystemExit(f"another run works on {folder}; wait for its end") from error
        metrics = run(folder, arguments)
    made_by = {
        "engine": "vllm",
        "version": vllm.__version__,
        "settings": vars(arguments),
        "commit": source_commit(),
    }
    (folder / "engine.json").write_text(json.dumps(made_by, indent=1, default=str) + "\n")
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
