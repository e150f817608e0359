"""What every engine will do with a saved head, and why it would be slow, wrong or refused.

    print(check("someone/their-head", target="someone/their-target").text())

What the engines do was read from their sources, or seen by running them; engines.py names the
versions. A rule is a function `check_...` that takes the head and its target (None where none was
given) and yields findings:

| file | what its rules look at |
| --- | --- |
| weights.py, embeddings.py | tensors: files, names, shapes, values; LM head, embeddings |
| vocabulary.py | d2t and t2d, the map of the draft vocabulary |
| architecture.py, sizes.py, variants.py | config.json: class and format, sizes, flags |
| launching.py | windows, trees, and what no folder shows |
| layer_ids.py | which aux hidden states each engine feeds the head |
| rope.py, target_fit.py | RoPE, and what must be the target's |
"""

from eagle_hf.hub.check.checking import check
from eagle_hf.hub.check.findings import Finding
from eagle_hf.hub.check.report import Report

__all__ = ["Finding", "Report", "check"]
