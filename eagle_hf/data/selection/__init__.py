"""Which prompts are used: rules that remove some, and mixtures of categories."""
