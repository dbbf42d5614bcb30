#!/bin/bash
# machine: lossy_disks=4
# Written back through a journal on three disks, and the power goes while writers sync: what was acknowledged is there after the next
# boot, nothing but what some step left, and comes to the server. Then what may hinder it on its way there.
#
# The log of what was acknowledged is on the root disk, which keeps all that reached it; so is what the server has on stable storage.
. /payload/lib.sh
. /payload/settings

cuts=1
[ -z "$CACHEFS_LONG" ] || cuts=30
cuts=${CACHEFS_VM_CUTS:-$cuts}
cached=/mnt/cached
backend=/mnt/nfs
cache_dirs=/nvme0/cache:/nvme1/cache:/nvme2/cache

# By turns; each with a tree and a journal of its own, as either is another mount.
use_version() { # NUMBER
    version=4.2
    [ $(($1 % 2)) = 1 ] || version=3
    label="cut $1, v$version"
    server=/srv/v$version
    log=/var/lib/acknowledged-v$version
    journal=/nvme0/v$version:/nvme1/v$version:/nvme2/v$version
}
mount_disks() {
    local number
    for number in 0 1 2; do
        mkdir -p /nvme$number && mount "/run/disk/lossy$number" /nvme$number || return 1
    done
}
# mount_back BACKEND MOUNTPOINT CACHE_DIRS [OPTIONS]
mount_back() { CACHE_DIR=$3 mount_cached "$1" "$2" "write_mode=back,journal_dir=$journal,erasure=2+1,journal_size=128M${4:+,$4}"; }
# bring_up: the server and both mounts.
bring_up() {
    check "$label: NFS mounts" mount_nfs $version $server $backend
    check "$label: mounts" mount_back $backend $cached $cache_dirs
    check "$label: no disk of the journal is missing" nfs-cachefs journal status $cached
}
take_down() {
    check "$label: unmounts" timeout 200 nfs-cachefs umount $cached
    check "$label: and leaves nothing on NFS" wait_until 60 umount $backend
}

# What a disk was told to flush outlives the cut, and nothing else does: else the rest would show nothing. (Of less than a block dd
# makes a write that it flushes.)
block() { head -c 65536 /dev/zero | tr '\0' "$1"; }
mark_disk() {
    block a | dd of=/run/disk/lossy3 bs=64k iflag=fullblock oflag=direct conv=fsync,notrunc status=none &&
        block b | dd of=/run/disk/lossy3 bs=64k iflag=fullblock seek=16 oflag=direct conv=notrunc status=none
}
has_mark() { head -c 65536 /run/disk/lossy3 | cmp -s - <(block a); }
has_lost_mark() { dd if=/run/disk/lossy3 bs=64k skip=16 count=1 status=none | cmp -s - <(head -c 65536 /dev/zero); }

is_acknowledged() { [ -s $log ] && [ "$(wc -l <$log)" -gt $((lines_before + 8)) ]; }
# write_until_cut NUMBER: by turns with the server there and with its network gone.
write_until_cut() {
    mkdir -p $cached/work
    : >>$log
    lines_before=$(wc -l <$log)
    vm-tool power-write $cached/work $log >/run/writers.out 2>&1 &
    check "$label: writers are acknowledged" wait_until 100 is_acknowledged
    if [ $((($1 + 1) / 2 % 2)) = 1 ]; then
        check "$label: the network goes first" network_drop
        lines_before=$(wc -l <$log)
        check "$label: and they go on" wait_until 100 is_acknowledged
    fi
    check "$label: the lossy disk is marked" mark_disk
    say "   $label: $(wc -l <$log) acknowledged in all; the power goes"
    power_cut "$(($1 + 1))"
}

after_cut() {
    local here there
    check "$label: the cut was one" has_lost_mark
    check "$label: and no more" has_mark
    bring_up
    say "   $label: acknowledged: $(last_acknowledged)"
    here=$(timeout 200 vm-tool power-check $cached/work $log 2>&1)
    check "$label: what was acknowledged is there, as some step left it" test $? = 0
    say "   $label: found: $here"
    check "$label: it comes to the server" wait_until 300 timeout 200 nfs-cachefs flush --wait $cached
    check "$label: clashes with nobody" nfs-cachefs conflicts $cached
    there=$(timeout 200 vm-tool power-check $server/work $log 2>&1)
    check_equal "$label: and is the same there" "$here" "$there"
    check_equal "$label: and nothing else is" "$(ls $cached/work)" "$(ls $server/work)"
    for file in $server/work/*; do
        check "$label: ${file##*/} byte by byte" cmp $cached/work/${file##*/} $file
    done
    take_down
}
last_acknowledged() { sort -k1,1 -k2,2n $log | awk '{ last[$1] = $2 } END { for (name in last) printf "%s:%s ", name, last[name] }'; }

