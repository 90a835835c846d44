"""A Python client of a document, as openapi-python-client makes it.

Owns the generator's command. The generator warns about a schema or an operation that it cannot
translate; `--fail-on-warning` makes that an error.
"""

import sys
from pathlib import Path
from typing import Final

import msgspec

from tests.generated import conversation
from tests.generated.conversation import Program

PACKAGE: Final = "pollux_client"
_PROGRAM: Final = Path(__file__).parent / "programs" / "chat.py"
# What api/README.md tells callers to configure, without the formatters: nobody reads the files.
_CONFIGURATION: Final = {
    "package_name_override": PACKAGE,
    "post_hooks": [],
    "content_type_overrides": {
        "application/jsonl": "application/json",
        "application/x-ndjson": "text/plain",
    },
}


async def generate(document: bytes, folder: Path) -> Path:
    """Generate a client of a document in a folder and return its package."""
    (folder / "openapi.json").write_bytes(document)
    (folder / "configuration.json").write_bytes(msgspec.json.encode(_CONFIGURATION))
    package = folder / PACKAGE
    await conversation.run([
        *(sys.executable, "-m", "openapi_python_client", "generate"),
        *("--path", folder / "openapi.json", "--config", folder / "configuration.json"),
        *("--output-path", package, "--meta", "none", "--fail-on-warning"),
    ])  # fmt: skip
    return package


def program(package: Path) -> Program:
    """Return the program that uses a client."""
    return Program([sys.executable, _PROGRAM], {"PYTHONPATH": str(package.parent)})
