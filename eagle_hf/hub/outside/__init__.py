"""Programs that run in an engine's own environment, which need not have this package.

None of them imports anything of this package. `ENGINE_PROGRAMS` is on their path (`engine_path`),
so that they find each other.
"""

import os
from pathlib import Path

ENGINE_PROGRAMS = Path(__file__).parent


def engine_path() -> str:
    """PYTHONPATH for a program in an engine's environment: it may import what lies here."""
    return os.pathsep.join(filter(None, (str(ENGINE_PROGRAMS), os.environ.get("PYTHONPATH"))))
