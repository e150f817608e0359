"""Is it the export, or is it the head? An engine is started, and asked.

A head that drafts badly in an engine may be a bad head, or a good one that the engine reads as
another. So one conversation is learnt by heart, with the settings of the head in question, and
exported and served as that is:

| learnt by heart | the head itself | verdict |
| --- | --- | --- |
| accepted nearly whole | accepted as here, tau is good | ok |
| accepted nearly whole | accepted as here, tau is bad here too | bad head |
| accepted nearly whole | accepted otherwise than here | differs |
| not accepted | | broken export |

    gate = Gate("outputs/head", "smollm2", "vllm", GateSettings())
    environment = Environment("vllm", Path("venv/bin/python"))
    print(gate.run(launcher(environment, 3, work), work).text())

Read in this order: running.py (the plot); conversation.py, by_heart.py and misreadings.py (what is
learnt, unlearnt, and goes wrong); exported.py, environment.py, commands.py, launching.py and
client.py (the engine); drafting.py (the same here); measured.py and diagnosing.py (the verdict
and the reason).
"""

from eagle_hf.hub.gate.client import EngineClient, EngineError
from eagle_hf.hub.gate.environment import Environment
from eagle_hf.hub.gate.measured import Comparison, Row, Verdict
from eagle_hf.hub.gate.running import Gate, GateSettings, launcher

__all__ = [
    "Comparison",
    "EngineClient",
    "EngineError",
    "Environment",
    "Gate",
    "GateSettings",
    "Row",
    "Verdict",
    "launcher",
]
