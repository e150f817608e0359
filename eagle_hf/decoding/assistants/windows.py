"""What language models that draft have in common: their window, and their chain."""

from eagle_hf.compat import attention_implementation
from eagle_hf.decoding.assistants.rope_support import check_sinks
from eagle_hf.decoding.probing import check_drafting_trees
from eagle_hf.decoding.support import check_kind
from eagle_hf.decoding.window import Window
from eagle_hf.head.trees import TreeConfig
from eagle_hf.target import unwrap
from eagle_hf.target.quantised import finish_loading


def make_window(sinks: int, window: int, snapkv: int | None) -> Window:
    """The window of these settings; ValueError where they contradict each other."""
    if snapkv is None:
        return Window(sinks, window)
    return Window(snapkv, window, selected=True)


def describe(window: Window | None) -> str:
    """A window as it stands in the facts of saved plans."""
    if window is None:
        return "None"
    return f"Window(sinks={window.sinks}, width={window.width}, selected={window.selected})"


def chain_of(gamma: int) -> TreeConfig:
    """A chain of `gamma` drafts."""
    if not isinstance(gamma, int) or gamma < 1:
        raise ValueError(
            f"gamma is {gamma!r}; it counts the tokens drafted a round and must be 1 at least"
        )
    return TreeConfig("chain", depth=gamma)


def check_drafting(model, window: Window | None) -> None:
    """Raise a ValueError for a model that cannot draft trees, or not behind this window."""
    check_kind(model)
    finish_loading(model)
    check_drafting_trees(model)
    if window is None:
        return
    if not window.selected:
        check_sinks(model)
        return
    attention = attention_implementation(unwrap(model).config.get_text_config())
    if attention != "sdpa":
        name = type(unwrap(model)).__name__
        raise ValueError(
            f'snapkv reads the queries of "sdpa" attention and {name} has {attention!r}; '
            'load it with "sdpa"'
        )
