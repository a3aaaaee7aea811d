#!/bin/sh
# The guest's first process: what a system makes before any program runs, then the tests. The second
# serial line is the tests' alone, the first one the kernel's.
export PATH=/usr/bin TMPDIR=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
exec </dev/null >/dev/ttyS1 2>&1
stty raw </dev/ttyS1
# Its device node comes with the module.
modprobe tun
ip link set lo up
cd /
. /tests.sh
# Off: without this, QEMU would wait for its time limit.
echo o >/proc/sysrq-trigger
while :; do read -r _ </dev/ttyS0; done
