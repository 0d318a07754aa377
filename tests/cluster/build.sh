#!/usr/bin/env bash
# Builds the programs of a real Kubernetes from Go modules, which are pinned in tools/*/go.{mod,sum}.
#
#   build.sh [control|node]
#
# control: API server, etcd, controllers, scheduler, kubectl, helm, kwok, kubeconform. Enough for
#          whatever does not look into a pod, and all that most tests need.
# node:    those and kubelet, kube-proxy, containerd, CNI plugins, CoreDNS and a pause image.
#
# They go to $BODHI_CACHE/cluster/bin, and Go's caches beside it, so that nothing is downloaded or
# compiled twice. A program is built again only when this file or its module's pins changed; what
# is there otherwise costs no more than a few hashes. Cold on two cores: control 10 to 12
# minutes, node 5 more.
set -euo pipefail

HERE=$(dirname "$(realpath "$0")")
WHAT=${1:-node}
ROOT=${BODHI_CACHE:-$HOME/.cache/bodhi}/cluster
BIN=$ROOT/bin
export GOMODCACHE=$ROOT/go/mod GOCACHE=$ROOT/go/build CGO_ENABLED=0
export GOFLAGS='-buildvcs=false -mod=readonly -modcacherw -p=2'
export PATH=$PATH:/usr/local/go/bin
mkdir -p "$BIN/cni" "$ROOT/stamps/cni"

# Two callers at once would only be in each other's way.
exec 9>"$ROOT/lock"
flock 9

# helm does not talk to a server whose version it cannot parse; the Makefile of
# Kubernetes sets it with the same flags.
VERSION=v1.36.3
COMPONENT=k8s.io/component-base/version
LDFLAGS="-s -w -X $COMPONENT.gitVersion=$VERSION -X $COMPONENT.gitMajor=1 -X $COMPONENT.gitMinor=36"

# is_current NAME PINS: whether bin/NAME was built from these pins by this script.
is_current() {
    [ -e "$BIN/$1" ] && [ "$(cat "$ROOT/stamps/$1" 2>/dev/null)" = "$2" ]
}

# build MODULE NAME PACKAGE: the program bin/NAME. It appears whole or not at all.
build() {
    local pins
    pins=$(cat "$HERE/build.sh" "$HERE/tools/$1/go.mod" "$HERE/tools/$1/go.sum" | sha256sum)
    is_current "$2" "$pins" && return
    echo "cluster: building $2"
    (cd "$HERE/tools/$1" && go build -tags no_btrfs,no_zfs -ldflags "$LDFLAGS" -o "$BIN/$2.new" "$3")
    mv "$BIN/$2.new" "$BIN/$2"
    echo "$pins" >"$ROOT/stamps/$2"
}

# The three that a test of the API needs come first.
build k8s kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
build etcd etcd go.etcd.io/etcd/server/v3
build k8s kubectl k8s.io/kubernetes/cmd/kubectl
build k8s kube-controller-manager k8s.io/kubernetes/cmd/kube-controller-manager
build k8s kube-scheduler k8s.io/kubernetes/cmd/kube-scheduler
build k8s helm helm.sh/helm/v4/cmd/helm
build k8s kubeconform github.com/yannh/kubeconform/cmd/kubeconform
build k8s kwok sigs.k8s.io/kwok/cmd/kwok
# What simulated nodes and pods do, which kwok wants to be told: the fast ones of its own module.
stages=$(cd "$HERE/tools/k8s" && go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage
for stage in "$stages"/node/fast/node-*.yaml "$stages"/pod/fast/pod-*.yaml; do
    echo ---
    cat "$stage"
done >"$BIN/kwok.yaml.new"
mv "$BIN/kwok.yaml.new" "$BIN/kwok.yaml"
case $WHAT in
    control) exit ;;
    node) ;;
    *)
        echo "build.sh: '$WHAT' is neither control nor node" >&2
        exit 2
        ;;
esac

CONTAINERD=github.com/containerd/containerd/v2/cmd
PLUGINS=github.com/containernetworking/plugins/plugins
build k8s kubelet k8s.io/kubernetes/cmd/kubelet
build k8s kube-proxy k8s.io/kubernetes/cmd/kube-proxy
for program in containerd containerd-shim-runc-v2 ctr; do
    build node $program $CONTAINERD/$program
done
build node cni/bridge $PLUGINS/main/bridge
build node cni/loopback $PLUGINS/main/loopback
build node cni/host-local $PLUGINS/ipam/host-local
build node cni/portmap $PLUGINS/meta/portmap
build node coredns github.com/coredns/coredns

# The container that holds a pod's namespaces open: it waits to be told to end.
pins=$(cat "$HERE/build.sh" "$HERE/pause.c" "$HERE/mkimage.py" | sha256sum)
if ! is_current pause.tar "$pins"; then
    cc -static -O2 -o "$BIN/pause" "$HERE/pause.c"
    "$HERE/mkimage.py" "$BIN/pause.tar" bodhi.test/pause:1 /pause --user 65535 "$BIN/pause=/pause"
    echo "$pins" >"$ROOT/stamps/pause.tar"
fi
