#!/bin/sh
# Write deploy/requirements/: what pyproject.toml asks for, pinned, hashed, and free of addresses, so that
# it installs from any index. A lock file would name an index for each package, so none is committed.
#
# What stands there already stays as it is, as long as pyproject.toml allows it, whatever an index has got
# since: two machines write the same. `deploy/lock.sh --upgrade` takes the newest within `exclude-newer`.
set -eu
cd "$(dirname "$0")/.."

requirements() {
    file="$1"
    shift
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --output-file "deploy/requirements/$file" "$@"
}

mkdir -p deploy/requirements
requirements base.txt pyproject.toml "$@"
requirements dev.txt pyproject.toml --group dev "$@"
requirements local.txt --group local "$@"
requirements build.txt --group build "$@"

if grep -rnE '[a-z]+://' deploy/requirements; then
    echo "lock.sh: an address has got into deploy/requirements" >&2
    exit 1
fi
