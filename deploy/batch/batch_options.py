"""The options of a batch as the command line takes them, and as parameters of the upload."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import quote_plus

import msgspec
from cyclopts import Parameter

from deploy.options import Count
from shared.errors import Code, RequestError

# An upload's options are in its URL, and the API takes 16 KiB of URL and headers.
_SYSTEM_URL_BYTES_MAX: Final = 12_288
_CREDITS_MAX: Final = 1_000_000_000

Flag = Annotated[bool, Parameter(negative="")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """What all prompts of a batch have in common; a line of JSONL may say otherwise for itself.

    Attributes:
        model: Identifier of a model; by default Pollux chooses one for each prompt.
        system: System prompt.
        system_file: File with the system prompt, in UTF-8; the white space around it is left out.
        max_output_tokens: The most tokens of one answer.
        deep_think: Let models think before they answer.
        web_search: Let models search the web.
        dedupe: Answer identical prompts once, and charge once.
        on_invalid: `fail`: a line that is no valid prompt fails, and the others run. `reject`: then
            nothing runs, and the first 100 such lines are named.
        max_credits: Pause the batch when it has cost so much.
        webhook: URL to call when the batch has ended or is paused.
        metadata: NAME=VALUE, to find the batch again; may be given several times.

    """

    model: Annotated[str | None, Parameter(name=["--model", "-m"])] = None
    system: str | None = None
    system_file: Path | None = None
    max_output_tokens: Count | None = None
    deep_think: Flag = False
    web_search: Flag = False
    dedupe: Flag = False
    on_invalid: Literal["fail", "reject"] = "fail"
    max_credits: float | None = None
    webhook: str | None = None
    metadata: tuple[str, ...] = ()

    def named(self) -> dict[str, str | int]:
        """Return the parameters that change what is answered: a part of the batch's name."""
        for text in (self.model, self.system, self.webhook, *self.metadata):
            check_text(text or "")
        flags = {
            "deep_think": self.deep_think,
            "web_search": self.web_search,
            "dedupe": self.dedupe,
        }
        optional: dict[str, str | int | None] = {
            "model": self.model,
            "system_prompt": self._system_prompt(),
            "max_output_tokens": self.max_output_tokens,
            "on_invalid": None if self.on_invalid == "fail" else self.on_invalid,
        }
        return _set(optional) | {name: "true" for name, is_set in flags.items() if is_set}

    def _system_prompt(self) -> str | None:
        if self.system_file is None:
            return None if self.system is None else _checked_system("--system", self.system)
        if self.system is not None:
            raise RequestError(
                "--system and --system-file are two ways to say one thing.", Code.INVALID_FIELDS
            )
        try:
            text = self.system_file.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise RequestError(
                f"{self.system_file} cannot be read: {reason}.", Code.INVALID_FIELDS
            ) from None
        return _checked_system("--system-file", text)

    def unnamed(self) -> dict[str, str | int]:
        """Return the other parameters, with which the same batch may be asked for again."""
        check_limit(self.max_credits)
        metadata = dict(_pair(text) for text in self.metadata)
        return _set(
            {
                "max_credits": None if self.max_credits is None else f"{self.max_credits:.6f}",
                "webhook_url": self.webhook,
                "metadata": msgspec.json.encode(metadata).decode() if metadata else None,
            }
        )


def check_limit(max_credits: float | None) -> None:
    """Refuse a limit that no batch can have, such as `nan`. Raises RequestError."""
    if max_credits is not None and not 0 < max_credits <= _CREDITS_MAX:
        raise RequestError(
            f"--max-credits is more than 0 and at most {_CREDITS_MAX:,}.", Code.INVALID_FIELDS
        )


def check_text(text: str) -> None:
    """Refuse an argument that is not UTF-8. Raises RequestError."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError("An option is not UTF-8 text.", Code.INVALID_FIELDS) from None


def _checked_system(option: str, text: str) -> str:
    size = len(quote_plus(text))
    if size > _SYSTEM_URL_BYTES_MAX:
        raise RequestError(
            f"{option} takes {size:,} bytes in a URL, of {_SYSTEM_URL_BYTES_MAX:,}: put a longer "
            "one into the lines of a JSONL file, as `system_prompt`.",
            Code.INVALID_FIELDS,
        )
    return text


def _set(optional: dict[str, str | int | None]) -> dict[str, str | int]:
    return {name: value for name, value in optional.items() if value is not None}


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise RequestError(f"--metadata takes NAME=VALUE, not {text!r}.", Code.INVALID_FIELDS)
    return name, value
