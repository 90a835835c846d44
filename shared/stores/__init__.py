"""Typed reads and simple writes of what is in Redis, one module for each kind of record.

accounts             Accounts, their API keys and their credits
account_log          The events of an account, from a cursor on
ledger               An account's grants, charges and daily usage
idempotency_records  What the first request with an Idempotency-Key created
generations          A generation as a poll shows it
round_log            The finished rounds of an answer that is being made
batches              Batches, and the results of their items in both orders
batch_copies         The copies of a batch's items
sessions             Sessions, and their turns by page and as history
dead_letters         Lists, shows, retries and discards dead letters
fleet                Workers' reports, and what the live workers can do together
answer_durations     How long a model's last answers took
webhooks             An account's webhook, and its deliveries
partition_load       How busy a partition is, and how full its server
key_repair           Finds keys that something else has overwritten, and rebuilds the queues

Whatever must be atomic is a function in shared/redis, which the stores call. Every read takes the
account, so that one account never reads what belongs to another.
"""
