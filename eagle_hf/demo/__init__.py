"""The demo: one prompt, answered by the target alone and with the head, in a page of one's own."""

from eagle_hf.demo.models import DemoModels
from eagle_hf.demo.serving import serve

__all__ = ["DemoModels", "serve"]
