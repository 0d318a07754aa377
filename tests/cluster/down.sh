#!/usr/bin/env bash
# Ends what up.sh started in WORK, pods included, and removes its namespaces and mounts.
#
#   down.sh WORK
set -uo pipefail

W=$(realpath "$1")
cd "$W" || exit
[ -x ns.sh ] || exit 0

# Pods first, while somebody is there to end them.
./ns.sh kubectl delete deployments,statefulsets,daemonsets,jobs,pods --all -A \
    --wait=false --force --grace-period=0 --request-timeout=5s >/dev/null 2>&1
sleep 2
# The last started ends first: an API server without etcd hangs in its shutdown.
tac pids | while read -r pid; do kill "$pid" 2>/dev/null; done
sleep 2
while read -r pid; do kill -KILL "$pid" 2>/dev/null; done <pids
# The shims of pods that nobody ended outlive containerd. Theirs is the socket in WORK.
for process in /proc/[0-9]*; do
    if tr '\0' ' ' 2>/dev/null <"$process/cmdline" | grep -q "^[^ ]*containerd-shim-runc-v2 .*$W/"; then
        kill -KILL "${process#/proc/}" 2>/dev/null
    fi
done
# The namespaces of pods are named cni-UUID; containerd wrote down which are its own.
grep -rhoa 'netns/cni-[0-9a-f-]*' containerd/root/io.containerd.metadata.v1.bolt/meta.db 2>/dev/null | sort -u |
    while read -r name; do ip netns del "${name#netns/}" 2>/dev/null; done
ip netns del "$(sed -n 's|.*--net=/run/netns/\([^ ]*\).*|\1|p' ns.sh)" 2>/dev/null
awk -v work="$W/" 'index($2, work) == 1 {print $2}' /proc/mounts | tac |
    while read -r mount; do umount -l "$mount" 2>/dev/null; done
exit 0
