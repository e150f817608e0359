"""The quickstart: the head that comes with the project at work, then one trained here."""

from eagle_hf.quickstart.story import REFERENCE, quickstart

__all__ = ["REFERENCE", "quickstart"]
