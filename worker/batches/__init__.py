"""What a worker does for batches beside their items, which are generations like any other.

work    Feeds the queue and packs chunks, when a settlement or a regular look asks for it
packer  Replaces a chunk's generations by their packed results
"""
