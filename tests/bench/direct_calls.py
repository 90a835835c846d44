"""A program that benches start: what a script of one's own does with a file of prompts.

Calls an upstream by `asyncio` and httpx, with a connection for each of `--at-once` tasks, and
writes a line with each answer. Prints the seconds and the CPU seconds of `--count` calls, after
some that open the connections.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from typing import Final, TextIO

import httpx
import uvloop

from tests.bench.batch_upload import prompt_lines
from tests.bench.peers import contract

_WARMING_CALLS: Final = 50


async def _main(url: str, count: int, at_once: int) -> None:
    limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    async with httpx.AsyncClient(limits=limits, trust_env=False) as client:
        with tempfile.TemporaryFile("w+") as sink:
            await _call_all(client, url, _WARMING_CALLS, at_once, sink)
            began, cpu = time.perf_counter(), time.process_time()
            await _call_all(client, url, count, at_once, sink)
            contract.print_line(time.perf_counter() - began, time.process_time() - cpu)


async def _call_all(
    client: httpx.AsyncClient, url: str, count: int, at_once: int, sink: TextIO
) -> None:
    prompts = prompt_lines(count)
    await asyncio.gather(*(_call_each(client, url, prompts, sink) for _ in range(at_once)))


async def _call_each(
    client: httpx.AsyncClient, url: str, prompts: Iterator[bytes], sink: TextIO
) -> None:
    """Take prompts until there are none left; all tasks share them."""
    for line in prompts:
        prompt = json.loads(line)
        body = {"model": "echo", "messages": [{"role": "user", "content": prompt["message"]}]}
        response = await client.post(url, json=body)
        response.raise_for_status()
        answer = response.json()["choices"][0]["message"]["content"]
        sink.write(json.dumps({"custom_id": prompt["custom_id"], "answer": answer}) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--at-once", type=int, required=True)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(arguments.url, arguments.count, arguments.at_once))
