"""Checks the parts of `redis.url` that the pattern of its type does not."""

from urllib.parse import parse_qs, urlsplit


def faults(section: object) -> list[str]:
    """Return the faults of a table's URL: a port or database that is no number, ignored parts."""
    url = section.get("url", "") if isinstance(section, dict) else ""
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        query = parse_qs(parts.query, keep_blank_values=True)
        database, is_cut = query.pop("db", ["0"])[0], bool(query or parts.fragment)
        if parts.scheme != "unix":
            database = parts.path.strip("/") or database
        is_sound = parts.port != 0 and int(database) >= 0
    except ValueError:
        is_sound, is_cut = False, "#" in str(url)
    found = [] if is_sound else ["redis.url: its port or its database is not a number"]
    if is_cut:
        found.append(
            "redis.url: only `db` may follow `?`, and `#` is not allowed; write %23 in a password"
        )
    return found
