"""A saved head and the world: check it, fix it, export it, serve it, describe it, publish it.

| question | function |
| --- | --- |
| what will every engine do with this head? | `check` |
| can that be corrected? | `fix` |
| how does one engine want it? | `export_head` |
| how is it launched there? | `serve_command` |
| what does its card say? | `write_card` |
| what would be uploaded? | `files_to_push` |
| where do an engine's own programs find ours? | `engine_path` |
| how does it get to the Hub? | `push_to_hub`, `push_folder` |
"""

from eagle_hf.hub.cards import head_fingerprint, results_of, results_table, write_card
from eagle_hf.hub.check import Finding, Report, check
from eagle_hf.hub.export import LAYOUTS, export_head, named_target
from eagle_hf.hub.fix import fix
from eagle_hf.hub.outside import engine_path
from eagle_hf.hub.publish import (
    add_custom_generate,
    check_name,
    files_to_push,
    push_folder,
    push_to_hub,
)
from eagle_hf.hub.serve import Caveat, ServeCommand, head_settings, serve_command

__all__ = [
    "LAYOUTS",
    "Caveat",
    "Finding",
    "Report",
    "ServeCommand",
    "add_custom_generate",
    "check",
    "check_name",
    "engine_path",
    "export_head",
    "files_to_push",
    "fix",
    "head_fingerprint",
    "head_settings",
    "named_target",
    "push_folder",
    "push_to_hub",
    "results_of",
    "results_table",
    "serve_command",
    "write_card",
]
