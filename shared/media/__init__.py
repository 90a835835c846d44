"""Pictures and sounds that models make: as files and as signed URLs.

formats      Which formats there are, detected by their first bytes
files        The files, named by their content, one folder for each session
url_signing  Signed URLs that expire
"""
