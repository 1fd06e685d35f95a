#!/usr/bin/env bash
# Counts the instructions of the operations by callgrind, and compares them with those in
# benches/instructions/counts.txt. Other programs on the machine do not change them.
#
# Usage: scripts/instructions.sh [--accept]
#   --accept   writes what was counted to counts.txt, for the same commit as the change that explains it
#
# Exits 1 if an operation takes 5% more or less than accepted, or is not in the file, or in the file only.
# Counts depend on the compiler, valgrind, the C library and the processor's features: where these are not
# those named in the file, differences are shown and nothing fails. Exits 3 if it cannot count here.
set -euo pipefail
cd "$(dirname "$0")/../benches/instructions"

accept=''
case ${1:-} in
--accept) accept=yes ;;
'') ;;
*) echo "usage: scripts/instructions.sh [--accept]" >&2 && exit 2 ;;
esac

if ! command -v valgrind >/dev/null; then
    # As root, as CI is, on Debian.
    { apt-get update && apt-get install -y --no-install-recommends valgrind; } >/dev/null 2>&1 || {
        echo "valgrind is not installed" >&2
        exit 3
    }
fi
# What drives callgrind, in the version of the library that the benchmarks are linked with.
version=$(sed -n '/^name = "gungraun-runner"$/{n;s/^version = "\(.*\)"$/\1/p}' Cargo.lock)
tools=${CARGO_TARGET_DIR:-target}/tools-$version
if [ ! -x "$tools/bin/gungraun-runner" ]; then
    cargo install --quiet --locked --debug --root "$tools" "gungraun-runner@$version" || exit 3
fi
GUNGRAUN_RUNNER=$(realpath "$tools/bin/gungraun-runner")
export GUNGRAUN_RUNNER GUNGRAUN_COLOR=never
unset RUSTFLAGS

features=''
for feature in avx2 avx512f pclmulqdq vpclmulqdq erms; do
    if grep -qw "$feature" /proc/cpuinfo; then features+=" $feature"; fi
done
made_with="$(rustc --version), $(valgrind --version), $(getconf GNU_LIBC_VERSION),$features"

# A line each: the name, and the instructions of one operation.
output=$(mktemp)
trap 'rm -f "$output" "$output.counts"' EXIT
if ! cargo bench --quiet --locked --bench instructions >"$output" 2>&1; then
    tail -40 "$output" >&2
    exit 1
fi
awk '
    /^instructions::/ { split($1, path, "::"); name = path[3] }
    /^  Instructions:/ {
        split($2, count, "|")
        times = name
        sub(/.*_x/, "", times)
        sub(/_x[0-9]*$/, "", name)
        printf "%-28s %9.1f\n", name, count[1] / times
    }
' "$output" >"$output.counts"
if [ ! -s "$output.counts" ]; then
    cat "$output" >&2
    exit 1
fi

if [ -n "$accept" ]; then
    {
        echo "# Instructions an operation (of opening and iterating: a key), as scripts/instructions.sh counts them."
        echo "# $made_with"
        cat "$output.counts"
    } >counts.txt
    cat counts.txt
    exit
fi

differs=''
accepted_with=$(sed -n '2s/^# //p' counts.txt)
if [ "$accepted_with" != "$made_with" ]; then
    differs=yes
    echo "accepted with $accepted_with"
    echo "counted with  $made_with"
fi
awk '
    /^#/ { next }
    NR == FNR { accepted[$1] = $2; next }
    {
        seen[$1] = 1
        if (!($1 in accepted)) {
            printf "%-28s %9.1f  NOT ACCEPTED YET\n", $1, $2
            bad = 1
            next
        }
        change = 100 * ($2 / accepted[$1] - 1)
        verdict = change > 5 ? "  SLOWER" : change < -5 ? "  FASTER" : ""
        if (verdict != "") bad = 1
        printf "%-28s %9.1f  accepted %9.1f  %+6.1f%%%s\n", $1, $2, accepted[$1], change, verdict
    }
    END {
        for (name in accepted) if (!(name in seen)) { print name ": is not counted any more"; bad = 1 }
        exit bad
    }
' counts.txt "$output.counts" && exit
if [ -n "$differs" ]; then
    echo "The counts are for another compiler or machine: nothing fails."
    exit
fi
echo "Instructions differ by more than 5%. If that is what your change should do, run"
echo "'scripts/instructions.sh --accept', and commit benches/instructions/counts.txt with the change."
exit 1
