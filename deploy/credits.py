"""`pollux credits`: show and grant what an account may spend."""

import sys
from typing import Final

from cyclopts import App

from deploy import store
from deploy.keys import microcredits
from deploy.options import FOLDER, RunningFolder
from shared.errors import Code, RequestError
from shared.stores.accounts import MICROCREDITS, Accounts
from shared.wire.account import Account

app: Final = App(
    name="credits", help="Show and grant an account's credits.", help_format="plaintext"
)


@app.command
async def show(account: str, /, *, folder: RunningFolder = FOLDER) -> None:
    """Show an account's credits: what it may spend, what is held for work under way, what is spent.

    Args:
        account: The account's name.

    """
    async with store.accounts(folder) as accounts:
        await _print_books(accounts, await _load(accounts, account))


@app.command
async def grant(account: str, credits: float, /, *, folder: RunningFolder = FOLDER) -> None:  # noqa: A002  the unit
    """Add credits to an account.

    Args:
        account: The account's name.
        credits: How many to add.

    """
    async with store.accounts(folder) as accounts:
        owner = await _load(accounts, account)
        await accounts.grant(owner, microcredits(credits))
        await _print_books(accounts, owner)


async def _load(accounts: Accounts, name: str) -> Account:
    account = await accounts.find(name)
    if account is None:
        raise RequestError(f"There is no account {name}.", Code.NOT_FOUND)
    return account


async def _print_books(accounts: Accounts, account: Account) -> None:
    books = await accounts.books(account)
    for word, amount in (
        ("available", books.balance),
        ("held", books.held),
        ("spent", books.settled),
    ):
        sys.stdout.write(f"{word + ':':<11}{amount / MICROCREDITS:>16.6f}\n")
