"""Token ids that a target may be asked to read as text, whatever it is."""

from transformers import PreTrainedConfig

SPECIAL = ("_token_id", "_token_index")  # endings of settings that give an id a meaning


def ordinary_ids(config: PreTrainedConfig) -> list[int]:
    """List the ids of a vocabulary without those that a config gives a meaning, as of an image.

    Args:
        config: A target's config.

    Returns:
        Ascending ids; the whole vocabulary where all of it has a meaning.
    """
    text_config = config.get_text_config()
    special = set()
    for part in (config, text_config):
        for name, value in part.to_dict().items():
            if name.endswith(SPECIAL) and isinstance(value, int):
                special.add(value)
    ids = range(text_config.vocab_size)
    return [token for token in ids if token not in special] or list(ids)
