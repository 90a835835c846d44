"""The records that cross a process or are stored in Redis, as msgspec Structs. No I/O.

submission     What a caller asks for, as the API stores it and a worker reads it
conversation   Messages of any role as lists of parts; tools, sampling, form of an answer
round          One entry of the log of a running answer: what its finished rounds are made of
generation     One answer being made, at the moment of a poll
message        A turn's two messages, as a session keeps them
enhancement    Why a message was or was not reworded
account_event  One event of an account's log, and its URL
event          One numbered event of a generation's stream
routing        Which model was chosen, and why
account        Accounts, API keys and credits
fleet          What each live worker reports
batch          Batches: their items while they wait, and their results, packed into chunks
batch_copies   The copies of a batch's items, as they are stored
webhook        An account's webhook, and its deliveries with their attempts
dead_letter    A failed generation that an operator can retry

Stored records ignore fields that they do not know and have defaults for those that they lack, so
old and new processes read each other's. `WIRE` (in submission) is raised when an old worker could
not do what a new API process asks.
"""
