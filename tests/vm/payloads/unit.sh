#!/bin/bash
# nfs-cachefs@.service: started, reloaded, restarted under load, killed with its guard beside it, stopped dead; what is dirty at a shutdown is there after it.
. /payload/lib.sh
. /payload/settings
use_package
cached=/mnt/cached
unit=nfs-cachefs@data.service
dirty_mib=24
[ -z "$CACHEFS_LONG" ] || dirty_mib=200

property() { systemctl show -P "$1" $unit; }
is_active() { [ "$(property ActiveState)" = active ]; }
# Mounted, and by a daemon that answers.
serves() { is_active && [ "$(mounts_of $cached)" = 1 ] && timeout 10 vm-tool verify $cached/file 7 >/dev/null; }
was_warmed() {
    local warm=nfs-cachefs-warm@data.service
    [ "$(systemctl show -P ExecMainExitTimestampMonotonic $warm)" != 0 ] && [ "$(systemctl show -P ExecMainStatus $warm)" = 0 ]
}
restarts() { [ "$(property NRestarts)" -ge "$1" ]; }
# guards PID: processes beside that daemon.
guards() { pgrep -c -f "^cachefs-guard $1 " || true; }

first_stage() {
    install_package
    prepare_machine
    export_directory /data
    vm-tool write /data/file 7 1 3000000
    install -d -m 700 -o 1000 -g 1000 /data/theirs
    install -m 600 -o 1000 -g 1000 /etc/passwd /data/theirs/secret
    systemctl -q enable rpcbind.socket nfs-server
    check "the server starts" server_start
    echo "server:/data /mnt/nfs nfs vers=4.2,_netdev,x-systemd.automount 0 0" >>/etc/fstab
    systemctl daemon-reload
    systemctl start mnt-nfs.automount
    printf 'BACKEND=/mnt/nfs\nMOUNTPOINT=%s\nOPTIONS=cache_dir=/nvme/cache,cache_size=200G,write_mode=back,journal_dir=/nvme/journal,journal_size=512M\n' \
        $cached >/etc/nfs-cachefs/data.conf
    echo $cached/warmed >/etc/nfs-cachefs/data.warm
    vm-tool write /data/warmed 8 1 2000000
    # A watchdog that a test can wait for.
    mkdir -p /etc/systemd/system/$unit.d
    printf '[Service]\nWatchdogSec=20\n' >/etc/systemd/system/$unit.d/watchdog.conf
    systemctl daemon-reload

    check "the unit is enabled and started" systemctl enable --now $unit
    check "it serves" serves
    say "   $(systemd-analyze security --no-pager $unit | tail -n 1)"
    check "io_uring works in it" status_has $cached '"engine":{"name":"uring"'
    ! since 6.9 || check "and passthrough" status_has $cached '"passthrough":"on"'
    check "its owner reads a file" setpriv --reuid 1000 --regid 1000 --clear-groups cat $cached/theirs/secret
    check "nobody else does" bash -c "! setpriv --reuid 1001 --regid 1001 --clear-groups cat $cached/theirs/secret"

    printf '[default]\nwrite_limit = "7G/day"\n' >/etc/nfs-cachefs.toml
    check "it is reloaded" systemctl reload $unit
    check "with what has changed" status_has $cached '"name":"write_limit","value":"7G'
    check "what is warmed up" systemctl enable --now nfs-cachefs-warm@data
    check "is cached" nfs-cachefs warm --check $cached/warmed

    for reader in 1 2 3; do
        (while [ ! -e /run/enough ]; do vm-tool verify $cached/file 7 || sleep 0.2; done) >/run/reader$reader 2>&1 &
    done
    check "it is restarted under load" systemctl restart $unit
    check "and serves" wait_until 60 serves
    : >/run/enough
    wait
    check "no reader got wrong bytes" bash -c '! grep -E "MIXED|FOREIGN" /run/reader?'

    killed=$(property MainPID)
    check_equal "a guard is beside it" 1 "$(guards "$killed")"
    kill -9 "$killed"
    check "killed, it is started again" wait_until 60 restarts 1
    check "and serves" wait_until 60 serves
    check_equal "the guard has gone with it" 0 "$(guards "$killed")"
    kill -STOP "$(property MainPID)"
    check "stopped dead, it is killed and started again" wait_until 150 restarts 2
    check "and serves" wait_until 60 serves
    killed_in_the_kernel
    next_boot dirty
}

