"""Who speaks in a conversation, and in which order roles may follow each other."""

from collections.abc import Mapping, Sequence
from typing import Any

# Other datasets' names for a role.
ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
}

# Which roles may stand directly before a role; None is the beginning.
MAY_FOLLOW: dict[str, tuple[str | None, ...]] = {
    "system": (None,),
    "user": (None, "system", "assistant"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


def read_role(message: Mapping[str, Any]) -> object:
    """The role of a role/content or from/value message, by the name that chat templates know.

    Args:
        message: as found in a file or dataset.

    Returns:
        The role; anything may stand there.
    """
    role = message.get("role") or message.get("from")
    if isinstance(role, str):
        return ROLES.get(role, role)
    return role


def check_order(roles: Sequence[object]) -> None:
    """Refuse roles that no chat has in this order.

    Args:
        roles: of the messages, as `read_role` gives them.

    Raises:
        ValueError: an unknown role, or one that cannot follow the one before it.
    """
    before = None
    for number, role in enumerate(roles):
        if not isinstance(role, str) or role not in MAY_FOLLOW:
            raise ValueError(
                f"message {number} is of role {role!r}; the roles are {', '.join(MAY_FOLLOW)}"
            )
        if before not in MAY_FOLLOW[role]:
            place = f"follows {before!r}" if before else "comes first"
            raise ValueError(
                f"message {number} of role {role!r} {place}; "
                "needed is system first if at all, then user and assistant in turn"
            )
        before = role
