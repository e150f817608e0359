"""Features from an inference engine: what it is asked for, and the files that it leaves.

vLLM's speculative method `extract_hidden_states` keeps the states of some layers as it reads a
prompt, and its connector writes them to one file a prompt. `write_engine_request` says which
prompts and layers, `recipes/engine_states.py` runs vLLM over them, and `EngineStates` gives the
states to `capture_features`.
"""

from eagle_hf.data.engine_states.request import EngineRequest, write_engine_request
from eagle_hf.data.engine_states.source import EngineStates

__all__ = ["EngineRequest", "EngineStates", "write_engine_request"]
