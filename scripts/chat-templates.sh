#!/usr/bin/env bash
# Tests the worker with the chat templates of some seventy model families. They come with the
# source of llama.cpp, of which the crate leaves them out; the source package of
# llama-cpp-python on PyPI has it whole (76 MB, kept in $BODHI_CACHE).
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.3.36
cache=${BODHI_CACHE:-$HOME/.cache/bodhi}/chat-templates

if [ ! -d "$cache/$version" ]; then
    mkdir -p "$cache"
    fresh=$(mktemp -d "$cache/fresh.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    python3 -m pip download --quiet --no-deps --no-binary :all: --dest "$fresh" \
        "llama-cpp-python==$version"
    mkdir "$fresh/$version"
    tar -xzf "$fresh"/*.tar.gz -C "$fresh/$version" --strip-components=5 \
        "llama_cpp_python-$version/vendor/llama.cpp/models/templates"
    mv "$fresh/$version" "$cache/$version"
fi

export BODHI_CHAT_TEMPLATES=$cache/$version
cargo test -p bodhi-worker --lib --test families -- --ignored
