"""Refuse what an engine would compute otherwise than it was trained: settings, weights, targets."""

import torch
from transformers import PretrainedConfig

from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.vocabulary import vocabulary_buffers
from eagle_hf.hub.engines import SERVERS, Engine


def check_engine(config: Eagle3Config, engine: Engine) -> None:
    """Raise a ValueError for a head that this engine would compute otherwise."""
    lost = unsupported_settings(config, engine)
    if lost:
        others = [other for other in SERVERS if other is not engine]
        raise ValueError(
            f"{engine.full_name} does not know this head's {', '.join(lost)} and would draft "
            f"garbage; serve it with {name_supporting(config, *others)}"
        )


def unsupported_settings(config: Eagle3Config, engine: Engine) -> list[str]:
    """The settings of a head that an engine does not honour."""
    lost = [setting for setting in engine.unsupported if getattr(config, setting)]
    if engine.has_only_silu and config.hidden_act != "silu":
        lost.append(f"hidden_act={config.hidden_act}")
    # fc is built for any number on the other engines.
    states = config.num_aux_hidden_states
    if engine.num_aux_states not in (None, states):
        lost.append(f"num_aux_hidden_states={states}")
    return lost


def name_supporting(config: Eagle3Config, *engines: Engine) -> str:
    """Which of these engines honour the head, as "vLLM or llama.cpp"; else this package."""
    names = []
    for engine in engines:
        if not unsupported_settings(config, engine):
            names.append(engine.full_name)
    return " or ".join(names) or "this package: target.generate(assistant_model=head)"


def check_head(head: Eagle3DraftHead) -> None:
    """Raise a ValueError for weights that an engine would load silently, to draft garbage."""
    broken = []
    for name, weight in head.named_parameters():
        if not torch.isfinite(weight).all():
            broken.append(name)
    if broken:
        raise ValueError(
            f"{len(broken)} weights hold NaN or infinity, {min(broken)} first; train the head again"
        )
    # A whole vocabulary has no map.
    if head.config.draft_vocab_size < head.config.vocab_size:
        # `draft_to_target` is read from d2t, so only t2d can differ.
        _, t2d = vocabulary_buffers(head.draft_to_target, head.config.vocab_size)
        if not torch.equal(t2d, head.t2d):
            raise ValueError(
                "d2t and t2d name different tokens; call head.set_draft_vocabulary(target_ids)"
            )


def check_target(config: Eagle3Config, target: PretrainedConfig | None) -> None:
    """Raise a ValueError for a head that was made for another target than this config's."""
    if target is None:
        return
    text = target.get_text_config()
    ours = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.target_hidden_size,
        "num_hidden_layers": (config.eagle_hf or {}).get("target_num_hidden_layers"),
    }
    wrong = []
    for name, value in ours.items():
        theirs = getattr(text, name)
        if value and theirs != value:
            wrong.append(f"its {name} is {theirs}, not {value}")
    if wrong:
        raise ValueError(
            f"this is not the head's target: {'; '.join(wrong)}; name its own, or, where its "
            "embeddings were resized, give their size: vocab_size"
        )
