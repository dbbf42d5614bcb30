#!/bin/bash
# nfs-cachefs@.service: started, reloaded, restarted under load, killed, stopped dead; what is dirty at a shutdown is there after it.
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
    check "and passthrough" status_has $cached '"passthrough":"on"'
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

    kill -9 "$(property MainPID)"
    check "killed, it is started again" wait_until 60 restarts 1
    check "and serves" wait_until 60 serves
    kill -STOP "$(property MainPID)"
    check "stopped dead, it is killed and started again" wait_until 150 restarts 2
    check "and serves" wait_until 60 serves
    next_boot dirty
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
    check "dirty: the server stops" server_stop
    systemctl -q disable nfs-server
    check "dirty: $dirty_mib MiB are written without it" bash -c "cat /nvme/source >&7"
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
