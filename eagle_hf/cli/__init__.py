"""`eagle-hf`: the command line, one sub-command per file."""

from eagle_hf.cli.main import main, parser

__all__ = ["main", "parser"]
