"""Periodic work of the workers.

arq's cron starts each chore once per time slot in the whole fleet. Batches are looked after too
often for jobs of arq, which cost far more than a look: a loop of each worker does it.

schedule  The chores as arq calls them, their times, and which worker takes a slot
batches   Looks after batches that nobody works on
forget    Deletes the files and turns left of deleted sessions
recount   Recounts the bytes that accounts store
trim      Deletes function libraries that no process has used for a day
"""
