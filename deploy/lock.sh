#!/bin/sh
# Resolve the dependencies anew and write deploy/requirements/: pinned, hashed, and free of addresses, so
# that they install from any index. The lock file itself names an index for each package, so it is not
# committed; `exclude-newer` in pyproject.toml makes two machines resolve alike.
set -eu
cd "$(dirname "$0")/.."

requirements() {
    uv export --quiet --frozen --no-emit-project --no-header --no-annotate \
        --format requirements.txt --output-file "deploy/requirements/$1" $2
}

mkdir -p deploy/requirements
uv lock
requirements base.txt --no-default-groups
requirements dev.txt "--no-default-groups --group dev"
requirements local.txt "--only-group local"

if grep -rnE '[a-z]+://' deploy/requirements; then
    echo "lock.sh: an address has got into deploy/requirements" >&2
    exit 1
fi
