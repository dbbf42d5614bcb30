#!/bin/bash
# What read-nfs and write-nfs leave out of a server's absences: an export withdrawn and given back, a server stopped for long, a
# network cut, under NFS mounts that wait for ever (hard) and that give up (soft). What is cached never waits, what is not ends in time, all
# goes on by itself, and umount ends in the middle.
. /payload/lib.sh
. /payload/settings

away_s=10
kinds="3:soft 4.2:hard"
if [ -n "$CACHEFS_LONG" ]; then
    away_s=60
    kinds="3:hard 3:soft 4.2:hard 4.2:soft"
fi
server=/srv/nfs
backend=/mnt/nfs
cached=/mnt/cached
install_product
check "the cache disk is formatted and mounted" format_cache_disk xfs
mkdir -p $server/directory
vm-tool write $server/hot 7 1 $((8 << 20))
echo known >$server/directory/small
export_directory $server
check "the server starts" server_start

export_withdraw() { exportfs -u 127.0.0.1:$server && exportfs -f; }
export_return() { exportfs -r && exportfs -f; }

ends_in() { # LIMIT_S COMMAND...: whatever it says
    local status=0
    timeout -k 5 "$@" >/dev/null 2>&1 || status=$?
    [ $status != 124 ] && [ $status != 137 ]
}

# away HOW LEAVE RETURN
away() {
    local what="$label: $1" status=0 probe
    vm-tool write $server/cold 7 1 2000000
    vm-tool write $server/changing 7 1 2000000
    vm-tool verify $cached/hot 7 >/dev/null
    vm-tool verify $cached/changing 7 >/dev/null
    ls -l $cached/directory >/dev/null
    drop_caches
    vm-tool probe $cached/hot 7 $((away_s + 4)) 900 >/run/probe.out 2>&1 &
    probe=$!
    sleep 2
    check "$what: the server goes" $2
    check "$what: an open of what is known" ends_in 10 vm-tool verify $cached/hot 7
    check "$what: a listing" ends_in 10 ls -l $cached/directory
    check "$what: a read of what is not known" ends_in 60 cat $cached/cold
    sleep $away_s
    vm-tool write $server/changing 7 2 2000000
    check "$what: status" timeout 10 nfs-cachefs status $cached
    wait $probe || status=$?
    check_equal "$what: hits did not wait ($(tail -n 1 /run/probe.out))" 0 $status
    check "$what: the server is back" $3
    check "$what: it is found" wait_until 120 status_has $cached '"reachable":true'
    check "$what: what was not known is read" wait_until 60 timeout 60 vm-tool verify $cached/cold 7
    check "$what: what was known is" timeout 60 vm-tool verify $cached/hot 7
    check_equal "$what: what has changed is seen" 2 "$(timeout 60 vm-tool verify $cached/changing 7)"
    check_equal "$what: names are as they were" "$(ls $server)" "$(timeout 60 ls $cached)"
    rm $server/cold $server/changing
}

# umount_while_away HOW LEAVE RETURN
umount_while_away() {
    local what="$label: $1"
    vm-tool verify $cached/hot 7 >/dev/null
    check "$what: the server goes" $2
    # Not below timeout(1), which would be what is killed.
    cat $cached/directory/small $cached/nothing >/dev/null 2>&1 &
    local reader=$!
    sleep 2
    kill -9 $reader
    check "$what: who waits ends when killed" timeout 5 tail --pid=$reader -f /dev/null
    wait $reader 2>/dev/null
    check "$what: umount ends" timeout 60 nfs-cachefs umount $cached
    check_equal "$what: it is gone" 0 "$(mounts_of $cached)"
    check "$what: mounts without the server" mount_cached $backend $cached
    # A withdrawn export is a server that refuses, which is believed.
    [ "$2" = export_withdraw ] || check "$what: and serves what is known" wait_until 20 timeout 10 vm-tool verify $cached/hot 7
    check "$what: nothing known waits" ends_in 10 vm-tool verify $cached/hot 7
    check "$what: the server is back" $3
    check "$what: it is found" wait_until 120 status_has $cached '"reachable":true'
}

for kind in $kinds; do
    version=${kind%:*}
    label="v$version ${kind#*:}"
    options=${kind#*:}
    [ $options = hard ] || options+=,timeo=50,retrans=2
    check "$label: NFS mounts" mount_nfs $version $server $backend "$options"
    check "$label: mounts" mount_cached $backend $cached
    away withdrawn export_withdraw export_return
    away stopped server_stop server_start
    away dropped network_drop network_restore
    umount_while_away "umount, withdrawn" export_withdraw export_return
    umount_while_away "umount, stopped" server_stop server_start
    umount_while_away "umount, dropped" network_drop network_restore
    check "$label: unmounts" timeout 60 umount $cached
    check "$label: NFS unmounts: nothing of ours is left on it" wait_until 120 umount $backend
    find /mnt/nvme/cache -mindepth 1 -delete
done
summary
