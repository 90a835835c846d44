"""Whether an upstream is called at all, and what follows when a call fails."""
