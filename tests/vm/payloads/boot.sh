#!/bin/bash
# What an administrator does, and what becomes of it at the next boots: the package, the lines of the README for /etc/fstab, a
# server that is there, one that refuses, one that does not answer.
. /payload/lib.sh
. /payload/settings
use_package
cached=/mnt/cached
cache_mount=mnt-cached.mount
fstab=/etc/fstab.before

# The README's lines for /etc/fstab: of NFS and of the cache.
readme_line() { sed -n '/^\*\*\/etc\/fstab/,/^\*\*\/etc\/nfs/p' /usr/share/doc/nfs-cachefs/README.md | grep ' 0 0$' | sed -n "$1p"; }
# use_lines LINE...: the machine's own, and these.
use_lines() {
    cat $fstab - >/etc/fstab <<<"$(printf '%s\n' "$@")"
    systemctl daemon-reload
}
file_is() { test "$1" = "$(timeout 60 vm-tool verify $cached/file 7)"; }
# Microseconds after the kernel's start at which a unit was up.
up_at() { systemctl show -P ActiveEnterTimestampMonotonic "$1"; }
mounted_by_systemd() { [ "$(systemctl show -P ActiveState $cache_mount)" = active ]; }
boots() {
    say "   the shutdown took $(shutdown_s) s, until now $(now) s"
    check "$label: the machine has shut down in time" test "$(shutdown_s)" -lt 150
    check "$label: every mount went in its turn" went_in_turn
    check "$label: it boots" booted
    check "$label: no unit of ours has failed" bash -c '! systemctl list-units --failed --all --plain --no-legend | grep -E "cachefs|mnt-cached"'
}
# The server's answer is needed for what is not cached; what is cached never waits for it.
is_served_without_server() {
    check "$label: what is cached is served" file_is 1
    check "$label: and listed" ls $cached
    check "$label: what is not cached is refused in time" bash -c "! timeout 60 cat $cached/cold-$label >/dev/null"
    check "$label: status says why" status_has $cached '"reachable":false'
}
heals() {
    check "$label: it is found when it is back" wait_until 150 status_has $cached '"reachable":true'
    check "$label: and read" timeout 60 vm-tool verify $cached/cold-$label 7
}

first_stage() {
    install_package
    check "it has a man page for the helper" test -s /usr/share/man/man8/mount.cachefs.8.gz
    check "and runs" nfs-cachefs --version
    check "systemd knows its unit" systemctl cat nfs-cachefs@data.service
    prepare_machine
    cp /etc/fstab $fstab
    export_directory /data
    for name in file cold-refused cold-dropped; do vm-tool write /data/$name 7 1 1000000; done
    systemctl -q enable rpcbind.socket nfs-server
    check "the server starts" server_start
    check "systemd takes the README's lines" use_lines "$(readme_line 1)" "$(readme_line 2)"
    check "mount -a" timeout 200 mount -a
    check "mount -a again" timeout 200 mount -a
    check_equal "mounts once" 1 "$(mounts_of $cached)"
    check_equal "findmnt shows the source" /mnt/nfs "$(findmnt -n -o SOURCE $cached)"
    check "and options" bash -c "findmnt -n -o OPTIONS $cached | grep -q default_permissions"
    check "it is read" file_is 1
    check "the package is installed over itself" dpkg -i "$package"
    check "and the mount goes on" file_is 1
    next_boot present
}

present_stage() {
    label=present
    boots
    check "present: systemd has mounted it" wait_until 60 mounted_by_systemd
    check "present: after the cache disk" test "$(up_at nvme.mount)" -le "$(up_at $cache_mount)"
    check "present: and after what mounts the export" test "$(up_at mnt-nfs.automount)" -le "$(up_at $cache_mount)"
    # A boot waits neither for the export nor for its server.
    check "present: the server is found" wait_until 150 status_has $cached '"reachable":true'
    check_equal "present: the export is mounted" nfs4 "$(findmnt -n -o FSTYPE -t nfs4 /mnt/nfs)"
    check "present: it is read" file_is 1
    check "present: and listed" ls $cached
    # What is known of it is on disk within about a second.
    sleep 2
    check "present: the export cannot be taken away below it" bash -c '! timeout 100 systemctl stop mnt-nfs.mount'
    check "present: and is read on" file_is 1
    check "present: umount" timeout 60 umount $cached
    check "present: mount" timeout 60 mount $cached
    check "present: it is read" file_is 1
    systemctl -q disable nfs-server
    next_boot refused
}

refused_stage() {
    label=refused
    boots
    check "refused: systemd has mounted it" wait_until 60 mounted_by_systemd
    is_served_without_server
    check "refused: the server starts" server_start
    heals
    # At the next boot by v3.
    use_lines "$(readme_line 1 | sed 's/vers=4.2/vers=3,nolock/')" "$(readme_line 2)"
    systemctl -q enable nfs-server nftables
    cat >/etc/nftables.conf <<'N'
table inet vmtest {
    chain drop_nfs { type filter hook input priority 0; tcp dport 2049 drop; tcp sport 2049 drop; }
}
N
    next_boot dropped
}

dropped_stage() {
    label=dropped
    boots
    check "dropped: systemd has mounted it" wait_until 60 mounted_by_systemd
    is_served_without_server
    network_restore
    heals
    network_drop
    next_boot last
}

last_stage() {
    label=last
    boots
    summary
}
"$(stage)_stage"
