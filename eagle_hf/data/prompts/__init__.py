"""User turns: from files and the Hub, bundled, or sampled from the target."""
