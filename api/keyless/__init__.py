"""Routes that need no API key.

operations  What the server is, its health, its readiness, and the OpenAPI document
media       The files that models generated, under signed URLs
"""
