"""A living head: it learns from a service's log, and a better version replaces it.

    log --reading--> pool --choosing--> learnt, replayed, held out
                                            |
    current --learning--> candidate --judging--> published, or not: the next cycle begins again

Every step can be killed at any moment; the next call goes on where it was.
"""

from eagle_hf.following.follower import follow
from eagle_hf.following.settings import FollowSettings

__all__ = ["FollowSettings", "follow"]
