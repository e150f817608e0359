"""Personal data and secrets in prompts and conversations: found by rules, redacted or left out.

filters     filter_prompts, filter_conversations, PrivacyFilter
settings    PrivacySettings, KINDS
result      PrivacyReport
"""

from eagle_hf.data.privacy.filtering import PrivacyFilter, filter_conversations, filter_prompts
from eagle_hf.data.privacy.kinds import KINDS
from eagle_hf.data.privacy.report import PrivacyReport
from eagle_hf.data.privacy.settings import PrivacySettings

__all__ = [
    "KINDS",
    "PrivacyFilter",
    "PrivacyReport",
    "PrivacySettings",
    "filter_conversations",
    "filter_prompts",
]
