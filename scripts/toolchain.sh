#!/usr/bin/env bash
# Prints the installed toolchain to use in place of the one that
# rust-toolchain.toml names, when that one is not installed but another of the
# very same version is: rustup would download the same compiler a second time,
# which fails on a machine without a network. Prints nothing otherwise.
set -uo pipefail
command -v rustup >/dev/null || exit 0
pinned=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' "$(dirname "$0")/../rust-toolchain.toml")
cd / # outside the checkout rustup does not act on rust-toolchain.toml
installed=$(rustup toolchain list | awk '{print $1}')
grep -q "^$pinned" <<<"$installed" && exit 0
for toolchain in $installed; do
    if [[ "$(rustup run "$toolchain" rustc --version 2>/dev/null)" == "rustc $pinned "* ]]; then
        echo "$toolchain"
        exit 0
    fi
done
