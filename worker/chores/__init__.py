"""Periodic work of the workers, one chore a file; arq's cron starts them, once a slot in all.

trim   forget function libraries that no process has used for a day
"""
