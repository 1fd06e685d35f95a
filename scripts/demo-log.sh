#!/usr/bin/env bash
# Appends some three million lines of real text to a log, kills the writer with SIGKILL in the
# middle, reopens the log, and shows that nothing that was acknowledged is lost.
#
# Usage: scripts/demo-log.sh [LINES]
set -euo pipefail
cd "$(dirname "$0")/.."
lines=${1:-3000000}

cargo build --release --features cli
tailcask=${CARGO_TARGET_DIR:-target}/release/tailcask
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "== input: $lines lines, the files of this machine with their sizes and dates"
find / -xdev \( -path /proc -o -path /sys -o -path "$work" \) -prune -o -printf '%p\t%s\t%T+\n' \
    2>/dev/null | head -n "$lines" >"$work/names" || true
[ -s "$work/names" ] || seq 1000 >"$work/names"
while cat "$work/names"; do :; done 2>/dev/null | awk -v n="$lines" '{ print NR "\t" $0 } NR == n { exit }' \
    >"$work/input" || true
echo "   $(du -h --apparent-size "$work/input" | cut -f1) of text"

echo "== append, and SIGKILL in the middle"
"$tailcask" log append "$work/log" "$work/input" --ack >"$work/acked" 2>/dev/null &
writer=$!
acked() { tail -n 2 "$work/acked" | grep -a '^acked [0-9]*$' | tail -n 1 | cut -d' ' -f2; }
while n=$(acked || true); [ "${n:-0}" -lt $((lines / 2)) ]; do
    kill -0 "$writer" 2>/dev/null || break
done
kill -KILL "$writer" 2>/dev/null || true
wait "$writer" 2>/dev/null || true
# The last line may be cut short by the kill.
acknowledged=$(head -c -0 "$work/acked" | grep -a '^acked [0-9]*$' | tail -n 1 | cut -d' ' -f2)
echo "   acknowledged before the kill: ${acknowledged:-0} lines"

echo "== reopen, and look for them"
"$tailcask" log cat "$work/log" >"$work/found"
found=$(wc -l <"$work/found")
echo "   found: $found lines"
[ "$found" -ge "${acknowledged:-0}" ]
head -n "$found" "$work/input" | cmp - "$work/found"
echo "   they are the first $found lines of the input, byte for byte"

echo "== append the rest, verify every checksum"
tail -n "+$((found + 1))" "$work/input" | "$tailcask" log append "$work/log" -
"$tailcask" log cat "$work/log" | cmp - "$work/input"
"$tailcask" log verify "$work/log"
"$tailcask" log stat "$work/log"
echo "== nothing acknowledged was lost: ${acknowledged:-0} acknowledged, $found found, $lines in the end"
