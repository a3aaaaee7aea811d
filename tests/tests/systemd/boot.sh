#!/bin/sh
# Boots a container with systemd for each line of standard input, and prints `off` when the container
# has ended. The container keeps its disk until this script ends, and its bpffs until it is shut down.
# The script needs mount and process namespaces of its own. If it is killed, the container ends too.
set -eu

root=$1      # a Debian, which stays unchanged
folder=$2    # files/ in here is copied over it
namespace=$3 # the container's network namespace
natbpf=$4    # the binary

name=$(basename "$namespace")
machine=$folder/machine
mkdir "$machine"
mount -t tmpfs natbpf "$machine"
cd "$machine"
mkdir upper work root bpf
mount -t overlay -o "lowerdir=$root,upperdir=upper,workdir=work" overlay root
cp -R "$folder/files/." root
touch root/usr/sbin/natbpf

# systemd-nspawn creates files below this directory.
mkdir -p /run/systemd
mount -t tmpfs systemd /run/systemd

# The container uses cgroup2, also if this host uses the first version. A run that was killed leaves
# its control groups; later runs remove them, maybe several at once, so that one may find them gone.
[ -d /sys/fs/cgroup ] || mount -t sysfs sysfs /sys
mount -t cgroup2 natbpf /sys/fs/cgroup || {
    echo "containers need cgroup2: this kernel, or the container of this test, has none" >&2
    exit 1
}
groups=/sys/fs/cgroup/natbpf-test
mkdir -p "$groups"
find "$groups" -mindepth 1 -depth -type d -mmin +60 -exec rmdir {} \; 2>/dev/null || true
group=$groups/$name
mkdir "$group"

# This is systemd-nspawn of the Debian, with its loader and libraries: the host needs none.
loader=$(echo "$root"/lib*/ld-linux-*.so.*)
libraries=$(echo "$root"/usr/lib/*-linux-gnu)
# natbpf takes the bpffs, by its name, for one that it has mounted itself. How the container ended,
# the test judges: the script goes on.
while read -r _; do
    unshare --mount --propagation private sh -c '
        set -eu
        group=$1
        shift
        mount -t bpf -o mode=700 natbpf bpf
        echo 0 >"$group/cgroup.procs"
        exec "$@"
    ' boot "$group" "$loader" --library-path "$libraries:$libraries/systemd" \
        "$root/usr/bin/systemd-nspawn" --quiet --settings=no --keep-unit --register=no \
        --notify-ready=yes --boot --console=pipe --machine="$name" --directory="$machine/root" \
        --network-namespace-path="$namespace" --private-network --resolv-conf=off --timezone=off \
        --capability=all --system-call-filter='bpf perf_event_open' \
        --bind="$machine/bpf:/sys/fs/bpf" --bind-ro="$natbpf:/usr/sbin/natbpf" \
        </dev/null >&2 || true
    echo off
done
find "$group" -depth -type d -exec rmdir {} \;
# Another run may still use it.
rmdir "$groups" 2>/dev/null || true
