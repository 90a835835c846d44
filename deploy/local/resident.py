"""The resident account `dev` of a local system, and the key that is printed for it.

The key is kept in the data folder, so that it is the same after a restart; it is made anew when the
store does not know it, as after a change of Redis.
"""

from typing import Final

import msgspec

from deploy.local.folder import Folder
from shared.stores.accounts import MICROCREDITS, Accounts
from shared.wire.account import DEFAULT_SCOPES

_ACCOUNT: Final = "dev"
_CREDITS: Final = 1_000


async def key(folder: Folder, accounts: Accounts) -> str:
    """Return a good key of the account `dev`, in clear text."""
    kept = folder.secrets.api_key
    if kept is not None:
        found = await accounts.authenticate(kept)
        if found is not None and found[0].revoked is None:
            return kept
    account = await accounts.create(_ACCOUNT, "enterprise")
    if (await accounts.books(account)).granted == 0:
        await accounts.grant(account, _CREDITS * MICROCREDITS)
    made = await accounts.create_key(account, DEFAULT_SCOPES)
    folder.keep(msgspec.structs.replace(folder.secrets, api_key=made.key))
    return made.key
