"""The steps of a generation: verbs, one a file, each `async def <verb>(run) -> Outcome | None`.

read      decode what was asked
recall    read the conversation so far
enhance   have an unclear message reworded, if it may be
choose    decide which model answers
look      fetch the pictures that came with the message
search    search the web for a model that does not
generate  call it and stream what it says
settle    end the generation with what came of it

Beside them, what a step stands on:

charge     what is due for what was shown
fit        a conversation cut to a window, whole turns at a time
hear       what one upstream call says, within its time limits
patience   what a failed call comes to, decided without waiting
rewording  what a model is asked that rewords a message, and whether it did
"""
