"""Tests of `deploy`: the command line, the image, and the whole system on one machine.

The tests of a module are in the file of its name. test_image covers the Dockerfile, compose.yaml
and pin.sh; test_start_errors covers the errors that end a command before it starts a process.

scripted_api        A scripted API on a real socket, for `pollux ask` and `config check --try`
batch_command       Runs `pollux batch` as a process
record_batch        Program: records a session of `pollux batch` in a terminal as plain text
compose_file        deploy/compose.yaml with its variables replaced, as docker compose does it
supervisor_program  Program: a supervisor over idle children, for tests that kill it
local               Tests of the local system: state folder, children, supervisor, `up`, `demo`
"""
