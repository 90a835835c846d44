"""A page on another origin, in a real browser: it submits, follows, loses the line, and goes on.

page.html   the page: it calls the API by fetch, and reports what it saw to where it came from
site        the origins that serve it, and the reports that come back
play        a deployment, the browser, and what was seen

`python -m tests.browser` runs it once and prints each step. The test runs with the Chromium that is
installed, if there is one; Debian's package is `chromium`.
"""
