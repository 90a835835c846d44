"""A message becomes a queued generation, or a rejection that says when to retry.

accept         Holds credits for a message and enqueues it, in one Redis call
intent         What a caller asks for, in no dialect's words
pricing        What an answer may cost before its model is known, and why no model can give it
options        The body fields that every dialect shares, checked and made into an Intent
rejections     From the reason that Redis gives to an error with its code and Retry-After
load_shedding  Load and completion rate of each partition, for admission and Retry-After
"""
