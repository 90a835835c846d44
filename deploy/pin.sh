#!/bin/sh
# Pins the images of compose.yaml: writes NAME_IMAGE=repository:tag@digest for each of them into deploy/.env,
# which docker compose reads. From then on these exact images are built on and run.
#
# `docker buildx imagetools inspect` asks the registries for the digests. Run this again to move to newer images
# of the same tags. Other lines of deploy/.env are kept. Without NAME_IMAGE lines the tags are used.
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
