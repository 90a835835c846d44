"""The rows of all mounts by their prefixes, for tests that run over each of them."""

from typing import Final

from api.admin.dialect import OPERATORS
from api.app import DIALECTS

MOUNTS: Final = {dialect.prefixes[0]: dialect.endpoints for dialect in DIALECTS}
# Further prefixes below which a dialect answers alike.
DOUBLED_MOUNTS: Final = {
    prefix: dialect.endpoints for dialect in DIALECTS for prefix in dialect.prefixes[1:]
}
ADMIN_MOUNTS: Final = {OPERATORS.prefixes[0]: OPERATORS.endpoints}
