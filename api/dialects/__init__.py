"""The public APIs, one folder for each dialect: dialect, routes, wire, translate.

kolbo    /api/v1, and again below /api/api/v1, which the published sample clients call
kombify  /v1/ai

A dialect's words stay in its folder. It works through accept, polling, follow and resources.
"""
