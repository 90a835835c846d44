# /// script
# requires-python = ">=3.11"
# dependencies = ["litellm[proxy] >=1.106"]
# [tool.uv]
# exclude-newer = "2026-11-20T00:00:00Z"
# ///
"""LiteLLM's proxy before an upstream of the OpenAI kind: no database, no cache, no logs.

`--upstream URL --port PORT`; serves `/v1/chat/completions` with the model `scripted` until its
standard input ends.
"""

import argparse
import tempfile
from typing import Final

from litellm import run_server

from tests.bench.peers import contract

_CONFIG: Final = """
model_list:
  - model_name: scripted
    litellm_params: {model: openai/scripted, api_base: "UPSTREAM", api_key: none}
litellm_settings: {telemetry: false, set_verbose: false}
"""


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--port", required=True)
    arguments = parser.parse_args()
    contract.end_with_stdin()
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(_CONFIG.replace("UPSTREAM", arguments.upstream))
        file.flush()
        words = ["--config", file.name, "--host", "127.0.0.1", "--port", arguments.port]
        run_server([*words, "--num_workers", "1"], standalone_mode=False)


if __name__ == "__main__":
    main()