# The server's disk answers no more: what is known of the file comes, its bytes do not. A program waits for a page of it, one of the daemon's threads
# in the kernel for the same page, as the file has changed; neither ends when the daemon is killed.
killed_in_the_kernel() {
    local unit=nfs-cachefs@stalling.service cached=/mnt/stalling nfs=/mnt/stalling-nfs disk=/nvme/stalling killed reader told
    truncate -s 64M $disk
    modprobe dm_mod
    disk=$(losetup -f --show $disk)
    check "stalling: a disk" dmsetup create stalling --table "0 131072 linear $disk 0"
    mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0 /dev/mapper/stalling
    mkdir -p /stalling $cached
    mount -o noatime /dev/mapper/stalling /stalling
    vm-tool write /stalling/file 7 1 3000000
    # Of a small file the open would wait.
    vm-tool write /stalling/waited 7 1 $((16 << 20))
    export_directory /stalling
    check "stalling: NFS mounts" mount_nfs 3 /stalling $nfs actimeo=1
    printf 'BACKEND=%s\nMOUNTPOINT=%s\nOPTIONS=cache_dir=/nvme/stalling-cache\n' $nfs $cached >/etc/nfs-cachefs/stalling.conf
    check "stalling: the unit starts" systemctl start $unit
    check "stalling: it serves" serves
    is_active || return
    stat /stalling/waited $cached/waited >/dev/null
    sync
    # What the server still has in memory would be given out before the change: the read after that fails with ESTALE, and nobody waits.
    for _ in 1 2 3; do
        echo 1 >/proc/sys/vm/drop_caches
        sleep 0.5
    done
    # Each of the server's that reads the disk hangs, and some are left to tell attributes.
    echo 96 >/proc/fs/nfsd/threads
    check "stalling: the disk stalls" dmsetup suspend --nolockfs --noflush stalling
    timeout 300 cat $cached/waited >/run/waited 2>&1 &
    reader=$!
    sleep 2
    touch /stalling/waited
    killed=$(property MainPID)
    if wait_until 60 kernel_waits "$killed" $cached/waited; then
        told=1
    else
        told=0
        who_waits "$killed" "$reader"
        timeout 10 nfs-cachefs status $cached
        tail -c 200 /run/waited | tr -c '[:print:]' .
    fi
    check_equal "stalling: the kernel is told, and waits" 1 $told
    kill -9 "$killed"
    check "stalling: who waits for the killed daemon ends" timeout 30 tail --pid=$reader -f /dev/null
    check "stalling: it is started again" wait_until 60 restarts 1
    check "stalling: and serves what it knows, and nothing else is mounted there" wait_until 60 serves
    check "stalling: it is listed" timeout 60 ls $cached
    check_equal "stalling: the guard has gone with the killed" 0 "$(guards "$killed")"
    check "stalling: the disk is back" dmsetup resume stalling
    check "stalling: and what was waited for is read" timeout 60 vm-tool verify $cached/waited 7
    check_equal "stalling: a guard is beside the new daemon" 1 "$(guards "$(property MainPID)")"
    check "stalling: the unit stops" systemctl stop $unit
    check_equal "stalling: and leaves no guard" 0 "$(pgrep -c -f "^cachefs-guard .* $cached$")"
    check "stalling: nothing of ours is left on NFS" wait_until 60 umount $nfs
    sed -i "\\#^/stalling #d" /etc/exports
    exportfs -r
    exportfs -f
    check "stalling: nor on the server" wait_until 60 umount /stalling
    dmsetup remove stalling
    losetup -d "$disk"
}
# A thread of the daemon is in state D (proc_pid_stat(5)) once it has heard that the file has changed.
kernel_waits() { # PID FILE
    timeout 5 stat "$2" >/dev/null
    grep -lE "^[0-9]+ \(fuse-forget\) D" /proc/"$1"/task/*/stat
}

# who_waits PID...: and for what in the kernel.
who_waits() {
    local pid task
    for pid in "$@" $(pgrep -x nfsd); do
        for task in /proc/"$pid"/task/*; do
            echo "    $(<"$task/comm"): $(grep State "$task/status"): $(grep -oE '[a-z0-9_]+\+' "$task/stack" | tr '\n' ' ')"
        done
    done | sort | uniq -c
}

# boots LIMIT_S: how long the shutdown before may have taken.
boots() {
    say "   the shutdown took $(shutdown_s) s, until now $(now) s"
    check "$label: the machine has shut down in time" test "$(shutdown_s)" -lt "$1"
    check "$label: it boots" booted
    check "$label: the unit serves" wait_until 200 is_active
}

dirty_stage() {
    label=dirty
    boots 200
    check "dirty: every mount went in its turn" went_in_turn
    check_equal "dirty: of the export, not of its mountpoint" nfs4 "$(findmnt -n -o FSTYPE -t nfs4 /mnt/nfs)"
    check "dirty: it is read" serves
    check "dirty: and warmed up" wait_until 100 was_warmed
    vm-tool write /nvme/source 9 1 $((dirty_mib << 20))
    # What is open goes on without the server.
    exec 7>$cached/dirty
    # First: with the server away what it starts again, of systemd, may wait for the NFS mounts.
    systemctl -q disable nfs-server
    check "dirty: the server stops" server_stop
    begin=$(now)
    LIMIT_S=120 check "dirty: $dirty_mib MiB are written without it" bash -c "cat /nvme/source >&7"
    # An emulated disk may have lost an interrupt, for which the kernel waits 30 s.
    say "   that took from $begin; the disk: $(dmesg | grep -cE 'nvme.*timeout') timeouts"
    journalctl -b -u $unit --no-pager -q -o short-monotonic -n 4 | sed 's/^/    /'
    exec 7>&-
    check "dirty: and are in the journal" status_has $cached '"dirty_bytes":'$((dirty_mib << 20))
    next_boot drained
}

drained_stage() {
    label=drained
    # The daemon had ended in time, but for threads that hang in a hard NFS mount: systemd kills them in vain, four times.
    boots 480
    check "drained: what was dirty is not on the server" test ! -s /data/dirty
    check "drained: the server starts" server_start
    check "drained: it is read" wait_until 60 timeout 60 cmp /nvme/source $cached/dirty
    check "drained: what was written comes there" timeout 300 nfs-cachefs flush --wait $cached
    check "drained: as it was" cmp /nvme/source /data/dirty
    exec 7<$cached/warmed
    check "the unit stops with a file open" systemctl stop $unit
    check_equal "and has not failed" inactive "$(property ActiveState)"
    check_equal "and leaves nothing mounted" 0 "$(mounts_of $cached)"
    exec 7<&-
    summary
}
"$(stage)_stage"
