"""What models make and callers are shown: pictures and sounds, as files and as URLs.

kinds   which kinds there are, told by their first bytes
files   the files, named by their content, a folder for each session
seal    the URLs: signed, and good for some time
"""
