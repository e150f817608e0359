"""Features from an inference engine: what it is asked for, and the files that it leaves.

vLLM's speculative method `extract_hidden_states` keeps the states of some layers as it reads a
prompt, and its connector writes them to one file a prompt. `capture_features` gets them from
`EngineStates`, a folder that `recipes/engine_states.py` filled as `write_engine_request` asked, or
from `EngineServer`, a running vLLM.
"""

from eagle_hf.data.features.engine_states.request import EngineRequest, write_engine_request
from eagle_hf.data.features.engine_states.server import EngineServer
from eagle_hf.data.features.engine_states.source import EngineStates

__all__ = ["EngineRequest", "EngineServer", "EngineStates", "write_engine_request"]
