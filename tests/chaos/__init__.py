"""Runs in which workers, fronts and Redis are killed, and checks that no client notices.

__main__           The command: one run under faults, and its table
batch_kills        Program: API processes, workers and Redis are killed while a batch runs
batch_api_kills    Its client: repeats what broke when the API process was killed
batch_run          A small batch that workers run while one of them dies
chat_clients       Clients that hold conversations through one front, and the receipts they got
checkouts          Fronts and workers of several checkouts on one Redis, as processes
cut_streams        Program: clients whose streams are cut, and what they have in the end
damaged_records    Program: messages beside one whose record was damaged
evidence           What clients were promised, what the upstream was asked, and samples of Redis
fault_run          A run under injected faults; `python -m tests.chaos --kills 1000 --seed 1`
fork_server        Program: imports the worker once, and forks one on each request
full_scenario      One scenario without processes in which everything happens once
invariants         Checks the evidence against Redis, invariant by invariant; knows no workload
listener_loss      Program: a worker whose listener is kept away while it runs long messages
log_sinks          Program: logs into a closed pipe, a full pipe and a full disk
mixed_clients      Clients of both dialects that call another front with each request
mixed_turns        Program: turns of every form while workers are killed
noisy_neighbour    Program: one account's messages break the upstream while another's run
planted_faults     Program: known faults, each of which the invariants must name
poison_messages    Program: messages that kill the worker which runs them
provider_limits    Program: a provider that takes few calls, or none for a while
records            Reads what Redis stores of each generation and account after a run
redis_call_deaths  Program: a worker dies before and after each of its Redis calls
redis_failures     Program: a table of Redis failures, and what clients see of each
redis_faults       Kills, hangs and outages of Redis during a run
sampler            Samples the unfinished generations: worker, attempt, stage
scene              What a run needs: a server, an upstream, settings, a pool of workers
tool_rounds        An upstream that calls tools, and workers that have them
torn_files         Program: append-only files cut in the middle, and what a server loads of them
upgrade            Program: two checkouts on one Redis, there and back
webhook_receivers  Program: receivers of webhooks that misbehave, and what becomes of deliveries
worker_pool        The workers that a fork server forked: starts, signals, exit codes

The invariants are separate from every workload, so that a mistake of a workload does not hide
itself.
"""
