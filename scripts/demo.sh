#!/usr/bin/env bash
# Loads about a million records of real text into a store and kills the loader with SIGKILL in the
# middle; looks for what was acknowledged; loads the rest, reads all of it back, overwrites a third,
# merges, and makes a backup. Every step is checked, by comparing with the input. What it needs is
# in a temporary directory, and goes with it.
#
# Usage: scripts/demo.sh [RECORDS]
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."
records=${1:-1000000}

cargo build --release --features cli
tailcask=${CARGO_TARGET_DIR:-target}/release/tailcask
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
store=$work/store

# Every line of the sources that Cargo has fetched and of Rust's own; then all files of the machine,
# with their sizes and dates, as far as they are found in 20 seconds. A tab stands between key and
# value; others, and backslashes, are escaped.
lines() {
    local cargo=${CARGO_HOME:-$HOME/.cargo}/registry/src rust
    rust=$(rustc --print sysroot 2>/dev/null || true)
    # shellcheck disable=SC2016 # awk's own variables
    find "$PWD/src" "$PWD/tests" "$cargo" "$rust/lib/rustlib/src" "$rust/share/doc" \
        -type f \( -name '*.rs' -o -name '*.md' -o -name '*.html' \) -print0 2>/dev/null |
        xargs -0 awk '{ print FILENAME ":" FNR "\001" $0 }'
    timeout 20 find / -xdev \( -path /proc -o -path /sys -o -path "$work" \) -prune -o \
        -type f ! -name $'*\n*' -printf '%p\001%s bytes, %T+\n' 2>/dev/null
    seq 100000 | awk '{ print "filler " $1 "\001value " $1 }'
}
make_input() {
    { lines || true; } 2>/dev/null | head -n "$records" |
        sed -e 's/\\/\\\\/g' -e 's/\t/\\t/g' -e 's/\r/\\r/g' -e 's/\x01/\t/' || true
}
# What the store holds is what is expected, byte for byte; both in the order of their keys.
export_sorted() { "$tailcask" export "$store" --format tsv | sort; }
same() {
    sort "$1" >"$work/expected"
    export_sorted >"$work/found"
    cmp "$work/expected" "$work/found"
    echo "   $(wc -l <"$work/found") pairs read back, byte for byte: sha256 $(sha256sum <"$work/found" | head -c 16)..."
}

make_input >"$work/input"
records=$(wc -l <"$work/input")
echo "== input: $records records, $(du -h "$work/input" | cut -f1): lines of sources, and files of this machine"
head -n 2 "$work/input" | cut -c -100 | sed 's/^/   /'

echo "== load, and SIGKILL in the middle"
mkfifo "$work/acks"
"$tailcask" load "$store" "$work/input" --value 2 --ack >"$work/acks" 2>/dev/null &
loader=$!
last=0 died=0
# Bash has something to say about the death of the loader, at some time.
{
    # A last line that the kill cut short has no newline, and does not count.
    while read -r _ acknowledged; do
        [ "$acknowledged" -lt $((records / 2)) ] || kill -KILL "$loader" || true
        last=$acknowledged
    done <"$work/acks"
    wait "$loader" || died=$?
} 2>/dev/null
acknowledged=$last
[ "$died" -eq 137 ] || echo "   (it had ended before the kill, with $died)"
echo "   acknowledged before the kill: $acknowledged records"

echo "== reopen, and look for them"
"$tailcask" stat "$store" | grep state | sed 's/^ */   /'
found=$("$tailcask" count "$store")
[ "$found" -ge "$acknowledged" ]
head -n "$found" "$work/input" >"$work/first"
same "$work/first"
echo "   those are the first $found of the input: all that was acknowledged, in whole batches"

echo "== load all of it"
"$tailcask" load "$store" "$work/input" --value 2 2>&1 | sed 's/^/   /'
same "$work/input"

echo "== overwrite every third"
awk -F'\t' 'NR % 3 == 0 { print $1 "\toverwritten, line " NR }' "$work/input" >"$work/changes"
"$tailcask" load "$store" "$work/changes" --value 2 2>&1 | sed 's/^/   /'
awk -F'\t' 'NR % 3 == 0 { $0 = $1 "\toverwritten, line " NR } { print }' "$work/input" >"$work/input2"
dead() { "$tailcask" stat "$store" --json | awk '/^  "dead_bytes"/ { print $2 + 0 }'; }
before=$(dead)
"$tailcask" stat "$store" | sed 's/^/   /'

echo "== merge"
"$tailcask" merge "$store" | sed 's/^/   /'
[ "$before" -gt 0 ] && [ "$(dead)" -lt "$before" ]
"$tailcask" stat "$store" | sed 's/^/   /'
same "$work/input2"

echo "== verify, backup, verify the backup"
"$tailcask" verify "$store" | sed 's/^/   /'
"$tailcask" backup "$store" "$work/backup" | sed "s#$work/##; s/^/   /"
"$tailcask" verify "$work/backup" | sed 's/^/   /'
key=$(sed -n 3p "$work/input" | cut -f1)
[ "$("$tailcask" get "$work/backup" "$key")" = "overwritten, line 3" ]
echo "== nothing was lost: $acknowledged acknowledged and $found found after the kill, $records in the end"
