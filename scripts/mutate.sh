#!/usr/bin/env bash
# Changes one line at a time in a copy of the tree, and checks that a test which is there for it fails.
#
# Usage: scripts/mutate.sh [--check] [--part N/M] [PATTERN]
#   --check     only checks that every change still changes the source, and that its tests are there
#   --part N/M  every M-th row, from the N-th on (0 to M-1)
#   PATTERN     only rows that match
# The rows are in scripts/mutations.txt (or $MUTATIONS). MUTATE_DIR keeps the copy and what was built for it.
#
# Exits 1 if a change survived that should not have, 2 if a row no longer fits.
set -uo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
check='' part=0/1
while [ $# -gt 0 ]; do
    case $1 in
    --check) check=yes ;;
    --part) part=$2 && shift ;;
    *) break ;;
    esac
    shift
done
pattern=${1:-.}

copy=${MUTATE_DIR:-$(mktemp -d)}
[ -n "${MUTATE_DIR:-}" ] || trap 'rm -rf "$copy"' EXIT
mkdir -p "$copy"
# What changes is built faster than it runs.
export CARGO_TARGET_DIR="$copy/target" RUST_BACKTRACE=0 CARGO_PROFILE_DEV_DEBUG=0
# Enough for a change to be met, and little enough to be done for many.
export TAILCASK_CASES=100
config=(--config 'profile.dev.package.tailcask.opt-level=0')

# file | what is changed | sed -E expression | tests | why it survives (empty: it must not)
rows() {
    grep -v '^#' "${MUTATIONS:-$root/scripts/mutations.txt}" | grep '|' |
        awk -v n="${part%/*}" -v m="${part#*/}" '(NR - 1) % m == n' | grep -E -- "$pattern"
}

fresh() {
    rm -rf "${copy:?}/src" "${copy:?}/tests" "${copy:?}/schedules"
    (cd "$root" && tar cf - Cargo.toml Cargo.lock src tests benches crash-kit schedules) |
        tar xf - -m -C "$copy"
    # The other packages of the workspace are not needed.
    sed -i '/^\[workspace\]/,/^$/ s/^members = .*/members = ["schedules"]/' "$copy/Cargo.toml"
}

# The command is built only for the tests of it.
features() { case " $*" in *" schedules:"*) echo --features=testing ;; *" cli"*) echo --features=stream,cli ;; *) echo --features=stream ;; esac; }

# A test is `FILE:NAME` for tests/FILE.rs, `lib:NAME`, or `schedules:NAME` for that package.
target() { if [ "$1" = lib ]; then echo --lib; else echo "--test=$1"; fi; }
package() { case " $*" in *" schedules:"*) echo --package=schedules ;; *) echo --package=tailcask ;; esac; }

# Builds what some tests are in, and nothing else. All of a row's files at once.
build() {
    local test ours=() schedules=()
    for test; do
        case $test in schedules:*) schedules+=("$test") ;; *) ours+=("$test") ;; esac
    done
    : >"$copy/build.out"
    build_of "${ours[@]}" && build_of "${schedules[@]}"
}

