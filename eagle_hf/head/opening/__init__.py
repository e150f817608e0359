"""Opening the folder of a head in any dialect.

Nothing in a folder is trusted. JSON is read up to a size, names of files cannot leave the folder,
a pickle is read as tensors or not at all, and every size that the config announces is compared
with the weights before anything of that size is allocated.
"""

from eagle_hf.head.opening.files import HUB_OPTIONS, contained, read_config, read_json
from eagle_hf.head.opening.fitting import FLOATS, INTEGERS
from eagle_hf.head.opening.heads import OpenedHead, open_head
from eagle_hf.head.opening.tensors import Stored, stored_tensors

__all__ = [
    "FLOATS",
    "HUB_OPTIONS",
    "INTEGERS",
    "OpenedHead",
    "Stored",
    "contained",
    "open_head",
    "read_config",
    "read_json",
    "stored_tensors",
]
