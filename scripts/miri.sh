#!/usr/bin/env bash
# Runs the tests of the formats and of the keydir under Miri, which finds undefined behaviour that a
# processor does not show: reads out of bounds, references that alias, memory that is not initialised.
#
# Usage: scripts/miri.sh [FILTER...]
# Needs a nightly toolchain with the components miri and rust-src. All of it takes some 20 minutes of one
# processor. What maps files or makes system calls cannot run here.
set -euo pipefail
cd "$(dirname "$0")/.."
# A test may ask for the directory that it runs in.
export MIRIFLAGS="${MIRIFLAGS:-} -Zmiri-disable-isolation" PROPTEST_CASES=${PROPTEST_CASES:-4}
[ $# -gt 0 ] || set -- format:: keydir::tests keydir::slot keydir::load::tests::what_is keydir::load::tests::errors
cargo +nightly miri test --lib -- "$@"
