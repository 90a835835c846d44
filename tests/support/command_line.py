"""Command lines of tests that are programs: `--help` shows the docstring of the module."""

import argparse


def parser(program: str, docstring: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is a module's docstring, without its design notes."""
    text, _, _ = (docstring or "").partition("\n\nDESIGN.")
    return argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
