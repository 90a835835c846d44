"""Logs. Prompts, answers and keys are never logged.

sanitize       Makes texts of others safe for a log line: control characters, keys, long paths
logs           The format and the context of a log line, for structlog and the standard library
throttled_log  Logs a fault that affects every call once a minute
sink           Standard error behind a bounded buffer: a blocked log blocks no request
"""
