#!/bin/busybox sh
# What udhcpc calls with what it has been told.
case $1 in
bound | renew)
    ip addr replace "$ip/$mask" dev "$interface"
    ip route replace default via "$router"
    for server in $dns; do
        echo "nameserver $server"
    done >/etc/resolv.conf
    echo "search $domain" >>/etc/resolv.conf
    ;;
esac
