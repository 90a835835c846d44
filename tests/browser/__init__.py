"""A page of another origin in a real browser: it submits, follows, loses its stream, and resumes.

__main__    The command: runs the page once and prints its report
runner      A deployment, the browser, and what the page must have reported
site        The origins that serve the page, and the reports that it sends back

page.html is the page: it calls the API by fetch, and reports the results to its origin.
`python -m tests.browser` runs it once and prints each step. The test runs with the Chromium that is
installed, if there is one; Debian's package is `chromium`.
"""
