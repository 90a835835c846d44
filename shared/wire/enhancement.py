"""Why a message was or was not reworded: a word for each reason, and its sentence for callers.

A record keeps the word only where nothing else in it tells the reason: `trivial` and `clear` follow
from the message itself. Decides nothing.
"""

from typing import Final, Literal

Reason = Literal[
    "reworded",
    "off",
    "undecided",
    "ended",
    "as_written",
    "withheld",
    "trivial",
    "clear",
    "pictures",
    "alone",
    "unserved",
    "room",
    "slow",
    "failed",
    "empty",
    "same",
    "long",
    "refused",
    "changed",
    "unpaid",
]

SENTENCES: Final[dict[str, str]] = {
    "reworded": "The message was reworded to be clearer.",
    "off": "This deployment sends messages as they are written.",
    "undecided": "Not decided yet.",
    "ended": "The generation ended before its message could be reworded.",
    "as_written": "The message was sent as it was written.",
    "withheld": "The caller withheld the permission to reword the message.",
    "trivial": "The message is too short to be worded better.",
    "clear": "The message is clear as it is.",
    "pictures": "The message comes with pictures, which are not shown to the model that rewords.",
    "alone": "Earlier messages can no longer be shown to the model that rewords.",
    "unserved": "The model that rewords was not available.",
    "room": "The model that rewords has no room for the message.",
    "slow": "The model that rewords did not answer in time.",
    "failed": "The model that rewords failed.",
    "empty": "The model that rewords returned nothing.",
    "same": "The model that rewords left the message as it is.",
    "long": "The rewording was too long.",
    "refused": "The model that rewords refused the message.",
    "changed": "The rewording changed something that must stay as it is.",
    "unpaid": "The rewording is longer than the credits held for the answer pay for.",
}


def sentence(word: str) -> str:
    """Return the sentence for a record's word; a word of a later version is returned as it is."""
    return SENTENCES.get(word, word)
