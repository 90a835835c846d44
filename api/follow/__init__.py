"""How a generation is followed: by waiting for it, and as a stream of its events.

Any number of followers, in any process, through any dialect. Whoever follows, stops or vanishes
changes nothing for the generation.

subscriber   the process' one connection that hears what workers publish
ring         the last events of one generation, encoded once for all
wait         a generation as soon as it is as awaited
told         what followers are told that the stream does not keep: its beginning and its end
"""
