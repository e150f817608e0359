"""Stand-ins in plain torch for the kernels that SGLang wants on a CPU, where it publishes none.

Everything else that runs is SGLang's own: configuration, loader, layer capture, the EAGLE worker
and its tree. The stand-ins are slow. They serve greedy requests in float32, without sliding
windows, sinks or cross attention. Names and arguments are SGLang's.

B requests, N tree nodes with the root, T tokens, S slots of the key-value pool. Row r of
`req_to_token` lists the slots of request r's tokens, in order.
"""

from sgl_kernel.cpu_attention import (
    decode_attention_cpu,
    extend_attention_cpu,
)
from sgl_kernel.cpu_slots import (
    assign_draft_cache_locs_contiguous_cpu,
    assign_extend_cache_locs_cpu,
    assign_req_to_token_pool_cpu,
    build_draft_decode_metadata_cpu,
    copy_all_layer_kv_cache_cpu,
    fill_accept_out_cache_loc_cpu,
    fill_bonus_tokens_cpu,
)
from sgl_kernel.cpu_trees import (
    build_tree_kernel_efficient_cpu,
    verify_tree_greedy_cpu,
)

__all__ = [
    "assign_draft_cache_locs_contiguous_cpu",
    "assign_extend_cache_locs_cpu",
    "assign_req_to_token_pool_cpu",
    "build_draft_decode_metadata_cpu",
    "build_tree_kernel_efficient_cpu",
    "copy_all_layer_kv_cache_cpu",
    "decode_attention_cpu",
    "extend_attention_cpu",
    "fill_accept_out_cache_loc_cpu",
    "fill_bonus_tokens_cpu",
    "verify_tree_greedy_cpu",
]
