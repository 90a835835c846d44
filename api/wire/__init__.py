"""Fields and links that the replies of every dialect share.

fields  Types of fields, with their descriptions
links   The URLs of a generation
"""
