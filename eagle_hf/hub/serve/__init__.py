"""The commands that serve a target with a drafter on an engine, and what to know before.

Nothing is opened but the head's config.json. Every caveat names the version it was read from, in
the sources, or seen with, at work.
"""

from eagle_hf.hub.serve.command import Caveat, ServeCommand
from eagle_hf.hub.serve.serving import head_settings, serve_command

__all__ = ["Caveat", "ServeCommand", "head_settings", "serve_command"]
