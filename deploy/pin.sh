#!/bin/sh
# Pin the images of compose.yaml: write NAME_IMAGE=repository:tag@digest for each into deploy/.env, which
# docker compose reads by itself. What is built on and run is then what was looked up this once.
#
# The registries are asked, by `docker buildx imagetools inspect`. Run it again to move to what the tags name by
# then; without those lines the tags hold. Everything else in deploy/.env stays as it is.
set -eu
umask 077
cd "$(dirname "$0")"

digest() {
    docker buildx imagetools inspect "$1" | sed -n 's/^Digest: *\(sha256:[0-9a-f]\{64\}\) *$/\1/p' | sed -n 1p
}

fresh="$(mktemp .env.XXXXXX)"
trap 'rm -f "$fresh" "$fresh.tags"' EXIT
if [ -e .env ]; then
    grep -v '^[A-Z]*_IMAGE=' .env >"$fresh" || true
fi
# ${NAME_IMAGE:-repository:tag}, once each
sed -n 's/.*\${\([A-Z]*_IMAGE\):-\([^}]*\)}.*/\1 \2/p' compose.yaml | sort -u >"$fresh.tags"
while read -r name tag; do
    found="$(digest "$tag")"
    if [ -z "$found" ]; then
        echo "pin.sh: no digest was found for $tag" >&2
        exit 1
    fi
    echo "$name=$tag@$found" >>"$fresh"
done <"$fresh.tags"
mv "$fresh" .env
grep '^[A-Z]*_IMAGE=' .env
