#!/bin/busybox sh
# The guest's first process. The first serial line is the kernel's; on the second, each line that comes is a
# command, answered by its output, an empty line, and its exit code.
/bin/busybox mkdir -p /proc /sys /dev /etc /tmp /www
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec </dev/ttyS1 >/dev/ttyS1 2>&1
stty raw -echo
for word in $(cat /proc/cmdline); do
    case $word in
    guest=*) hostname "${word#guest=}" ;;
    esac
done
# Some need others, so none is loaded before its time.
for _ in 1 2 3 4; do
    for module in /modules/*.ko; do
        insmod "$module" 2>/dev/null && rm "$module"
    done
done
ip link set lo up
ip link set eth0 up
echo "guest: ready"
while read -r line; do
    sh -c "$line"
    code=$?
    echo
    echo "guest: $code"
done
poweroff -f
