"""The model card, built from metrics.json: no figure in it was typed.

metrics.json of a head's folder holds

- `head_fingerprint`: of the weights that were measured; `head_sha256` in older files;
- `trained`: facts of the training run;
- `settings`: what recipes/evaluate.py measured, one entry for each dtype, tree and temperature,
  with results by category;
- `scaling`: where it was measured.

Text that comes from there, or from the card's author, can neither end the metadata nor become
HTML.
"""

from eagle_hf.hub.cards.card import write_card
from eagle_hf.hub.cards.metrics import head_fingerprint, results_of
from eagle_hf.hub.cards.results import results_table

__all__ = ["head_fingerprint", "results_of", "results_table", "write_card"]
