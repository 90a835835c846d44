"""The local system's parts: state folder, child processes, supervisor, system."""
