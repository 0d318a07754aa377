#!/usr/bin/env bash
# fuzz.sh SECONDS: runs each fuzz target of each crate for that long. A finding
# ends it with an error and lies in the crate's fuzz/artifacts. What the runs
# learn goes to $BODHI_CACHE, so that corpora in the repository grow by review.
set -euo pipefail
seconds=$1
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${BODHI_CACHE:-$HOME/.cache/bodhi}/fuzz
export PATH="$cache/bin:$PATH" CARGO_TARGET_DIR="$cache/target"

if ! command -v cargo-fuzz >/dev/null; then
    echo "fuzz: installing cargo-fuzz into $cache"
    (cd / && cargo install --quiet --locked --root "$cache" cargo-fuzz)
fi

for fuzz in "$root"/*/fuzz; do
    crate=$(basename "$(dirname "$fuzz")")
    for target in $(cd "$fuzz/.." && cargo +nightly fuzz list); do
        learnt=$cache/corpus/$crate/$target
        mkdir -p "$learnt"
        echo "fuzz: $crate/$target for $seconds s"
        (cd "$fuzz/.." && cargo +nightly fuzz run --release "$target" "$learnt" "fuzz/corpus/$target" -- \
            -max_total_time="$seconds" -print_final_stats=1)
    done
done
echo "fuzz: no findings"
