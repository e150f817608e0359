"""Publishing, checking and exporting heads."""

from eagle_hf.hub.cards import results_of, write_card
from eagle_hf.hub.publish import add_custom_generate, check_name, push_folder, push_to_hub

__all__ = [
    "add_custom_generate",
    "check_name",
    "push_folder",
    "push_to_hub",
    "results_of",
    "write_card",
]
