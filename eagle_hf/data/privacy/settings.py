"""What is looked for, and what is done about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from eagle_hf.data.privacy.kinds import KINDS, NAME_KINDS

REDACT = "redact"  # a typed placeholder takes its place
DROP = "drop"  # the row is left out
REPORT = "report"  # counted only
ACTIONS = (REDACT, DROP, REPORT)

NAME_MODELS = ("rampart",)

# About 250,000 tokens. No rule takes more than some seconds for as much.
MOST_CHARACTERS = 1_000_000

# National phone numbers have no common form. They are tried as numbers of these countries.
PHONE_REGIONS = (
    "US", "GB", "DE", "FR", "ES", "IT", "NL", "BE", "PT", "PL", "SE", "CH", "AT", "IE",
    "BR", "MX", "AR", "IN", "CN", "JP", "KR", "AU", "NZ", "ZA", "NG", "TR", "RU", "ID",
)  # fmt: skip


@dataclass(frozen=True)
class PrivacySettings:
    """What is looked for, and what is done about it.

    Args:
        action: "redact" puts a typed placeholder such as `[EMAIL]` in its place, "drop" leaves
            the row out, "report" counts only.
        actions: other actions by kind, for example `{"private_key": "drop"}`.
        phone_regions: countries in whose forms national phone numbers are tried, as two letters.
        names: the model that finds names of persons and places: "rampart". Default: none, because
            it also touches many prompts without personal data.
        max_characters: a row with more text is left out, so that no row takes minutes.

    Raises:
        ValueError: an unknown action, kind, region or model, or a value of another type.
    """

    action: str = REDACT
    actions: Mapping[str, str] = field(default_factory=dict)
    phone_regions: tuple[str, ...] = PHONE_REGIONS
    names: str | None = None
    max_characters: int = MOST_CHARACTERS

    def __post_init__(self) -> None:
        _check_action(self.action)
        _check_actions(self.actions, self.names)
        _check_regions(self.phone_regions)
        if self.names is not None and self.names not in NAME_MODELS:
            raise ValueError(f"names is {self.names!r}; take one of {', '.join(NAME_MODELS)}")
        is_number = isinstance(self.max_characters, int)
        if not is_number or isinstance(self.max_characters, bool) or self.max_characters < 1:
            raise ValueError(
                f"max_characters is {self.max_characters!r}; a whole number of at least 1 is needed"
            )

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> Self:
        """Read settings from a mapping, such as a section of a YAML file.

        Args:
            values: the fields of `PrivacySettings` by name, lists where they have tuples. Fields
                that are not there have their defaults; None stands for an empty section.

        Returns:
            The settings.

        Raises:
            ValueError: a name that no field has, or a value that a field does not take.
        """
        if values is None:
            return cls()
        if not isinstance(values, Mapping):
            raise ValueError(
                f"the privacy settings are of type {type(values).__name__}; "
                "a mapping is needed, such as {'action': 'redact'}"
            )
        known = [one.name for one in fields(cls)]
        unknown = [str(name) for name in values if name not in known]
        if unknown:
            raise ValueError(
                f"no privacy setting is called {', '.join(unknown)}; take some of "
                f"{', '.join(known)}"
            )
        given = dict(values)
        if isinstance(given.get("phone_regions"), list):
            given["phone_regions"] = tuple(given["phone_regions"])
        return cls(**given)

    def action_for(self, kind: str) -> str:
        """What is done about a kind.

        Args:
            kind: one of `KINDS`.

        Returns:
            "redact", "drop" or "report".
        """
        return self.actions.get(kind, self.action)


def _check_action(action: object) -> None:
    """Refuse what is no action."""
    if action not in ACTIONS:
        raise ValueError(f"the action is {action!r}; take one of {', '.join(ACTIONS)}")


def _check_actions(actions: object, names: str | None) -> None:
    """Refuse actions for kinds that are not looked for."""
    if not isinstance(actions, Mapping):
        raise ValueError(
            f"actions is {actions!r}; a mapping is needed, such as {{'private_key': 'drop'}}"
        )
    for kind, action in actions.items():
        _check_action(action)
        if kind not in KINDS:
            raise ValueError(f"no kind is called {kind!r}; take one of {', '.join(KINDS)}")
        if kind in NAME_KINDS and names is None:
            raise ValueError(
                f"an action is set for {kind!r}, which only a model finds; "
                f"set names to one of {', '.join(NAME_MODELS)}"
            )


def _check_regions(regions: object) -> None:
    """Refuse what is no tuple of countries."""
    if not isinstance(regions, tuple):
        raise ValueError(
            f"phone_regions is {regions!r}; a list of countries is needed, such as ['DE', 'FR']"
        )
    for region in regions:
        # YAML reads NO as false.
        if not isinstance(region, str) or len(region) != 2 or not region.isupper():
            raise ValueError(
                f"the phone region is {region!r}; two capital letters are needed, such as 'DE', "
                "with quotes in YAML"
            )
