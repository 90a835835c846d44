"""A message becomes a queued generation, or a rejection that says when to retry.

accept            Prices a message, holds credits, enqueues it, in one Redis call
options           The fields of a body that every dialect shares
rejections        The reason that Redis gives becomes an error, its code and Retry-After
load_shedding     Load and completion rate of a partition, for Retry-After
"""