first_stage() {
    install_product
    for number in 0 1 2; do
        check "disk $number is formatted" mkfs.xfs -q -K -f /run/disk/lossy$number
        mkdir -p /nvme$number
        mount /run/disk/lossy$number /nvme$number && mkdir -m 700 /nvme$number/{cache,v3,v4.2}
    done
    for use in 1 2; do
        use_version $use
        mkdir -p $server
        export_directory $server
    done
    check "the server starts" server_start
    use_version 1
    bring_up
    write_until_cut 1
}

# next_stage NUMBER: after as many cuts and one less.
next_stage() {
    modprobe fuse
    check "after cut $(($1 - 1)): the disks are mounted" mount_disks
    check "after cut $(($1 - 1)): the server starts" server_start
    use_version $(($1 - 1))
    after_cut
    if [ "$1" -le $cuts ]; then
        use_version "$1"
        bring_up
        write_until_cut "$1"
    fi
    for version in 4.2 3; do
        label=v$version
        server_restarted
        squashed
    done
    summary
}

as_user() { timeout 60 setpriv --reuid 1000 --regid 1000 --clear-groups "$@"; }
is_dirty() { ! status_has "$1" '"dirty_bytes":0'; }
prepare_other() { # NAME EXPORT_OPTIONS
    server=/srv/$1-v$version
    journal=/nvme0/$1-v$version:/nvme1/$1-v$version:/nvme2/$1-v$version
    cache_dirs=/nvme0/cache-$1-v$version
    mkdir -p -m 700 ${journal//:/ } $cache_dirs
    export_directory $server "$2"
    check "$label: the export mounts" mount_nfs $version $server $backend
}

# The server is restarted while 8 MiB are on their way.
server_restarted() {
    prepare_other restarted no_root_squash
    check "$label: mounts" mount_back $backend $cached $cache_dirs writeback_rate=256K,writeback_delay=0
    vm-tool write /nvme0/source 21 1 $((8 << 20))
    cp /nvme0/source $cached/file
    check "$label: something is on its way" wait_until 60 test -s $server/file
    check "$label: the server is restarted in the middle" timeout 200 systemctl restart nfs-server
    check "$label: of it" is_dirty $cached
    check "$label: it comes there all the same" wait_until 300 timeout 200 nfs-cachefs flush --wait $cached
    check "$label: as it was" cmp /nvme0/source $server/file
    check "$label: and clashes with nobody" nfs-cachefs conflicts $cached
    take_down
}

# Root is nobody on the server, and the file may not be opened for writing any more: what is sent goes by the descriptor of who made it. After a
# crash there is none, and its owner is lent the right for the open.
squashed() {
    prepare_other squashed root_squash
    install -d -o 1000 -g 1000 $server/one
    mount_squashed
    make_readonly readonly
    comes_there readonly
    make_readonly crashed
    check "$label: the daemon is killed" daemon_kill $cached
    check "$label: of which nothing has come to the server" test ! -s $server/one/crashed
    mount_squashed
    comes_there crashed
    check "$label: nothing clashes with anybody" nfs-cachefs conflicts $cached
    check_equal "$label: nothing else is there" "crashed readonly" "$(ls $server/one | paste -sd' ')"
    take_down
}
mount_squashed() { check "$label: root_squash: mounts" mount_back $backend $cached $cache_dirs writeback_delay=1h; }
make_readonly() { # NAME
    check "$label: $1: a file made for reading is written" as_user sh -c "umask 222; cat /etc/passwd >$cached/one/$1 && sync $cached/one/$1"
    check "$label: $1: and waits in the journal" is_dirty $cached
    check "$label: $1: it is read" as_user cmp /etc/passwd $cached/one/$1
}
comes_there() { # NAME
    check "$label: $1: it comes to the server" wait_until 300 timeout 200 nfs-cachefs flush --wait $cached
    check "$label: $1: as it was" cmp /etc/passwd $server/one/$1
    check_equal "$label: $1: whose and how" "1000 1000 444" "$(stat -c '%u %g %a' $server/one/$1)"
    check_equal "$label: $1: and the same here" "1000 1000 444" "$(stat -c '%u %g %a' $cached/one/$1)"
    check "$label: $1: with these bytes" as_user cmp /etc/passwd $cached/one/$1
}

case $(stage) in
first) first_stage ;;
*) next_stage "$(stage)" ;;
esac