# Of one package.
build_of() {
    local targets
    [ $# -eq 0 ] && return
    mapfile -t targets < <(printf '%s\n' "${@%%:*}" | sort -u | while read -r file; do target "$file"; done)
    (cd "$copy" && cargo test -q "$(package "$@")" "$(features "$@")" "${config[@]}" \
        "${targets[@]}" --no-run) >>"$copy/build.out" 2>&1
}

# 0: passed. 124: took too long.
run() {
    (cd "$copy" && timeout "${limit:-300}" \
        cargo test -q "$(package "$1")" "$(features "$1")" "${config[@]}" \
        "$(target "${1%%:*}")" -- "${1#*:}") >"$copy/test.out" 2>&1
}

is_there() {
    local file=$root/tests/${1%%:*}.rs name=${1##*:}
    if [ "${1%%:*}" = lib ]; then file=$root/src; elif [ ! -e "$file" ]; then file=${file%.rs}; fi
    if [ "${1%%:*}" = schedules ]; then file=$root/schedules/tests; fi
    # A part of a name is enough, as it is for cargo.
    grep -rqE "(fn|mod) [a-z0-9_]*$name" "$file"
}

split() {
    # The sed expression may hold `|`, so it is what is left between the first and last fields.
    file=${row%%|*} rest=${row#*|}
    what=${rest%%|*} rest=${rest#*|}
    why=${rest##*|} rest=${rest%|*}
    read -ra tests <<<"${rest##*|}"
    expression=${rest%|*}
}

killed=0 survived=0 known=0 broken=0
report() { printf '%-10s %-26s %-58s %s\n' "$@"; }

if [ -n "$check" ]; then
    while IFS= read -r row; do
        split
        if ! cmp -s <(sed -E "$expression" "$root/src/$file") "$root/src/$file"; then
            for test in "${tests[@]}"; do
                is_there "$test" || { report BROKEN "$file" "$what" "no test $test"; broken=1; }
            done
        else
            report BROKEN "$file" "$what" 'nothing changed'
            broken=1
        fi
    done < <(rows)
    [ "$broken" -eq 0 ] && echo "$(rows | wc -l) rows fit"
    exit $((broken * 2))
fi

fresh
# What the rows name has to pass as it is, each in its time.
declare -A took fails
mapfile -t named < <(while IFS= read -r row; do split; printf '%s\n' "${tests[@]}"; done < <(rows) | sort -u)
build "${named[@]}" || { cat "$copy/build.out"; exit 2; }
while IFS= read -r test; do
    started=$SECONDS
    if ! run "$test" || ! grep -q '^running [1-9]' "$copy/test.out"; then
        tail -n 20 "$copy/test.out" >&2
        echo "$test does not pass as it is" >&2
        fails[$test]=yes
    fi
    took[$test]=$((SECONDS - started))
done < <(printf '%s\n' "${named[@]}")

report result file changed "killed by (or why it survives)"
while IFS= read -r row; do
    split
    for test in "${tests[@]}"; do
        [ -z "${fails[$test]:-}" ] && continue
        report BROKEN "$file" "$what" "$test does not pass as it is"
        broken=$((broken + 1))
        continue 2
    done
    cp "$copy/src/$file" "$copy/before"
    sed -E "$expression" "$copy/before" >"$copy/src/$file"
    if cmp -s "$copy/before" "$copy/src/$file" || ! build "${tests[@]}"; then
        report BROKEN "$file" "$what" \
            "$(cmp -s "$copy/before" "$copy/src/$file" && echo 'nothing changed' || echo 'does not compile')"
        broken=$((broken + 1))
    else
        by=
        for test in "${tests[@]}"; do
            limit=$((60 + 20 * took[$test]))
            run "$test"
            status=$?
            [ "$status" -eq 124 ] && by="$test (no end)" && break
            [ "$status" -ne 0 ] && by=$test && break
        done
        if [ -n "$by" ] && [ -n "$why" ]; then
            report KILLED "$file" "$what" "$by, though listed as surviving"
            broken=$((broken + 1))
        elif [ -n "$by" ]; then
            report killed "$file" "$what" "$by"
            killed=$((killed + 1))
        elif [ -n "$why" ]; then
            report survives "$file" "$what" "$why"
            known=$((known + 1))
        else
            report SURVIVED "$file" "$what" "${tests[*]}"
            survived=$((survived + 1))
        fi
    fi
    cp "$copy/before" "$copy/src/$file"
    touch "$copy/src/$file"
done < <(rows)
echo "killed $killed, survived $survived, known to survive $known, broken $broken"
[ "$broken" -eq 0 ] || exit 2
[ "$survived" -eq 0 ]
