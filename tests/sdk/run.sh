#!/usr/bin/env bash
# Runs the official client libraries:
#   run.sh [python|node|all] [arguments for pytest]
#       Each case straight and through the gateway. It wants DIRECT_URL and DIRECT_KEY (a scripted
#       provider), GATEWAY_URL and GATEWAY_TOKEN (a gateway in front of it), or DIRECT_ONLY=1
#       without a gateway.
#   run.sh local [arguments for pytest]
#       Both on models that the gateway runs itself, `demo` and `minilm`. It wants GATEWAY_URL,
#       GATEWAY_TOKEN and MINILM_CACHE, the folder of the second.
#   run.sh minilm
#       Makes that second model and prints its path.
#   run.sh install
#       Installs, and runs nothing.
# The libraries are installed on first use into $BODHI_CACHE/sdk, one folder per
# state of the lists of requirements; nothing is written into the checkout.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${BODHI_CACHE:-$HOME/.cache/bodhi}/sdk
what=${1:-all}
[ $# -eq 0 ] || shift

stamp() { # stamp FILE... : a short hash of their contents
    cat "$@" | sha256sum | cut -c1-16
}

python_at=$cache/python-$(stamp "$here/python/requirements.txt")
node_at=$cache/node-$(stamp "$here/node/package-lock.json")

install_python() {
    [ -f "$python_at/.complete" ] && return
    echo "sdk: installing the Python libraries into $python_at"
    rm -rf "$python_at"
    python3 -m venv "$python_at"
    "$python_at/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/python/requirements.txt"
    touch "$python_at/.complete"
}

install_node() {
    [ -f "$node_at/.complete" ] && return
    echo "sdk: installing the Node libraries into $node_at"
    rm -rf "$node_at"
    mkdir -p "$node_at"
    cp "$here/node/package.json" "$here/node/package-lock.json" "$node_at"
    (cd "$node_at" && npm ci --no-audit --no-fund --loglevel=error)
    touch "$node_at/.complete"
}

run_python() { # run_python FOLDER ARGUMENTS...
    (cd "$here/python/$1" && PYTHONDONTWRITEBYTECODE=1 "$python_at/bin/pytest" --ignore local "${@:2}")
}

run_node() { # run_node FOLDER
    # Modules are found beside the files that import them, so the suite runs from a copy.
    local copy
    copy=$(mktemp -d "$node_at/run.XXXXXX")
    cp "$here/node/$1"/*.mjs "$copy"
    local status=0
    (cd "$copy" && node --test --test-reporter=spec) || status=$?
    rm -rf "$copy"
    return "$status"
}

make_minilm() {
    local at=$cache/minilm
    if [ ! -f "$at/minilm.gguf" ]; then
        rm -rf "$at" "$at.new"
        "$python_at/bin/python" "$here/../models/minilm_gguf.py" convert "$at.new" >&2
        mv "$at.new" "$at"
    fi
    echo "$at/minilm.gguf"
}

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
case $what in
    python) install_python ;;
    node) install_node ;;
    install | all | local)
        install_python
        install_node
        ;;
    minilm)
        install_python >&2
        make_minilm
        ;;
    *)
        echo "run.sh: expected python, node, all, local, minilm or install, not '$what'" >&2
        exit 2
        ;;
esac
exec 9>&-

status=0
case $what in python | all) run_python . "$@" || status=$? ;; esac
case $what in node | all) run_node . || status=$? ;; esac
case $what in
    local)
        run_python local "$@" || status=$?
        run_node local || status=$?
        ;;
esac
exit "$status"
