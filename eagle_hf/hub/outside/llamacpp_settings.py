"""What llama.cpp's server is given through the package xllamacpp, by everybody who starts one.

What is not set here is as llama.cpp sets it. In float32 the cache is so too, and the fast attention
is off, which is not (2e-3 in log-probability).
"""

import xllamacpp

EAGLE3 = xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_EAGLE3


def parameters(
    target: str,
    head: str | None,
    drafts: int | None,
    *,
    dtype: str,
    threads: int | None,
    context: int,
    slots: int = 1,
) -> xllamacpp.CommonParams:
    """The parameters of a server.

    Args:
        target: GGUF file.
        head: that of the draft head; None for plain decoding.
        drafts: of a chain, a round at most.
        dtype: "float32", or another: what is computed in, cache included.
        threads: of target and head. None: as llama.cpp chooses.
        context: tokens of prompt and answer.
        slots: requests in flight.
    """
    params = xllamacpp.CommonParams()
    params.model.path = target
    params.n_ctx = context * slots
    params.n_parallel = slots
    parts = [params]
    if head is not None:
        draft = params.speculative.draft
        draft.mparams.path = head
        draft.n_max = drafts
        params.speculative.types = [EAGLE3]
        parts.append(draft)
    for part in parts:
        if threads:
            part.cpuparams.n_threads = threads
            part.cpuparams_batch.n_threads = threads
        if dtype == "float32":
            part.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
            part.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    if dtype == "float32":
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return params


def draft_whole_chains(params: xllamacpp.CommonParams) -> None:
    """Draft the same number each round, whatever the head thinks of its drafts."""
    draft = params.speculative.draft
    draft.n_min = 0
    draft.p_min = 0.0


def listen(params: xllamacpp.CommonParams, port: int) -> None:
    """Answer over HTTP, on this machine alone, with a page of counters."""
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.endpoint_metrics = True
