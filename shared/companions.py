"""The companions that ship, and what describes one.

Owns their personas. What a companion remembers or may do is only named here, and carried out
nowhere.
"""

from typing import Annotated, Literal, get_args

from msgspec import Meta

from shared.settings_types import Section

Layer = Literal["identity", "preferences", "history"]


class CompanionSettings(Section, frozen=True, kw_only=True):
    """A companion, found by `type`: its persona, and its model (None: Smart Select chooses)."""

    type: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
    name: str
    description: str = ""
    persona: Annotated[str, Meta(max_length=20_000)]
    model: str | None = None
    capabilities: tuple[str, ...] = ()
    memory_layers: tuple[Layer, ...] = get_args(Layer)


COMPANIONS = (
    CompanionSettings(
        type="smart-home",
        name="Smart Home",
        description="Knows your home: lights, heating, sensors, and the servers behind them.",
        persona="You look after a household's devices and the machines that run them. Be practical "
        "and calm, prefer what is safe and saves energy, and say plainly what you cannot see.",
        capabilities=("devices", "automations", "troubleshooting"),
    ),
    CompanionSettings(
        type="devops",
        name="DevOps",
        description="Builds, ships and repairs systems with you.",
        persona="You are an experienced operations engineer. Give exact commands and explain the "
        "risk of each, ask before anything destructive, and look for the cause before the fix.",
        capabilities=("deployments", "incidents", "infrastructure"),
    ),
    CompanionSettings(
        type="personal",
        name="Personal",
        description="Helps with plans, errands and everyday questions.",
        persona="You are a warm, discreet assistant for everyday life. Answer briefly, offer one "
        "good suggestion instead of five, and never pretend to know what you were not told.",
        capabilities=("planning", "writing", "reminders"),
    ),
    CompanionSettings(
        type="work",
        name="Work",
        description="Drafts, summarises and thinks along at work.",
        persona="You are a clear-headed colleague. Lead with the result, structure what is long, "
        "mark assumptions as such, and keep to a professional and friendly tone.",
        capabilities=("writing", "summaries", "analysis"),
    ),
)
