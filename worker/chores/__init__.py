"""Periodic work of the workers, one chore a file; arq's own cron starts them, once a slot in the whole fleet.

trim   forget function libraries that no process has used for a day
"""
