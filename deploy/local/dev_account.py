"""The account `dev` of a local system, and the API key that `pollux up` prints for it.

The key is stored in the state folder, so that it stays the same after a restart. A new one is
created if Redis does not know the stored key, for instance after a move to another Redis.
"""

from typing import Final

import msgspec

from deploy.local.state_folder import StateFolder
from shared.stores.accounts import Accounts
from shared.wire.account import DEFAULT_SCOPES, MICROCREDITS_PER_CREDIT

_ACCOUNT: Final = "dev"
_CREDITS: Final = 1_000


async def ensure_key(folder: StateFolder, accounts: Accounts) -> str:
    """Return a valid key of the account `dev`; create the key, and the account, if needed."""
    saved_key = folder.secrets.api_key
    if saved_key is not None:
        authenticated = await accounts.authenticate(saved_key)
        if authenticated is not None and authenticated[0].revoked is None:
            return saved_key
    account = await accounts.create(_ACCOUNT, "enterprise")
    if (await accounts.credit_totals(account)).granted == 0:
        await accounts.grant(account, _CREDITS * MICROCREDITS_PER_CREDIT)
    new_key = await accounts.create_key(account, DEFAULT_SCOPES)
    folder.save_secrets(msgspec.structs.replace(folder.secrets, api_key=new_key.key))
    return new_key.key
