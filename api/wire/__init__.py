"""Fields and links that the replies of every dialect share.

fields            Types of fields
links             URLs of a generation
"""
