"""What the processes tell about themselves. Prompts, answers and keys are never among it.

clean   what a line may show of text that others wrote: no control characters, no key, no long path
logs    the format and the context of a line; structlog and the standard library end in one stream
seldom  what meets every call until an operator mends it, logged once a minute
sink    standard error behind a bounded buffer: a log that cannot be written holds nobody up
"""
