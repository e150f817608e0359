"""How much to speculate: measured costs, the best tree for them, and simulations for machines not at hand."""
