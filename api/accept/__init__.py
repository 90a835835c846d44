"""A message becomes a queued generation, or a rejection that says when to retry.

accept         Prices a message, holds credits and enqueues it, in one Redis call
options        The body fields that every dialect shares, checked and made into an Intent
rejections     From the reason that Redis gives to an error with its code and Retry-After
load_shedding  Load and completion rate of each partition, for admission and Retry-After
"""
