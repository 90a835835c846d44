"""The whole system on one machine, as child processes of one supervisor.

system             Decides what is embedded, starts every process and waits until all are ready
operator_settings  Reads which Redis and models the operator configured: these are not embedded
child_processes    Command, environment and readiness check of the API, the workers and the model
valkey             The embedded Valkey server as a child process
model              Program that serves the local model
catalogue          Settings file for the local model, and the path of the shipped catalogue
dev_account        The account `dev` and the API key that `pollux up` prints
state_folder       The folder that outlives a restart: lock, secrets, logs, running.json
network            Finds a free port, and builds the URL of a listener
supervisor         Starts children in order, restarts them, stops them in reverse order
janitor            Program that kills and removes what is left once the supervisor is gone
erase              Program that deletes every key of a prefix from the operator's Redis
shutdown           Runs work until it is done, a signal arrives or the parent process is gone
progress           Prints progress lines, and one live line, while the system starts
"""
