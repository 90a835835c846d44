"""A worker process with tools that a test directs by files.

__main__  The process, and its two tools
"""
