"""`pollux credits`: shows, grants and takes back an account's credits, and lists its ledger."""

from typing import Annotated, Final

from cyclopts import App, Parameter
from cyclopts.validators import Number

from deploy import stores
from deploy.keys import microcredits
from deploy.options import FOLDER, RunningFolder, examples
from deploy.output import print_line
from shared.clock import iso
from shared.stores.accounts import Accounts
from shared.stores.ledger import TimedEntry
from shared.wire.account import MICROCREDITS_PER_CREDIT, Account

app: Final = App(
    name="credits",
    help="Show, grant and take back an account's credits.",
    help_format="markdown",
    help_epilogue=examples(
        "pollux credits grant acme 500",
        "pollux credits revoke acme 20",
        "pollux credits ledger acme --limit 5",
    ),
)


@app.command
async def show(account: str, /, *, folder: RunningFolder = FOLDER) -> None:
    """Show an account's credits: available, held for unfinished generations, and spent.

    Args:
        account: The account's name.

    """
    async with stores.open_accounts(folder) as accounts:
        await _print_balance(accounts, await accounts.load(account))


@app.command
async def grant(account: str, credits: float, /, *, folder: RunningFolder = FOLDER) -> None:  # noqa: A002  the unit
    """Add credits to an account.

    Args:
        account: The account's name.
        credits: How many to add.

    """
    async with stores.open_accounts(folder) as accounts:
        owner = await accounts.load(account)
        await accounts.grant(owner, microcredits(credits))
        await _print_balance(accounts, owner)


@app.command
async def revoke(account: str, credits: float, /, *, folder: RunningFolder = FOLDER) -> None:  # noqa: A002  the unit
    """Take back available credits from an account.

    Args:
        account: The account's name.
        credits: How many to take back; refused if fewer are available.

    """
    async with stores.open_accounts(folder) as accounts:
        owner = await accounts.load(account)
        await accounts.grant(owner, -microcredits(credits))
        await _print_balance(accounts, owner)


@app.command
async def ledger(
    account: str,
    /,
    *,
    limit: Annotated[int, Parameter(validator=Number(gte=1))] = 20,
    folder: RunningFolder = FOLDER,
) -> None:
    """List an account's grants and charges, newest first.

    Args:
        account: The account's name.
        limit: How many entries to list.

    """
    async with stores.open_accounts(folder) as accounts:
        for timed_entry in await accounts.ledger(await accounts.load(account), limit):
            _print_entry(timed_entry)


def _print_entry(timed_entry: TimedEntry) -> None:
    entry = timed_entry.entry
    amount = entry.amount if entry.kind == "grant" else -entry.amount
    about = " ".join(filter(None, (entry.generation, entry.model)))
    if entry.overrun:
        about += f" (cost {entry.overrun / MICROCREDITS_PER_CREDIT:f} more than was held)"
    print_line(
        f"{iso(timed_entry.at)}  {amount / MICROCREDITS_PER_CREDIT:>+16.6f}  {about}".rstrip()
    )


async def _print_balance(accounts: Accounts, account: Account) -> None:
    credit_totals = await accounts.credit_totals(account)
    for word, amount in (
        ("available", credit_totals.balance),
        ("held", credit_totals.held),
        ("spent", credit_totals.settled),
    ):
        print_line(f"{word + ':':<11}{amount / MICROCREDITS_PER_CREDIT:>16.6f}")
