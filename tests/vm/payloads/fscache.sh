#!/bin/bash
# Beside the kernel's own FS-Cache: one export, once as an NFS mount with `fsc` (cachefilesd as the distribution has it), once through
# nfs-cachefs, both caches on one disk. What either asks its server for, after drops of memory, a reboot and a crash of the machine, after writes, with
# the server silent, and the CPU time of the whole machine for a hit. What FS-Cache does is told; what we promise is checked.
. /payload/lib.sh
. /payload/settings
fsc=/mnt/fsc
backend=/mnt/nfs
cached=/mnt/cached
raw=/nvme/raw
server=/srv/nfs
big_mib=32
cpu_s=2
[ -z "$CACHEFS_LONG" ] || cpu_s=15
rows=$kept/rows

mkdir -p $kept
row() { echo "| $1 | $2 | $3 |" | tee -a $rows | sed 's/^/   /'; }
# what_of MOUNT: "KiB read from the server, calls to it", over the life of an NFS mount. Calls of NULL and of leases are not of a mount.
what_of() {
    awk -v target="$1" '$1 == "device" { ours = ($5 == target) }
        ours && $1 == "bytes:" { bytes = $6 }
        ours && $1 == "per-op" { listed = 1 }
        $1 == "device" { listed = 0 }
        ours && listed && $1 ~ /^[A-Z_0-9]+:$/ { calls += $2 }
        END { print int((bytes + 1023) / 1024), calls + 0 }' /proc/self/mountstats
}
# asked MOUNT COMMAND...: runs it; "KiB, calls" that it took of the server. Sets $kib and $calls.
asked() {
    local mount=$1 before after
    shift
    before=$(what_of "$mount")
    timeout -s KILL 300 "$@" >/dev/null 2>/run/asked.err || say "   failed: $*: $(tail -n 1 /run/asked.err)"
    after=$(what_of "$mount")
    kib=$((${after% *} - ${before% *}))
    calls=$((${after#* } - ${before#* }))
}
# both WHAT COMMAND: the command with DIR for either mount, into a row. Sets $ours_kib, $fsc_kib.
both() {
    local theirs
    asked $fsc bash -c "${2//DIR/$fsc}"
    fsc_kib=$kib
    theirs="$kib KiB, $calls calls"
    asked $backend bash -c "${2//DIR/$cached}"
    ours_kib=$kib
    row "$1" "$theirs" "$kib KiB, $calls calls"
}
read_tree="find DIR/tree -type f -print0 | xargs -0 cat"
forget() { sync; sleep 2; drop_caches; }

mount_both() {
    check "$label: NFS with fsc mounts" mount_nfs 4.2 $server $fsc fsc=vm
    check "$label: NFS mounts" mount_nfs 4.2 $server $backend
    check "$label: and FS-Cache is on" grep -q "yes *$" /proc/fs/nfsfs/volumes
    check "$label: ours mounts" mount_ours
}
mount_ours() { CACHE_DIR=/nvme/cache mount_cached $backend $cached "$@"; }
unmount_both() {
    check "$label: all unmounts" timeout 100 umount $cached
    check "$label: NFS, too" timeout 100 umount $fsc $backend
}
start_cachefilesd() {
    modprobe cachefiles
    # As long as it may not run its unit is active all the same.
    pgrep -x cachefilesd || systemctl restart cachefilesd
    wait_until 30 pgrep -x cachefilesd || { systemctl status cachefilesd --no-pager; return 1; }
}

first_stage() {
    label=first
    install_product
    prepare_machine
    mkdir -p /nvme/fscache $raw
    mkdir -m 700 /nvme/cache
    printf 'dir /nvme/fscache\ntag vmtest\nbrun 10%%\nbcull 7%%\nbstop 3%%\nfrun 10%%\nfcull 7%%\nfstop 3%%\n' >/etc/cachefilesd.conf
    echo RUN=yes >/etc/default/cachefilesd
    check "cachefilesd runs" start_cachefilesd
    [ $failed = 0 ] || { summary; exit; }
    mkdir -p $server
    for name in big ranged patched unread; do vm-tool write $server/$name 7 1 $((big_mib << 20)); done
    vm-tool tree-write $server/tree 1 200 6000000
    cp -a $server/big $server/tree $raw/
    export_directory $server
    check "the server starts" server_start
    mount_both

    both "first read of $big_mib MiB" "cat DIR/big"
    forget
    both "again, from disk" "cat DIR/big"
    check_equal "ours asks for no byte again" 0 $ours_kib
    check "FS-Cache neither: it is in use" test "$fsc_kib" -lt 1024
    both "again, from memory" "cat DIR/big"
    both "first read of a tree (200 files)" "$read_tree"
    forget
    both "again, from disk" "$read_tree"
    check_equal "ours asks for no byte of a tree again" 0 $ours_kib
    both "ls -lR of it again" "ls -lR DIR/tree"
    both "8 MiB of the middle of $big_mib MiB" "dd if=DIR/ranged bs=1M skip=12 count=8 status=none"
    forget
    both "again, from disk" "dd if=DIR/ranged bs=1M skip=12 count=8 status=none"
    check_equal "ours asks for no byte of a range again" 0 $ours_kib
    row "on the cache disk so far" "$(du -sm /nvme/fscache | cut -f1) MiB" "$(du -sm /nvme/cache | cut -f1) MiB"
    both "read with O_DIRECT" "dd if=DIR/big bs=1M iflag=direct status=none"
    check_equal "ours serves that, too" 0 $ours_kib

    both "16 MiB written, closed" "dd if=$server/big of=DIR/written-\$(basename DIR) bs=1M count=16 conv=fsync status=none"
    forget
    both "what was written is read" "cat DIR/written-\$(basename DIR)"
    forget
    both "and again" "cat DIR/written-\$(basename DIR)"
    check_equal "ours has cached what it wrote and read" 0 $ours_kib
    # Each writes to a file of its own: to the other it would be a change of somebody else.
    cp $server/patched $server/patched-fsc
    mv $server/patched $server/patched-cached
    both "$big_mib MiB are cached" "cat DIR/patched-\$(basename DIR)"
    both "4 KiB of it are written" "dd if=/etc/services of=DIR/patched-\$(basename DIR) bs=4k count=1 seek=1000 conv=notrunc,fsync status=none"
    forget
    both "it is read" "cat DIR/patched-\$(basename DIR)"
    forget
    both "and again" "cat DIR/patched-\$(basename DIR)"
    vm-tool write $server/big 7 2 $((big_mib << 20))
    for dir in $fsc $cached; do
        check_equal "what is changed on the server is seen in $dir" 2 "$(timeout 200 vm-tool verify $dir/big 7)"
    done
    cpu_of_hits
    forget
    unmount_both
    next_boot rebooted
}

busy_ticks() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 + $9 }' /proc/stat; }
# cpu WHAT UNITS PREPARE COMMAND: ticks (10 ms) of the whole machine for so many units; by turns, as the emulation's own speed moves.
cpu() {
    local round side before end
    declare -A ticks=([raw]=0 [fsc]=0 [cached]=0) units=([raw]=0 [fsc]=0 [cached]=0)
    for side in $raw $fsc $cached; do bash -c "${4//DIR/$side}" >/dev/null 2>&1; done
    for round in 1 2 3; do
        for side in $raw $fsc $cached; do
            end=$((SECONDS + cpu_s))
            while [ $SECONDS -lt $end ]; do
                eval "$3"
                before=$(busy_ticks)
                timeout -s KILL 100 bash -c "${4//DIR/$side}" >/dev/null 2>&1
                ticks[${side##*/}]=$((ticks[${side##*/}] + $(busy_ticks) - before))
                units[${side##*/}]=$((units[${side##*/}] + $2))
            done
        done
    done
    row "CPU, $1: times that of the disk itself ($((ticks[raw] * 10000 / units[raw])) us)" \
        "$(ratio ${ticks[fsc]} ${units[fsc]} ${ticks[raw]} ${units[raw]})" "$(ratio ${ticks[cached]} ${units[cached]} ${ticks[raw]} ${units[raw]})"
}
ratio() { awk -v a=$1 -v b=$2 -v c=$3 -v d=$4 'BEGIN { printf "%.2f", (a / b) / (c / d) }'; }
cpu_of_hits() {
    local nothing=: pages="sync; echo 1 >/proc/sys/vm/drop_caches"
    cpu "a MiB from disk, by 1 MiB" $big_mib "$pages" "dd if=DIR/big of=/dev/null bs=1M"
    cpu "a MiB from memory, by 1 MiB" $((10 * big_mib)) $nothing "for i in 1 2 3 4 5 6 7 8 9 10; do dd if=DIR/big of=/dev/null bs=1M; done"
    cpu "a MiB from memory, by 4 KiB" $big_mib $nothing "dd if=DIR/big of=/dev/null bs=4k"
    cpu "a small file from memory, opened, read, closed" 200 $nothing "$read_tree"
    cpu "a small file from disk, opened, read, closed" 200 "$pages" "$read_tree"
}

# answers COMMAND: how long it takes, or that it has not ended after 45 s: what we do not know is refused after 30 (backend_timeout).
answers() {
    local begin=$EPOCHREALTIME status=0
    timeout -s KILL 45 bash -c "$1" >/dev/null 2>&1 || status=$?
    case $status in
    0) awk -v a=$begin -v b=$EPOCHREALTIME 'BEGIN { printf "%.1f s", b - a }' ;;
    137) echo "none after 45 s" ;;
    *) awk -v a=$begin -v b=$EPOCHREALTIME 'BEGIN { printf "refused after %.1f s", b - a }' ;;
    esac
}
both_answer() { # WHAT COMMAND
    local ours
    ours=$(answers "${2//DIR/$cached}")
    row "server silent: $1" "$(answers "${2//DIR/$fsc}")" "$ours"
    case $ours in [0-9]*) ours=answers ;; esac
    [ "${3:-answers}" != answers ] || check_equal "server silent: ours answers: $1" answers "$ours"
}

rebooted_stage() {
    label=rebooted
    modprobe fuse
    modprobe loop
    check "cachefilesd runs again" start_cachefilesd
    check "the server starts" server_start
    mount_both
    both "after a reboot: $big_mib MiB" "cat DIR/big"
    check_equal "ours asks for no byte after a reboot" 0 $ours_kib
    both "after a reboot: the tree" "$read_tree"
    check_equal "ours asks for no byte of the tree after a reboot" 0 $ours_kib

    exec 8<$fsc/big 9<$cached/big
    check "the network is dropped" network_drop
    sleep 3
    both_answer "4 KiB by a descriptor opened before, from memory" "[ DIR = $fsc ] && exec <&8 || exec <&9; dd bs=4k count=1"
    sync -f /nvme
    echo 1 >/proc/sys/vm/drop_caches
    both_answer "$big_mib MiB by a descriptor opened before, from disk" "[ DIR = $fsc ] && exec <&8 || exec <&9; cat"
    both_answer "the same, opened now" "cat DIR/big"
    both_answer "ls -lR of what was listed before" "ls -lR DIR/tree"
    both_answer "a file that nobody has read" "cat DIR/unread" any
    exec 9<&-
    check "ours unmounts" timeout 100 nfs-cachefs umount $cached
    local begin=$EPOCHREALTIME
    check "and mounts" mount_ours
    local mounted_at=$EPOCHREALTIME
    row "server silent: a new mount" "$(answers "mkdir -p /mnt/third && mount -t nfs -o vers=4.2,nosharecache,fsc=third 127.0.0.1:$server /mnt/third")" \
        "$(awk -v a=$begin -v b=$mounted_at 'BEGIN { printf "%.1f s", b - a }')"
    check "and serves" timeout 100 vm-tool verify $cached/big 7
    check "the network is back" network_restore
    check "ours finds the server" wait_until 150 status_has $cached '"reachable":true'
    # Its close waits for the server.
    exec 8<&-
    check "FS-Cache's mount goes on" wait_until 100 timeout 60 vm-tool verify $fsc/big 7
    both "read before the crash" "cat DIR/written-fsc"
    sleep 15
    power_cut crashed
}

crashed_stage() {
    label=crashed
    modprobe fuse
    modprobe loop
    check "cachefilesd runs after the crash" start_cachefilesd
    check "the server starts" server_start
    mount_both
    both "after a crash: $big_mib MiB cached long before" "cat DIR/big"
    both "after a crash: read 15 s before" "cat DIR/written-fsc"
    both "after a crash: the tree" "$read_tree"
    check_equal "what ours serves is right" 2 "$(timeout 200 vm-tool verify $cached/big 7)"
    check_equal "and FS-Cache" 2 "$(timeout 200 vm-tool verify $fsc/big 7)"
    unmount_both
    say "of the server (KiB read, calls), or as said; Linux $(uname -r)"
    echo "| | FS-Cache | nfs-cachefs |"
    cat $rows
    summary
}
"$(stage)_stage"
