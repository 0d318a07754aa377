#!/usr/bin/env bash
# Installs what is missing for the given groups and asks nothing:
#   build   a C compiler (SQLite and AWS-LC are compiled from source) and Rust
#   worker  what llama.cpp is built with
#   check   Python, which the check of the dependencies is written in
#   test    curl, which the README's examples are run with, and PostgreSQL with
#           pgbouncer, the store of clusters
#   sdk     Python with venv, Node and npm, for the official client libraries
#   cluster Go 1.26, which Kubernetes is built with
#   bench   nginx, the yardstick of the benchmarks
# Only Debian packages are installed, by name. On another system it names
# what is missing and stops.
set -euo pipefail

missing=()

need() { # need COMMAND PACKAGE
    command -v "$1" >/dev/null || missing+=("$2")
}

for group in "$@"; do
    case $group in
        build) need cc build-essential ;;
        worker)
            need cmake cmake
            need clang clang
            need g++ g++
            ls /usr/lib/llvm-*/lib/libclang.so* /usr/lib/*/libclang*.so* >/dev/null 2>&1 ||
                missing+=(libclang-dev)
            ;;
        check) need python3 python3 ;;
        test)
            need curl curl
            command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 ||
                missing+=(postgresql)
            [ -x /usr/sbin/pgbouncer ] || need pgbouncer pgbouncer
            ;;
        sdk)
            need python3 python3
            python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
            need node nodejs
            need npm npm
            ;;
        cluster)
            command -v go >/dev/null || [ -x /usr/local/go/bin/go ] || missing+=(golang-go)
            ;;
        bench) command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || missing+=(nginx-light) ;;
        *)
            echo "setup: unknown group '$group' (build, worker, check, test, sdk, cluster, bench)" >&2
            exit 2
            ;;
    esac
done

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo -n)

install() {
    export DEBIAN_FRONTEND=noninteractive
    if ! command -v apt-get >/dev/null; then
        echo "setup: please install: $* (no apt-get here to do it)" >&2
        exit 1
    fi
    echo "setup: installing $*"
    "${as_root[@]}" apt-get update -qq || { sleep 5; "${as_root[@]}" apt-get update -qq; }
    "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null || {
        echo "setup: apt-get could not install: $*" >&2
        exit 1
    }
}

if [ ${#missing[@]} -gt 0 ]; then
    install "${missing[@]}"
fi

if [[ " $* " == *" build "* ]] && ! command -v cargo >/dev/null; then
    # Debian's rustc is older than ours; its rustup package, where there is
    # one, fetches the release that rust-toolchain.toml names.
    if command -v apt-cache >/dev/null && [ -n "$(apt-cache search --names-only '^rustup$')" ]; then
        install rustup
    else
        echo "setup: Rust is missing. Install it from https://rustup.rs and run this again." >&2
        exit 1
    fi
fi
