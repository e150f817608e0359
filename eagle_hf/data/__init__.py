"""From user turns to tokens with a loss mask: prompts, the target's responses, masks."""
