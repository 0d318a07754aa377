#!/usr/bin/env bash
# Starts a real Kubernetes of one node in a network and mount namespace of its own. Needs root, runc,
# openssl, iproute2, nftables, and the programs that build.sh made.
#
#   up.sh WORK
#
# WORK is an empty folder that holds all of it afterwards:
#   WORK/admin.kubeconfig   who may do anything (works inside only)
#   WORK/ns.sh COMMAND      runs a command inside, where pod and Service addresses exist
#   WORK/logs               what the programs print
# End it with down.sh WORK.
set -euo pipefail

BIN=${BODHI_CACHE:-$HOME/.cache/bodhi}/cluster/bin
mkdir -p "$1"
W=$(realpath "$1")
NS=bodhi-$$
NODE_IP=10.200.0.1
SERVICES=10.201.0.0/16
PODS=10.202.0.0/16
cd "$W"
mkdir -p pki logs run cni kubelet
: >pids

# Certificates. All of them are signed by one authority, which is also the one of clients.
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=bodhi-test-ca \
    -keyout pki/ca.key -out pki/ca.crt 2>/dev/null
openssl genrsa -out pki/sa.key 2048 2>/dev/null
issue() { # issue NAME SUBJECT [SANS]
    openssl req -newkey rsa:2048 -nodes -subj "$2" -keyout "pki/$1.key" -out "pki/$1.csr" 2>/dev/null
    printf '%s\n' "${3:+subjectAltName=$3}" extendedKeyUsage=serverAuth,clientAuth >"pki/$1.ext"
    openssl x509 -req -in "pki/$1.csr" -CA pki/ca.crt -CAkey pki/ca.key -CAcreateserial -days 30 \
        -extfile "pki/$1.ext" -out "pki/$1.crt" 2>/dev/null
}
user() { # user NAME SUBJECT [SANS]: a certificate, and a kubeconfig with it
    issue "$@"
    cat >"$1.kubeconfig" <<EOF
apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: "https://127.0.0.1:6443", certificate-authority: $W/pki/ca.crt}}]
users: [{name: test, user: {client-certificate: $W/pki/$1.crt, client-key: $W/pki/$1.key}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
EOF
}
CLUSTER=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
issue apiserver /CN=kube-apiserver "$CLUSTER,DNS:localhost,IP:127.0.0.1,IP:$NODE_IP,IP:10.201.0.1"
user admin /O=system:masters/CN=admin
user controllers /CN=system:kube-controller-manager
user scheduler /CN=system:kube-scheduler
user kubelet /O=system:nodes/CN=system:node:node1 "DNS:node1,IP:$NODE_IP,IP:127.0.0.1"
user proxy /CN=system:kube-proxy

# The namespaces. A bridge carries the node's address, for want of dummy devices on some
# machines; packets to anywhere else go to a neighbour that does not exist.
ip netns add "$NS"
ip netns exec "$NS" sh -ec "
    ip link set lo up
    ip link add node0 type bridge
    ip addr add $NODE_IP/24 dev node0
    ip link set node0 up
    ip route add default via 10.200.0.254 dev node0 onlink
    sysctl -qw net.ipv4.ip_forward=1"
unshare -m --propagation private sh -c 'mount --make-rshared / && echo up && exec sleep infinity' >run/mount &
MOUNT=$!
echo "$MOUNT" >>pids
until grep -q up run/mount; do sleep 0.05; done
cat >ns.sh <<EOF
#!/bin/sh
exec nsenter --net=/run/netns/$NS --mount=/proc/$MOUNT/ns/mnt \\
    env PATH="$BIN:\$PATH" KUBECONFIG=$W/admin.kubeconfig sh -c 'cd $W && exec "\$@"' sh "\$@"
EOF
chmod +x ns.sh

start() { # start NAME COMMAND…
    local name=$1
    shift
    ./ns.sh "$@" >"logs/$name.log" 2>&1 &
    echo $! >>pids
}
await() { # await NAME COMMAND…: the log of NAME tells why it never was
    local name=$1
    shift
    for _ in $(seq 240); do
        if ./ns.sh "$@" >/dev/null 2>&1; then return; fi
        sleep 0.25
    done
    echo "up.sh: $name did not come up:" >&2
    tail -20 "logs/$name.log" >&2
    exit 1
}

start etcd etcd --data-dir "$W/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380
start apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 \
    --secure-port 6443 --bind-address 0.0.0.0 --advertise-address $NODE_IP \
    --tls-cert-file pki/apiserver.crt --tls-private-key-file pki/apiserver.key --client-ca-file pki/ca.crt \
    --kubelet-client-certificate pki/admin.crt --kubelet-client-key pki/admin.key \
    --kubelet-preferred-address-types InternalIP \
    --service-account-issuer https://kubernetes.default.svc \
    --service-account-signing-key-file pki/sa.key --service-account-key-file pki/sa.key \
    --service-cluster-ip-range $SERVICES --authorization-mode Node,RBAC \
    --enable-admission-plugins NodeRestriction --allow-privileged --shutdown-delay-duration 0s --v 1
await apiserver kubectl get --raw /readyz
as() { # as USER: the flags of a control loop that is this user
    echo "--kubeconfig $1.kubeconfig --authentication-kubeconfig $1.kubeconfig" \
        "--authorization-kubeconfig $1.kubeconfig --leader-elect=false --bind-address 127.0.0.1"
}
# shellcheck disable=SC2046
start controllers kube-controller-manager $(as controllers) --service-account-private-key-file pki/sa.key \
    --root-ca-file pki/ca.crt --use-service-account-credentials --allocate-node-cidrs --cluster-cidr $PODS \
    --cluster-signing-cert-file pki/ca.crt --cluster-signing-key-file pki/ca.key
# shellcheck disable=SC2046
start scheduler kube-scheduler $(as scheduler)

cat >cni/10-bodhi.conflist <<EOF
{"cniVersion": "1.0.0", "name": "bodhi", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$W/ipam", "ranges": [[{"subnet": "10.202.0.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
EOF
# erofs and NRI want what a container or a small kernel has not, and the
# default differ wants erofs; scores of the OOM killer may not be lowered everywhere.
cat >containerd.toml <<EOF
version = 3
root = "$W/containerd/root"
state = "$W/containerd/state"
disabled_plugins = ["io.containerd.differ.v1.erofs", "io.containerd.snapshotter.v1.erofs",
                    "io.containerd.mount-handler.v1.erofs", "io.containerd.nri.v1.nri"]
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/$(dpkg --print-architecture)"
  snapshotter = "overlayfs"
  differ = "walking"
[grpc]
  address = "$W/run/containerd.sock"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "bodhi.test/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  enable_unprivileged_ports = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["$BIN/cni"]
    conf_dir = "$W/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      SystemdCgroup = false
EOF
start containerd containerd --config containerd.toml
await containerd ctr --address "$W/run/containerd.sock" version
cat >image.sh <<EOF
#!/bin/sh
# image.sh FILE…: puts OCI archives where pods find them.
for file; do $W/ns.sh ctr --address $W/run/containerd.sock -n k8s.io images import "\$(realpath "\$file")" || exit; done
EOF
chmod +x image.sh
./image.sh "$BIN/pause.tar" >/dev/null

# cgroup v1 and small disks are fine for a test.
cat >kubelet.yaml <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $W/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $W/pki/kubelet.crt
tlsPrivateKeyFile: $W/pki/kubelet.key
containerRuntimeEndpoint: unix://$W/run/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
enforceNodeAllocatable: []
resolvConf: $W/resolv.conf
clusterDNS: ["$NODE_IP"]
clusterDomain: cluster.local
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
podLogsDir: $W/podlogs
volumePluginDir: $W/volumeplugins
EOF
echo "nameserver $NODE_IP" >resolv.conf
start kubelet kubelet --kubeconfig kubelet.kubeconfig --config kubelet.yaml --root-dir "$W/kubelet" \
    --hostname-override node1 --node-ip $NODE_IP --v 2
cat >proxy.yaml <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: $W/proxy.kubeconfig}
clusterCIDR: $PODS
hostnameOverride: node1
conntrack: {maxPerCore: 0}
EOF
start kube-proxy kube-proxy --config proxy.yaml
cat >Corefile <<EOF
.:53 {
  bind $NODE_IP
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $W/admin.kubeconfig test
  }
}
EOF
start coredns coredns -conf Corefile
await kubelet kubectl wait node/node1 --for=condition=Ready --timeout=1s

# Claims of volumes bind to folders of the node: enough for one SQLite file.
for number in 1 2 3; do
    mkdir -p "volumes/$number"
    chmod 0777 "volumes/$number"
    ./ns.sh kubectl apply -f - >/dev/null <<EOF
{apiVersion: v1, kind: PersistentVolume, metadata: {name: node1-$number},
 spec: {capacity: {storage: 10Gi}, accessModes: [ReadWriteOnce], persistentVolumeReclaimPolicy: Delete,
        storageClassName: standard, hostPath: {path: $W/volumes/$number}}}
EOF
done
./ns.sh kubectl apply -f - >/dev/null <<EOF
{apiVersion: storage.k8s.io/v1, kind: StorageClass, provisioner: kubernetes.io/no-provisioner,
 metadata: {name: standard, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}}
EOF
echo "up.sh: a node is up; $W/ns.sh kubectl get nodes"
