"""Tests of `deploy`: the command line, the image, and the whole system on one machine.

accounts, config, credits, dead_letters, keys, models, provider_check, prices and redis_repair are
each tried in the test file of that name.

scripted_api        A scripted API on a real socket, for `pollux ask` and `config check --try`
compose_file        deploy/compose.yaml with its variables replaced, as docker compose does it
supervisor_program  Program: a supervisor over idle children, for tests that kill it
local               Tests of the local system: state folder, children, supervisor, `up`, `demo`
"""
