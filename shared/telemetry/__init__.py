"""What the processes tell about themselves. Prompts, answers and keys are never among it."""
