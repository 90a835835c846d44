"""Routes that need no API key.

operations        Health, readiness and the document
media             Files under signed URLs
"""
