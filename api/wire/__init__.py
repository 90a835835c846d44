"""What the replies of several dialects share.

fields       Types of fields, with their descriptions
links        The URLs of a generation
error_reply  The refusals of operators' routes, and of paths below no dialect
"""
