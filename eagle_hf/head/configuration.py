"""What a draft head is made of: `Eagle3Config`.

In memory and on disk the config is a Llama config, because vLLM, SGLang and llama.cpp parse that.
What only eagle_hf needs lies under the one key `eagle_hf`, which the engines ignore.
"""

from dataclasses import asdict, fields
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaConfig

from eagle_hf.head.acceptance import Acceptance
from eagle_hf.head.dialects import recognise, translate_config
from eagle_hf.head.layouts import LAYER_IDS_KEY, engine_config, foreign_layer_ids
from eagle_hf.head.target_settings import say_activation, shared_settings, target_size
from eagle_hf.head.trees import TreeConfig

OWN_FIELDS = ("draft_vocab_size", "fc_norm", "norm_output", "norm_before_residual", "eagle_hf")
SINKS = 4  # first tokens that a window keeps (StreamingLLM, arXiv 2309.17453, section 3.2)


def default_aux_layer_ids(num_hidden_layers: int) -> list[int]:
    """Return the layers whose inputs EAGLE-3 reads, as HF `hidden_states` indices.

    Args:
        num_hidden_layers: Layers of the target, n.

    Returns:
        `[2, n // 2, n - 3]`, what the EAGLE repository and all engines take.

    Raises:
        ValueError: The target has fewer than three layers.
    """
    n = num_hidden_layers
    if n < 3:
        raise ValueError(
            f"the target has {n} layers; EAGLE-3 reads three of its streams and needs at least "
            "3 layers"
        )
    return [min(2, n - 1), n // 2, max(n - 3, 0)]


def check_window(window: tuple[int, int] | None) -> None:
    """Check what a draft KV cache keeps of a text.

    Args:
        window: (sinks, newest tokens), or None for all of it.

    Raises:
        ValueError: It is neither.
    """
    if window is None:
        return
    are_counts = len(window) == 2 and all(type(count) is int for count in window)
    if not are_counts or not 0 <= window[0] < window[1]:
        raise ValueError(
            f"window is {window!r}; give None, or (sinks, newest tokens) with fewer sinks than "
            "tokens"
        )


@strict
class Eagle3Config(LlamaConfig):
    """Configuration of an EAGLE-3 draft head (arXiv 2503.01840); `from_target` fills it in.

    Args:
        vocab_size: Tokens of the *target's* vocabulary.
        draft_vocab_size: Tokens that the head can propose, the rows of its LM head. Default: all.
        target_hidden_size: Width of one aux hidden state and of the target's embeddings. It
            equals `hidden_size`.
        num_aux_hidden_states: How many layers of the target the head reads.
        norm_before_residual: Start the residual stream from the normed state, as speculators
            does by default. SGLang ignores it.
        norm_before_fc: Not implemented, and refused.
        fc_norm: Apply an RMSNorm to each aux hidden state before `fc` (EAGLE-3.1).
        norm_output: Feed the normed output to the next pass (EAGLE-3.1).
        eagle_config: What the engines read there; always rewritten.
        eagle_hf: aux_layer_ids, target_num_hidden_layers, trained_length, tree, window and
            acceptance.
        num_hidden_layers: Always 1.

    Raises:
        ValueError: No head can be built like this.
    """

    draft_vocab_size: int | None = None
    target_hidden_size: int | None = None
    num_aux_hidden_states: int = 3
    norm_before_residual: bool = False
    norm_before_fc: bool = False
    fc_norm: bool = False
    norm_output: bool = False
    eagle_config: dict[str, Any] | None = None
    eagle_hf: dict[str, Any] | None = None
    num_hidden_layers: int = 1

    def __post_init__(self, **kwargs) -> None:
        self.draft_vocab_size = self.draft_vocab_size or self.vocab_size
        self.target_hidden_size = self.target_hidden_size or self.hidden_size
        self.eagle_hf = dict(self.eagle_hf or {})
        ids = foreign_layer_ids(kwargs.pop(LAYER_IDS_KEY, None), self.eagle_config)
        if ids is not None:
            self.eagle_hf.setdefault("aux_layer_ids", ids)
        # a foreign table holds more, which is translated by now or not ours to write
        self.eagle_config = {"use_aux_hidden_state": True}
        super().__post_init__(**kwargs)
        self._check(self.draft_vocab_size)

    def _check(self, draft_vocab_size: int) -> None:
        """Refuse what no head is built like."""
        if draft_vocab_size > self.vocab_size:
            raise ValueError(
                f"draft_vocab_size is {draft_vocab_size} but the target's vocabulary has "
                f"{self.vocab_size} tokens; lower it"
            )
        if self.hidden_size != self.target_hidden_size:
            raise ValueError(
                f"hidden_size is {self.hidden_size} but target_hidden_size is "
                f"{self.target_hidden_size}; "
                "the head reads the target's embeddings, so both must be the target's width"
            )
        if self.num_hidden_layers != 1:
            raise ValueError(
                f"num_hidden_layers is {self.num_hidden_layers}; an EAGLE-3 head has exactly one "
                "layer"
            )
        if self.norm_before_fc:
            raise ValueError(
                "norm_before_fc is set; this variant is not implemented, use fc_norm (EAGLE-3.1) "
                "instead"
            )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Read the config.json of any dialect (see dialects).

        Args:
            config_dict: The parsed file.
            kwargs: As in `PreTrainedConfig.from_dict`.

        Raises:
            ValueError: It describes no head.
        """
        try:
            ours = translate_config(config_dict, recognise(config_dict, ()))
            return super().from_dict(ours, **kwargs)
        except StrictDataclassError as error:
            raise ValueError(
                f"this config.json describes no head that can be built: {error}"
            ) from error

    @classmethod
    def from_target(
        cls, target, draft_vocab_size: int | None = None, **overrides
    ) -> "Eagle3Config":
        """Make a head config for a target (see target_settings.py).

        The activation is silu, whatever the target's: engines serve no other.

        Args:
            target: A model or its config.
            draft_vocab_size: Tokens that the head can propose. Default: the whole vocabulary.
            overrides: Other settings. `eagle_hf` is merged with the one made here.

        Raises:
            ValueError: The target has fewer than three layers, or no width that a head can share,
                or there is no such setting.
        """
        config = getattr(target, "config", target).get_text_config()
        values = shared_settings(config)
        if "hidden_act" not in overrides:
            say_activation(config)

        layers = target_size(config, "num_hidden_layers")
        extras: dict[str, Any] = {
            "aux_layer_ids": default_aux_layer_ids(layers),
            "target_num_hidden_layers": layers,
        }
        extras.update(overrides.pop("eagle_hf", {}))

        known = {field.name for field in fields(cls)} | {"attn_implementation"}
        unknown = sorted(set(overrides) - known)
        if unknown:
            raise ValueError(
                f"Eagle3Config has no setting {', '.join(unknown)}; LlamaConfig's are known, and "
                f"{', '.join(OWN_FIELDS)}"
            )
        values.update(overrides)
        return cls(draft_vocab_size=draft_vocab_size, eagle_hf=extras, **values)

    def _setting(self, name: str, default: Any = None) -> Any:
        """One of the settings under `eagle_hf`."""
        return (self.eagle_hf or {}).get(name, default)

    def _set_setting(self, name: str, value: Any) -> None:
        # a new dictionary: copies of a config share the old one
        self.eagle_hf = {**(self.eagle_hf or {}), name: value}

    @property
    def aux_layer_ids(self) -> list[int] | None:
        """HF `hidden_states` indices the head was trained on; None where a head does not say."""
        return self._setting("aux_layer_ids")

    @property
    def tree(self) -> TreeConfig:
        """How drafts are shaped, unless `generate` is given another tree."""
        settings = self._setting("tree", {})
        known = [field.name for field in fields(TreeConfig)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ValueError(
                f"the head's tree settings hold {unknown}; known are {', '.join(known)}"
            )
        return TreeConfig(**settings)

    @tree.setter
    def tree(self, tree: TreeConfig) -> None:
        if not isinstance(tree, TreeConfig):
            raise ValueError(f"tree is {tree!r}; give an eagle_hf.TreeConfig")
        settings = asdict(tree)
        written = {name: value for name, value in settings.items() if value is not None}
        self._set_setting("tree", written)

    @property
    def acceptance(self) -> Acceptance | None:
        """How often the head's drafts are accepted, where that was measured."""
        saved = self._setting("acceptance")
        if saved is None:
            return None
        try:
            return Acceptance(**saved)
        except TypeError as error:
            raise ValueError(
                f"the head's acceptance is {saved!r:.80}; needed are shares, slopes and offsets "
                f"({error})"
            ) from error

    @acceptance.setter
    def acceptance(self, acceptance: Acceptance) -> None:
        self._set_setting("acceptance", asdict(acceptance))

    @property
    def window(self) -> tuple[int, int] | None:
        """(sinks, newest tokens) of a text that the draft KV cache keeps; None keeps all of it.

        By default they add up to the longest conversation that the head was trained on: full
        attention decays beyond that length.
        """
        trained = self._setting("trained_length", 0)
        default = (SINKS, trained - SINKS) if trained > 2 * SINKS else None
        window = self._setting("window", default)
        return None if window is None else tuple(window)

    @window.setter
    def window(self, window: tuple[int, int] | None) -> None:
        check_window(window)
        self._set_setting("window", None if window is None else list(window))

    def to_dict(self) -> dict[str, Any]:
        """The dictionary that is saved, in the layout that the engines load."""
        return engine_config(super().to_dict())

    def to_diff_dict(self) -> dict[str, Any]:
        """As `to_dict`, without transformers' own defaults."""
        return engine_config(super().to_diff_dict())
