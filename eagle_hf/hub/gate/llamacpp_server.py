"""llama.cpp's server through the package xllamacpp, where there is no program llama-server.

    python llamacpp_server.py TARGET.gguf HEAD.gguf DRAFTS PORT float32|other

It runs in the environment of that package, which need not have this one. In float32 the cache is
so too, and the fast attention is off, which is not. OMP_NUM_THREADS holds as everywhere.
"""

import os
import sys
import threading

import xllamacpp

CONTEXT = 4096  # tokens
EAGLE3 = xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_EAGLE3


def settings(target: str, head: str, drafts: int, port: int, dtype: str) -> xllamacpp.CommonParams:
    """One chain of so many drafts a round, whatever the head thinks of them."""
    params = xllamacpp.CommonParams()
    params.model.path = target
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = CONTEXT
    params.n_parallel = 1
    params.warmup = False
    params.endpoint_metrics = True
    params.speculative.types = [EAGLE3]
    draft = params.speculative.draft
    draft.mparams.path = head
    draft.n_max = drafts
    draft.n_min = 0
    draft.p_min = 0.0
    threads = os.environ.get("OMP_NUM_THREADS")
    for part in (params, draft):
        if threads:
            part.cpuparams.n_threads = int(threads)
            part.cpuparams_batch.n_threads = int(threads)
    if dtype == "float32":
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        for part in (params, draft):
            part.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
            part.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    return params


def main() -> None:
    target, head, drafts, port, dtype = sys.argv[1:]
    server = xllamacpp.Server(settings(target, head, int(drafts), int(port), dtype))
    print(f"listening at {server.listening_address}", flush=True)
    threading.Event().wait()  # until it is ended from outside


if __name__ == "__main__":
    main()
