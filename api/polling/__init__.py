"""When a client polls next, and the end of what is overdue at a poll.

eta         Poll hints and ETA from the measured durations of a model
poll_plan   The best times to poll where durations do not predict the end
queue_wait  How long until a queued turn begins
hints       The hint of a receipt; the hint and ETA of a generation
batch_item  An item of a batch as a generation, while there is no record of it
batch_pace  How fast the items of a batch end: rate, ETA, forecast, hint
overdue     Finds or cancels a generation, and ends one that is past its deadline
"""
