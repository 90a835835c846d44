"""Why a message was reworded or left alone: one word each, and the sentence that callers read.

A record keeps the word, and only where it follows from nothing else that is kept: what a message
itself tells (`trivial`, `clear`) is told from it again. Refuses to decide anything.
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
    "alone": "The message follows on others that can no longer be shown to the model that rewords.",
    "unserved": "The model that rewords was not to be had.",
    "room": "The model that rewords has no room for the message.",
    "slow": "The model that rewords did not answer in time.",
    "failed": "The model that rewords failed.",
    "empty": "The model that rewords said nothing.",
    "same": "The model that rewords left the message as it is.",
    "long": "The rewording was too long.",
    "refused": "The model that rewords refused to.",
    "changed": "The rewording did not keep all that must stay as it is.",
    "unpaid": "The rewording is longer than what was set aside for the answer pays for.",
}


def sentence(word: str) -> str:
    """Return what a word of a record means; one of a later version is told as it is."""
    return SENTENCES.get(word, word)
