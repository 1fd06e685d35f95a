#!/usr/bin/env bash
# Weakens one ordering at a time in a copy of the tree, and checks that the loom model that is there
# for it fails.
#
# Usage: scripts/weaken.sh [--check] [--part N/M] [PATTERN]
#   --check     only checks that every change still changes the source, and that its model is there
#   --part N/M  every M-th row, from the N-th on (0 to M-1)
#   PATTERN     only rows that match
# WEAKEN_DIR keeps the copy and what was built for it. The table of all rows is docs/orderings.txt.
#
# Exits 1 if a weakening survived that should not have, 2 if a row no longer fits the source.
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

copy=${WEAKEN_DIR:-$(mktemp -d)}
[ -n "${WEAKEN_DIR:-}" ] || trap 'rm -rf "$copy"' EXIT
mkdir -p "$copy"
export CARGO_TARGET_DIR="$copy/target" RUST_BACKTRACE=0
export CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=0
unset RUSTFLAGS

# file | what is weakened | sed -E expression | test | why it survives (empty: it must not)
rows() {
    cat <<'ROWS'
log/append/tail.rs|take: fetch_add Acquire|/fn take/,/^    }/ s/(fetch_add\(units, Ordering::)Acquire/\1Relaxed/|a_roll_between_the_look_and_the_add|
log/append/tail.rs|reserve: load of the word Acquire|/fn reserve_unguarded/,/^    }/ s/(word\.load\(Ordering::)Acquire/\1Relaxed/|who_rolls_hands_on_what_was_published|loom never shows the slot as it was before; see docs/concurrency.md
log/append/tail.rs|roll: load of the word Acquire|/fn roll\(/,/^    }/ s/(word\.load\(Ordering::)Acquire/\1Relaxed/|a_closed_segment_has_no_standby|
log/append/tail.rs|roll: load of the standby Acquire|/fn roll\(/,/^    }/ s/(standby\.load\(Ordering::)Acquire/\1Relaxed/|who_rolls_hands_on_what_was_published|
log/append/tail.rs|roll: exchange Release|/fn roll\(/,/^    }/ s/\(Ordering::Release, Ordering::Relaxed\)/(Ordering::Relaxed, Ordering::Relaxed)/|who_rolls_hands_on_what_was_published|
log/append/tail.rs|roll_number: Acquire|/fn roll_number/,/^    }/ s/Ordering::Acquire/Ordering::Relaxed/|the_walker_enters_what_others_published|
log/append/tail.rs|position: load of the word Acquire|/fn position/,/^    }/ s/(word\.load\(Ordering::)Acquire/\1Relaxed/|a_position_is_of_one_segment|
log/append/tail.rs|position: Acquire fence|/fn position/,/^    }/ s/^ *fence\(Ordering::Acquire\);//|a_position_is_not_of_a_later_segment|
log/append/tail.rs|publish: Release fence|/fn publish\(/,/^    }/ s/^ *fence\(Ordering::Release\);//|a_position_is_not_of_a_later_segment|
log/append/tail.rs|publish: store of the standby Release|/fn publish\(/,/^    }/ s/(standby\.store\(word, Ordering::)Release/\1Relaxed/|who_rolls_hands_on_what_was_published|
log/append/tail.rs|finish: Release|/fn finish/,/^    }/ s/(finished\.store\(rolls, Ordering::)Release/\1Relaxed/|a_slot_is_used_again_after_it_is_finished|
log/append/tail.rs|has_slot: Acquire|/fn has_slot/,/^    }/ s/(finished\.load\(Ordering::)Acquire/\1Relaxed/|a_slot_is_used_again_after_it_is_finished|
log/append/tail.rs|withdraw: Release fence|/fn withdraw\(/,/^    }/ s/^ *fence\(Ordering::Release\);//|a_closed_segment_has_no_standby|
log/append/claim.rs|settle: Release (for a reader)|/^fn settle\(/,/^}/ s/(store\(word, Ordering::)Release/\1Relaxed/|a_reader_sees_whole_frames_only|
log/append/claim.rs|settle: Release (for the walker)|/^fn settle\(/,/^}/ s/(store\(word, Ordering::)Release/\1Relaxed/|a_segment_is_let_go_after_a_commit|
log/append/claim.rs|settle: Release (for a batch)|/^fn settle\(/,/^}/ s/(store\(word, Ordering::)Release/\1Relaxed/|a_batch_is_seen_whole|
log/append/claim.rs|settle: Release (of a void)|/^fn settle\(/,/^}/ s/(store\(word, Ordering::)Release/\1Relaxed/|a_segment_is_let_go_after_a_void|
log/append/claim.rs|settle: Release (of a pad)|/^fn settle\(/,/^}/ s/(store\(word, Ordering::)Release/\1Relaxed/|a_segment_is_let_go_after_a_pad|
log/append/prefix.rs|is_frame: Acquire|/fn is_frame/,/^}/ s/(place\.load\(Ordering::)Acquire/\1Relaxed/|what_one_found_another_walks_on_from|
log/append/prefix.rs|is_frame: Release|/fn is_frame/,/^}/ s/(place\.store\(offset, Ordering::)Release/\1Relaxed/|what_one_found_another_walks_on_from|
log/append/claim.rs|claim: Release fence|/unsafe fn new/,/^    }/ s/^ *fence\(Ordering::Release\);//|a_dead_process_leaves_no_body_without_a_claim|
log/append/prefix.rs|Prefix::position: Acquire|/fn position\(&self\) -> LogPosition \{$/,/^    }/ s/(position\.load\(Ordering::)Acquire/\1Relaxed/|what_is_before_the_prefix_may_be_read|
log/append/prefix.rs|Prefix::advance: Release|/fn advance/,/^    }/ s/(store\(position\.as_u64\(\), Ordering::)Release/\1Relaxed/|what_is_before_the_prefix_may_be_read|
log/append/prefix.rs|read: Acquire|/^fn read</,/^}/ s/(load\(Ordering::)Acquire/\1Relaxed/|what_is_before_the_prefix_may_be_read|
log/append/prefix.rs|read: Acquire (before a slot is let go)|/^fn read</,/^}/ s/(load\(Ordering::)Acquire/\1Relaxed/|a_segment_is_let_go_after_a_void|
log/group_commit.rs|durable: Acquire|/fn durable/,/^    }/ s/(durable\.load\(Ordering::)Acquire/\1Relaxed/|the_watermark_comes_after_the_sync|
log/group_commit.rs|finish: Release|/fn finish/,/^    }/ s/(durable\.store\(durable, Ordering::)Release/\1Relaxed/|the_watermark_comes_after_the_sync|
log/waiters.rs|notify: barrier|s/^ *light_barrier\(\);//|no_commit_is_slept_through|
log/waiters.rs|wait: barrier|/fn wait\(/,/^    }/ s/^ *heavy_barrier\(\);//|no_commit_is_slept_through|
log/waiters.rs|register_task: barrier|/fn register_task/,/^    }/ s/^ *heavy_barrier\(\);//|no_commit_is_slept_through_by_a_task|
store/pending/words.rs|set: Release|/fn set/,/^    }/ s/Ordering::Release/Ordering::Relaxed/|a_scan_meets_a_merged_key_once|
store/pending/words.rs|take_next: Acquire|/fn take_next/,/^    }/ s/Ordering::Acquire/Ordering::Relaxed/|a_scan_meets_an_overwritten_key_once|
segment/pins.rs|unpin: Release|/fn unpin/,/^    }/ s/Ordering::Release\)/Ordering::Relaxed)/|what_is_pinned_stays_mapped|
segment/pins.rs|is_free: Acquire|/fn is_free/,/^    }/ s/(load\(Ordering::)Acquire/\1Relaxed/|what_is_pinned_stays_mapped|
log/append/claim.rs|LOGIC claim: no claimed word|/unsafe fn new/,/^    }/ s/^ *place\.store\(word.*$//|a_dead_process_leaves_no_body_without_a_claim|
log/append/prefix.rs|LOGIC walk: claims are passed|s/State::Claimed => return,/State::Claimed => {}/|the_prefix_is_contiguous|
log/append/claim.rs|LOGIC drop: claims stay|s/, State::Void\)/, State::Claimed)/|an_abandoned_claim_is_void|
log/append/tail.rs|LOGIC take: no pad|/fn take/,/^    }/ s/^ *unsafe \{ pad\(.*$//|the_end_of_a_segment_is_tiled|
log/append/tail.rs|LOGIC withdraw: no close|/fn withdraw\(/,/^    }/ s/self\.tail\.close\(\);//|a_roll_against_a_withdrawal|
log/append/tail.rs|LOGIC publish: slots without a wait|/fn has_slot/,/^    }/ s/< finished \+/< 1 + finished +/|slots_are_used_again|
log/group_commit.rs|LOGIC finish: nobody leads next|s/^ *woken\.extend\(next.*$/let _ = next;/|who_is_left_leads|
log/group_commit.rs|LOGIC finish: a failure wakes nobody|s/failed \|\| w\.target/w.target/|a_failure_reaches_every_waiter|
log/group_commit.rs|LOGIC wait: no guard|s/let guard = Leading\(self\);/let guard = ();/|a_panicking_leader_wakes_the_others|
log/waiters.rs|LOGIC wait: not in the list|s/^ *self\.register\(\);$//|no_commit_is_slept_through|
log/waiters.rs|LOGIC register_task: it is not counted|/fn register_task/,/^    }/ s/^ *self\.waiting\.fetch_add\(.*$//|no_commit_is_slept_through_by_a_task|
log/append/claim.rs|LOGIC settle: nobody is told|/^fn settle\(/,/^}/ s/^ *waiters\.notify\(\);$//|no_commit_is_slept_through|
log/append/claim.rs|LOGIC finish: nobody is told|/fn finish\(/,/^    }/ s/settle\(self\.waiters, place, word\)/place.store(word, Ordering::Release)/|no_append_is_slept_through|
log/append/claim.rs|LOGIC commit: nobody is told|/fn commit_written\(/,/^    }/ s/settle\(claim\.waiters, (.*), word\);/\1.store(word, Ordering::Release);/|no_sync_mark_is_slept_through|
log/append/claim.rs|LOGIC void: nobody is told|/fn drop/,/^    }/ s/settle\(self\.waiters, (.*), word\);/\1.store(word, Ordering::Release);/|no_void_is_slept_through|
log/append/claim.rs|LOGIC pad: nobody is told|/fn pad</,/^}/ s/settle\(waiters, (.*), word\);/\1.store(word, Ordering::Release);/|no_pad_is_slept_through|
store/pending/words.rs|LOGIC take_next: the load decides|/fn take_next/,/^    }/ s/ \& 1 << at != 0 \{/ \& 1 << at != 1 << 99 % 64 {/|a_scan_meets_a_merged_key_once|
store/pending/words.rs|LOGIC take: it is not told whether it was there|/fn take\(/,/^    }/ s/ \& bit != 0/ \& bit != bit + 1/|a_scan_meets_an_overwritten_key_once|
segment/pins.rs|LOGIC pin: although retired|/fn pin_many\(/,/^    }/ s/& RETIRED == 0/\& RETIRED != 1/|what_is_pinned_stays_mapped|
ROWS
}

selected() {
    rows | awk -v n="${part%/*}" -v m="${part#*/}" '(NR - 1) % m == n' | grep -E -- "$pattern"
}

# The sed expression may hold `|`, so it is what is left between the first and last fields.
split() {
    file=${row%%|*} rest=${row#*|}
    what=${rest%%|*} rest=${rest#*|}
    why=${rest##*|} rest=${rest%|*}
    test=${rest##*|} expression=${rest%|*}
}

killed=0 survived=0 known=0 broken=0
report() { printf '%-10s %-24s %-40s %s\n' "$@"; }

if [ -n "$check" ]; then
    while IFS= read -r row; do
        split
        if cmp -s <(sed -E "$expression" "$root/src/$file") "$root/src/$file"; then
            report BROKEN "$file" "$what" 'nothing changed'
            broken=$((broken + 1))
        elif ! grep -qE "^ *$test;?\$" "$root/loom-tests/tests/models.rs"; then
            report BROKEN "$file" "$what" "no model $test"
            broken=$((broken + 1))
        fi
    done < <(selected)
    [ "$broken" -eq 0 ] && echo "$(selected | wc -l) rows fit"
    exit $((broken > 0 ? 2 : 0))
fi

fresh() {
    rm -rf "${copy:?}/src"
    (cd "$root" && tar cf - Cargo.toml Cargo.lock src benches loom-tests crash-kit) | tar xf - -m -C "$copy"
    # It may be a package of its own, where this is a copy already.
    sed -i 's,^members = .*,members = ["loom-tests"],' "$copy/Cargo.toml"
}

build() { (cd "$copy" && cargo test -q -p loom-tests --no-run) >"$copy/build.out" 2>&1; }
# 124 where it took too long: that says nothing.
run() { (cd "$copy" && timeout 600 cargo test -q -p loom-tests --test models -- --exact "$@") >"$copy/test.out" 2>&1; }

# The models have to pass as they are.
fresh
mapfile -t named < <(while IFS= read -r row; do split; echo "$test"; done < <(selected) | sort -u)
if ! build || ! run "${named[@]}" || ! grep -q "^test result: ok. ${#named[@]} passed" "$copy/test.out"; then
    cat "$copy"/*.out
    echo "the models do not pass as they are" >&2
    exit 2
fi

report result file weakened "model (or why it survives)"
while IFS= read -r row; do
    split
    cp "$root/src/$file" "$copy/before"
    sed -E "$expression" "$copy/before" >"$copy/src/$file"
    if cmp -s "$copy/before" "$copy/src/$file" || ! build; then
        report BROKEN "$file" "$what" "$(cmp -s "$copy/before" "$copy/src/$file" && echo 'nothing changed' || echo 'does not compile')"
        broken=$((broken + 1))
    else
        run "$test"
        status=$?
        if [ "$status" -eq 124 ]; then
            report BROKEN "$file" "$what" "$test did not come to its end"
            broken=$((broken + 1))
        elif [ "$status" -eq 0 ] && [ -n "$why" ]; then
            report survives "$file" "$what" "$why"
            known=$((known + 1))
        elif [ "$status" -eq 0 ]; then
            report SURVIVED "$file" "$what" "$test"
            survived=$((survived + 1))
        elif [ -n "$why" ]; then
            report KILLED "$file" "$what" "$test, though listed as surviving"
            broken=$((broken + 1))
        else
            report killed "$file" "$what" "$test"
            killed=$((killed + 1))
        fi
    fi
    cp "$copy/before" "$copy/src/$file"
    touch "$copy/src/$file"
done < <(selected)
echo "killed $killed, survived $survived, known to survive $known, broken $broken"
[ "$broken" -eq 0 ] || exit 2
[ "$survived" -eq 0 ]
