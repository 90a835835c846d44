#!/bin/sh
# Writes deploy/requirements/: the dependencies of pyproject.toml, pinned and hashed, without addresses, so
# that they install from any index. A lock file names an index for each package, so none is committed.
#
# A version that is pinned already is kept as long as pyproject.toml allows it, even if a newer one exists, so
# two machines write the same files. `deploy/lock.sh --upgrade` takes the newest within `exclude-newer`.
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
    echo "lock.sh: deploy/requirements contains an address" >&2
    exit 1
fi
