"""Write a corrected copy of a head: everything that follows from what is there, nothing guessed.

The head is put into the one layout that all engines load, opened as any head is, given its target's
facts, saved, and checked again.
"""

from eagle_hf.hub.fix.fixing import fix

__all__ = ["fix"]
