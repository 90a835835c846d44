"""The faces of the API, one folder each: routes, wire (what goes over it), translate.

kolbo    /api/v1, and the same again under the doubled prefix that the published sample clients call
kombify  /v1/ai

A dialect's words stay in its folder. It reads and writes through accept, follow and the stores.
"""
