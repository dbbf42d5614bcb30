#!/bin/bash
# The harness itself: disk, NFS v3 and v4.2, a server that goes away, FUSE, io_uring, and a vm-tool that
# finds what it should find.
. /payload/lib.sh

say "kernel $(uname -r), $(nproc) processors, pid 1 is $(ps -p1 -o comm=)"
check "the cache disk is formatted and mounted" format_cache_disk xfs
export_directory /srv/nfs
export_directory /srv/squashed root_squash
check "the server starts" server_start
check "NFS v3 mounts" mount_nfs 3 /srv/nfs /mnt/nfs3
check "NFS v4.2 mounts" mount_nfs 4.2 /srv/nfs /mnt/nfs4
check "a root_squash export mounts" mount_nfs 4.2 /srv/squashed /mnt/squashed
check "root is nobody there" bash -c '! touch /mnt/squashed/x'

check "a file is written" vm-tool write /srv/nfs/file 7 3 $((3 << 20))
for version in 3 4; do
    check_equal "v$version: its version is read" 3 "$(vm-tool verify /mnt/nfs$version/file 7)"
    check "v$version: random readers" vm-tool read-random /mnt/nfs$version/file 7 50
    check "v$version: a mapping" vm-tool map-verify /mnt/nfs$version/file 7 --between true
    before=$(nfs_reads /mnt/nfs$version)
    drop_caches
    vm-tool verify /mnt/nfs$version/file 7 >/dev/null
    check "v$version: READ calls are counted" test "$(nfs_reads /mnt/nfs$version)" -gt "$before"
done
cp /srv/nfs/file /srv/nfs/mixed
vm-tool write /srv/nfs/other 7 4 $((3 << 20))
dd if=/srv/nfs/other of=/srv/nfs/mixed bs=4096 skip=100 seek=100 count=1 conv=notrunc status=none
check "a mix is found" bash -c 'vm-tool verify /srv/nfs/mixed 7 2>&1 | grep -q MIXED'
fallocate -p -o 409600 -l 4096 /srv/nfs/mixed
check "zeros are found" bash -c 'vm-tool verify /srv/nfs/mixed 7 2>&1 | grep -q FOREIGN'
# Torture without any cache between must pass...
check "torture passes on the directory itself" vm-tool torture /srv/nfs/t /srv/nfs/t 6 --size-bytes 1048576
# ...and a client that does not look at the server again must not.
# (v3: a v4 server would recall the delegation and so tell the client)
check "NFS v3 that never revalidates mounts" mount_nfs 3 /srv/nfs /mnt/stale actimeo=3600,nocto
check "torture fails on a client that never looks again" bash -c '! vm-tool torture /mnt/stale/s /srv/nfs/s 6 --size-bytes 1048576'

check "a tree is written" vm-tool tree-write /srv/nfs/tree 1 130 4000000
check_equal "its checksum is the same over v4.2" "$(vm-tool tree-sum /srv/nfs/tree)" "$(vm-tool tree-sum /mnt/nfs4/tree)"
check_equal "its checksum is the same over v3" "$(vm-tool tree-sum /srv/nfs/tree)" "$(vm-tool tree-sum /mnt/nfs3/tree)"

drop_caches
check "the network is dropped" network_drop
check "a reader hangs then" bash -c '! timeout -s KILL 3 cat /mnt/nfs4/file >/dev/null'
check "the network is back" network_restore
LIMIT_S=60 check "and the reader goes on" vm-tool verify /mnt/nfs4/file 7
check "the server stops" server_stop
check "the server starts again" server_start
LIMIT_S=60 check "v3 goes on" vm-tool verify /mnt/nfs3/file 7
LIMIT_S=60 check "v4.2 goes on" vm-tool verify /mnt/nfs4/file 7

mkdir -p /mnt/bind
check "FUSE mounts (bindfs)" bindfs /mnt/nfs4 /mnt/bind
check "and reads" vm-tool verify /mnt/bind/file 7
check "FUSE unmounts" umount /mnt/bind
check_equal "io_uring is on" 0 "$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || echo 0)"
check "everything unmounts" umount /mnt/stale /mnt/nfs3 /mnt/nfs4 /mnt/squashed /mnt/nvme
summary
