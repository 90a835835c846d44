"""Periodic work of the workers, one chore a file; arq's cron starts them, once a slot in all.

rota    the chores as arq calls them, and whose slot it is
forget  delete the files of sessions that were deleted
recount count again what accounts store
trim    forget function libraries that no process has used for a day
"""
