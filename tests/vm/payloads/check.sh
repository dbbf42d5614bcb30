#!/bin/bash
# What `nfs-cachefs check`, `status` and `why` say of this kernel, held against what it shows by itself: passthrough since Linux 6.9, the ring
# transport since 6.14.
. /payload/lib.sh
. /payload/settings
server=/srv/nfs
backend=/mnt/nfs
cached=/mnt/cached
install_product
check "the cache disk is formatted and mounted" format_cache_disk xfs
mkdir -p $server
vm-tool write $server/file 7 1 $((8 << 20))
export_directory $server
check "the server starts" server_start
check "NFS mounts" mount_nfs 4.2 $server $backend

# says SUBJECT MARK [WORDS]: of what `check` tried, ok or --.
says() { grep -E "^$2 +$1 .*${3:-}" /run/says; }
check "check runs" bash -c "nfs-cachefs check --cache-dir /mnt/nvme/cache --backend $backend >/run/says"
sed 's/^/    /' /run/says
check "it finds nothing that keeps the daemon from running" bash -c '! grep "^NO" /run/says'
check "FUSE is there" says FUSE ok protocol
check "io_uring is there" says io_uring ok

check "mounts" mount_cached $backend $cached
check "a file is read" vm-tool verify $cached/file 7
check "and again" vm-tool verify $cached/file 7
# Whom the kernel asks shows with a daemon that cannot answer.
reads_while_stopped() {
    local status=0 pid
    pid=$(daemon_pid $cached)
    exec 7<$cached/file
    drop_caches
    kill -STOP "$pid"
    # It does no more than read: Linux 7.2 asks the daemon for the attributes that fstat tells.
    timeout -s KILL 5 dd bs=64K status=none <&7 >/run/read || status=$?
    kill -CONT "$pid"
    exec 7<&-
    [ $status != 0 ] || cmp /run/read $server/file || status=$?
    return $status
}
waits_while_stopped() {
    local status=0
    reads_while_stopped || status=$?
    [ $status = 137 ]
}
if since 6.9; then
    check "check: passthrough is there" says passthrough ok
    check "status: too" status_has $cached '"passthrough":"on"'
    check "the kernel reads by itself" reads_while_stopped
else
    check "check: passthrough is not there, and why" says passthrough -- "Linux 6.9"
    check "status: neither" bash -c "! nfs-cachefs status $cached --json | tr -d ' \n' | grep '\"passthrough\":\"on\"'"
    check "the kernel asks the daemon" waits_while_stopped
fi
if since 6.14; then
    switch=$(cat /sys/module/fuse/parameters/enable_uring)
    [ "$switch" = Y ] && mark=ok || mark=--
    check "check: the ring transport is there, switched $switch" says "FUSE ring transport" $mark switched
else
    check "check: the ring transport is not in this kernel" says "FUSE ring transport" -- "Linux 6.14"
fi
if [ -e /proc/sys/kernel/io_uring_disabled ]; then
    echo 2 >/proc/sys/kernel/io_uring_disabled
    nfs-cachefs check --cache-dir /mnt/nvme/cache --backend $backend >/run/says
    check "check: io_uring is switched off, and by what" says io_uring -- kernel.io_uring_disabled=2
    check "what is mounted goes on" vm-tool verify $cached/file 7
    echo 0 >/proc/sys/kernel/io_uring_disabled
fi
check "unmounts" umount $cached
summary
