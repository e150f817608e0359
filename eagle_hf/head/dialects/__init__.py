"""The dialects that EAGLE-3 heads are published in: recognised, and translated into ours.

Dictionaries and strings in, dictionaries and strings out.

| dialect | recognised by | tensors | layer ids |
| --- | --- | --- | --- |
| eagle_hf | key `eagle_hf` | `midlayer.*` | under `eagle_hf`, HF indices |
| authors | nothing else fits | `midlayer.*` | none |
| specforge | `LlamaForCausalLMEagle3` | `midlayer.*` | nested, or none |
| torchspec | key `_torchspec_version` | `midlayer.*`, with --vllm `layers.0.*` | either, or none |
| speculators | key `speculators_model_type` | `layers.0.*` | top level |
| modelopt | its keys in `eagle_config` | `layers.0.*` | nested |
| automodel | `LlamaEagle3DraftModel`, `model.` | `model.layers.0.*` | none |

The table was read from the writers' sources, none of which was run here:

- eagle_hf: this package
- authors: SafeAILab/EAGLE, eagle/traineagle3
- specforge: sgl-project/SpecForge, specforge/modeling/draft
- torchspec: lightseekorg/TorchSpec, tools/convert_to_hf.py
- speculators: vllm-project/speculators, models/eagle3
- modelopt: NVIDIA/Model-Optimizer, export/plugins/hf_spec_export.py
- automodel: NVIDIA-NeMo/Automodel, components/speculative/eagle

Ids at the top level are HF indices, those nested in `eagle_config` are one lower
(layouts.foreign_layer_ids). TorchSpec's use of the top level was not found in its sources, so it
is inferred. Automodel copies the target's whole config, its number of layers included, and does
not save which layers the head reads: the default is assumed.
"""

from eagle_hf.head.dialects.recognition import DIALECTS, SCALES, recognise
from eagle_hf.head.dialects.translation import (
    HEADS_OWN,
    NEVER_LOADED,
    TOKENS,
    translate_config,
    translate_names,
)

__all__ = [
    "DIALECTS",
    "HEADS_OWN",
    "NEVER_LOADED",
    "SCALES",
    "TOKENS",
    "recognise",
    "translate_config",
    "translate_names",
]
