"""llama.cpp's server through the package xllamacpp, where there is no program llama-server.

    python llamacpp_server.py TARGET.gguf HEAD.gguf DRAFTS PORT float32|other

It drafts one chain of so many drafts a round. OMP_NUM_THREADS holds as everywhere.
"""

import os
import sys
import threading

import xllamacpp
from llamacpp_settings import draft_whole_chains, listen, parameters

CONTEXT = 4096  # tokens


def main() -> None:
    target, head, drafts, port, dtype = sys.argv[1:]
    threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or None
    params = parameters(target, head, int(drafts), dtype=dtype, threads=threads, context=CONTEXT)
    params.warmup = False
    draft_whole_chains(params)
    listen(params, int(port))
    server = xllamacpp.Server(params)
    print(f"listening at {server.listening_address}", flush=True)
    threading.Event().wait()  # until it is ended from outside


if __name__ == "__main__":
    main()
