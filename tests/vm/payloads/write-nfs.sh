#!/bin/bash
# Writing through the cache to a real NFS server, v3 and v4.2: contents, names, locks, two clients, two caches, a server that
# goes away, what is written back, and the tests of others (pjdfstest, fsx) beside the NFS mount itself.
#
# /srv/nfs is the server's own directory, $backend the NFS mount below $cached, and $other a second client's mount of the
# same export, with a mount of ours above it ($beside) that has a cache of its own.
. /payload/lib.sh
. /payload/settings

# The processor is emulated.
close_to_open_rounds=60
torture_rounds=10
follow_rounds=8
trees=2
counts=2
small_files=200
fsx_operations=200
fsx_seeds="1"
pjdfstest_pattern=unlink::
absent_s=8
if [ -n "$CACHEFS_LONG" ]; then
    close_to_open_rounds=1000
    torture_rounds=1000
    follow_rounds=100
    trees=100
    counts=100
    small_files=2000
    fsx_operations=20000
    fsx_seeds="1 2 3 4 5"
    pjdfstest_pattern=
    absent_s=20
fi
server=/srv/nfs
backend=/mnt/nfs
other=/mnt/other
cached=/mnt/cached
beside=/mnt/beside
install_product
check "the cache disk is formatted and mounted" format_cache_disk xfs
mkdir -p -m 700 /mnt/nvme/beside
vm-tool write /srv/random 5 1 3000000
export_directory $server
check "the server starts" server_start

# .nfsXXXX are names the client keeps for files that are open and have none.
no_hidden_names() { [ "$(find $server -name '.nfs*' | wc -l)" = 0 ]; }
same() { cmp "$cached/$1" "$server/$1" && cmp "$other/$1" "$server/$1"; }

contents() {
    mkdir $cached/work
    check "$label: a directory is on the server" test -d $server/work
    cat /srv/random >$cached/work/closed
    check "$label: a closed file is on the server" cmp /srv/random $server/work/closed
    printf more >>$cached/work/closed
    check_equal "$label: an append is" more "$(tail -c 4 $server/work/closed)"
    printf theirs >>$server/work/closed
    printf ours >>$cached/work/closed
    check_equal "$label: an append goes behind another's" moretheirsours "$(tail -c 14 $server/work/closed)"
    check "$label: and is seen by all" same work/closed
    for size in 100 70000 0 5; do
        truncate -s $size $cached/work/closed
        check_equal "$label: truncated to $size" $size "$(stat -c %s $server/work/closed)"
        check "$label: and seen by all" same work/closed
    done
    check "$label: fsync" dd if=/srv/random of=$cached/work/synced bs=64k conv=fsync status=none
    check "$label: as written" cmp /srv/random $server/work/synced
    check "$label: O_DIRECT" dd if=/srv/random of=$cached/work/direct bs=64k oflag=direct status=none
    check "$label: as written" cmp /srv/random $server/work/direct
    check "$label: O_SYNC in the middle" dd if=/dev/zero of=$cached/work/direct bs=1000 count=3 seek=7 oflag=sync conv=notrunc status=none
    check "$label: is seen by all" same work/direct
    LIMIT_S=200 check "$label: 64 MiB" vm-tool write $cached/work/big 9 2 $((64 << 20))
    check_equal "$label: are on the server" 2 "$(timeout 200 vm-tool verify $server/work/big 9 --size-bytes $((64 << 20)))"
    check_equal "$label: are read back" 2 "$(timeout 200 vm-tool verify $cached/work/big 9 --size-bytes $((64 << 20)))"
    rm $cached/work/big
}

sparse() {
    truncate -s 4M $cached/work/sparse
    dd if=/srv/random of=$cached/work/sparse bs=64k count=2 seek=30 conv=notrunc status=none
    check "$label: a sparse file is seen by all" same work/sparse
    check "$label: and takes what its data takes" test "$(du -k $server/work/sparse | cut -f1)" -lt 1000
    # What the NFS mount cannot, ours cannot.
    local mode there here
    for mode in "-p -o 1966080 -l 65536" "-o 0 -l 100000" "-n -o 4194304 -l 4096" "-z -o 0 -l 4096"; do
        # shellcheck disable=SC2086  # words of a mode
        fallocate $mode $other/work/synced 2>/dev/null; there=$?
        # shellcheck disable=SC2086
        fallocate $mode $cached/work/sparse 2>/dev/null; here=$?
        check_equal "$label: fallocate $mode as on NFS" $there $here
        check "$label: is seen by all" same work/sparse
    done
}

names() {
    check "$label: rename" mv $cached/work/synced $cached/work/renamed
    check "$label: over another" mv $cached/work/renamed $cached/work/direct
    check "$label: hard link" ln $cached/work/direct $cached/work/hard
    check "$label: symbolic link" ln -s direct $cached/work/symbolic
    check "$label: mkdir, rmdir" bash -c "mkdir $cached/work/d && rmdir $cached/work/d"
    check "$label: unlink" rm $cached/work/sparse
    check_equal "$label: the names are the server's" "$(ls $server/work)" "$(ls $cached/work)"
    check_equal "$label: and its numbers of links" 2 "$(stat -c %h $server/work/direct)"
    check "$label: chmod, chown, utimes" bash -c "chmod 640 $cached/work/hard && chown 12:34 $cached/work/hard && touch -d @1000000000.123456789 $cached/work/hard"
    check_equal "$label: are on the server" "640 12 34 1000000000" "$(stat -c '%a %u %g %Y' $server/work/direct)"
    # What the NFS mount keeps, ours keeps; v3 has none.
    if setfattr -n user.theirs -v 1 $other/work/direct 2>/dev/null; then
        check "$label: an extended attribute" setfattr -n user.ours -v value $cached/work/direct
        check_equal "$label: is on the server" value "$(getfattr --only-values --absolute-names -n user.ours $server/work/direct)"
        check "$label: and removed" setfattr -x user.ours $cached/work/direct
    else
        check "$label: no extended attributes, as on NFS" bash -c "! setfattr -n user.ours -v value $cached/work/direct"
    fi
}

exclusive() {
    local round made=0
    for round in 1 2 3 4 5 6; do
        for directory in $cached $other $beside $cached; do
            dd if=/dev/null of=$directory/work/excl$round conv=excl status=none 2>/dev/null &&
                echo $directory >>/run/made.$label &
        done
        wait
    done
    made=$(wc -l </run/made.$label)
    check_equal "$label: O_EXCL: one of four makes it" 6 "$made"
}

removal() {
    LIMIT_S=$((60 + trees * 10)) check "$label: $trees trees used and removed" vm-tool use-and-remove $cached $server $trees
    check "$label: no hidden name is left" wait_until 10 no_hidden_names
    cp /srv/random $cached/open
    exec 7<>$cached/open
    check "$label: unlink of an open file" rm $cached/open
    check "$label: nobody finds it" bash -c "! test -e $cached/open && ! test -e $server/open"
    check "$label: it is read on" cmp -n 3000000 /srv/random - <&7
    check "$label: and written where it was read to" bash -c 'printf end >&7'
    check_equal "$label: and has its size" 3000003 "$(stat -L -c %s /proc/self/fd/7)"
    exec 7>&-
    check "$label: its hidden name goes with the last descriptor" wait_until 10 no_hidden_names
    cp /srv/random $cached/replaced
    cp /srv/random $cached/fresh
    exec 7<$cached/replaced
    check "$label: an open file is replaced" mv $cached/fresh $cached/replaced
    check "$label: and read on" cmp /srv/random - <&7
    exec 7>&-
    check "$label: and leaves no hidden name" wait_until 10 no_hidden_names
}

locks() {
    local family
    cp /srv/random $cached/locked
    for family in flock record ofd; do
        check "$label: $family: ours exclude theirs" vm-tool lock-exclude $cached/locked $other/locked $family
        tail -n 1 /run/check.out
        check "$label: $family: theirs exclude ours" vm-tool lock-exclude $other/locked $cached/locked $family
        tail -n 1 /run/check.out
    done
    check "$label: kinds and ranges" vm-tool lock-share $cached/locked $other/locked
    check "$label: and the other way round" vm-tool lock-share $other/locked $cached/locked
    mkdir -p $cached/counting
    # The client may wait long whenever two want one lock at once.
    [ -z "$CACHEFS_LONG" ] ||
        LIMIT_S=$((100 + counts * 40)) check "$label: two clients count under a lock" vm-tool lock-count-together $cached/counting $other/counting $counts
    LIMIT_S=$((100 + counts * 10)) check "$label: two caches count under a lock" vm-tool lock-count-together $cached/counting $beside/counting $counts
}

coherence() {
    LIMIT_S=$((120 + close_to_open_rounds * 2)) check "$label: close-to-open" \
        vm-tool close-to-open $close_to_open_rounds $cached $beside $server
    tail -n 1 /run/check.out
    LIMIT_S=$((60 + follow_rounds * 90)) check "$label: an open handle follows another client" \
        vm-tool follow $backend/followed $beside/followed $follow_rounds
    tail -n 1 /run/check.out
    LIMIT_S=$((120 + torture_rounds * 3)) check "$label: changes during the first read, by all" \
        vm-tool torture --through $cached/torn $server/torn $torture_rounds
    tail -n 1 /run/check.out
}

# absent HOW LEAVE RETURN: the server goes away under a writer and a reader of what is cached.
absent() {
    local what="$label: $1" writer probe status=0
    vm-tool verify $cached/hot 7 >/dev/null
    drop_caches
    vm-tool write-acknowledged $cached/acked $server/acked $((absent_s + 25)) >/run/writer.out 2>&1 &
    writer=$!
    vm-tool probe $cached/hot 7 $((absent_s + 4)) 900 >/run/probe.out 2>&1 &
    probe=$!
    sleep 2
    check "$what: the server goes" $2
    sleep $absent_s
    wait $probe || status=$?
    check_equal "$what: hits did not wait ($(tail -n 1 /run/probe.out))" 0 $status
    check "$what: the server is back" $3
    status=0
    wait $writer || status=$?
    check_equal "$what: what was acknowledged is there ($(tail -n 1 /run/writer.out))" 0 $status
    check "$what: reachable again" wait_until 90 status_has $cached '"reachable":true'
}

unmount_while_absent() {
    dd if=/dev/zero of=$cached/interrupted bs=64k count=100000 status=none 2>/dev/null &
    local writer=$!
    sleep 1
    check "$label: the network is dropped under a writer" network_drop
    sleep 3
    kill -9 $writer
    check "$label: it ends when killed" timeout 5 tail --pid=$writer -f /dev/null
    wait $writer 2>/dev/null
    check "$label: umount ends while the server is away" timeout 60 nfs-cachefs umount $cached
    check_equal "$label: it is gone" 0 "$(mounts_of $cached)"
    check "$label: the network is back" network_restore
    rm -f $server/interrupted
}

exercise() { # DIRECTORY SEED
    timeout 900 fsx -f /run/fsx.toml -N $fsx_operations -S "$2" -P /run "$1/fsx" 2>&1
}

as() { timeout 60 setpriv --reuid "$1" --regid "$1" --clear-groups "${@:2}"; }

# An export whose server makes root nobody.
squashed() {
    local plain=/srv/squashed nfs=/mnt/squashed-nfs seen=/mnt/squashed
    mkdir -p $plain /mnt/nvme/squashed
    install -d -o 1000 -g 1000 $plain/one
    export_directory $plain root_squash
    check "$label: a root_squash export mounts" mount_nfs $version $plain $nfs lock
    CACHE_DIR=/mnt/nvme/squashed check "$label: and ours above it" mount_cached $nfs $seen
    check "$label: a user writes" as 1000 dd if=/srv/random of=$seen/one/file bs=64k status=none
    check "$label: it is on the server" cmp /srv/random $plain/one/file
    check_equal "$label: and the user's" 1000 "$(stat -c %u $plain/one/file)"
    check "$label: reads it" as 1000 cmp /srv/random $seen/one/file
    check "$label: so does another" as 2000 cmp /srv/random $seen/one/file
    check "$label: who cannot write" bash -c "! setpriv --reuid 2000 --regid 2000 --clear-groups dd if=/dev/null of=$seen/one/file status=none"
    check "$label: nor can root" bash -c "! dd if=/dev/null of=$seen/one/file status=none"
    check "$label: nor make one" bash -c "! touch $seen/one/root"
    check "$label: a file made for reading is written" as 1000 sh -c "umask 222; cat /srv/random >$seen/one/readonly"
    check "$label: as written" cmp /srv/random $plain/one/readonly
    check "$label: a lock" as 1000 flock $seen/one/file true
    check "$label: rename and unlink" as 1000 sh -c "mv $seen/one/file $seen/one/moved && rm -f $seen/one/moved"
    check "$label: unmounts" timeout 60 umount $seen
    check "$label: nothing of ours is left on it" wait_until 60 umount $nfs
    find /mnt/nvme/squashed $plain -mindepth 1 -delete
}

# make_small DIRECTORY NUMBER...: small files, made and then left, rewritten, moved, removed, synced, replaced, appended to, given other attributes
# and a second name. Words for a shell of its own.
make_small() {
    local number
    cd "$1" || return 1
    shift
    for number; do
        if ((number % 3)); then umask 022; else umask 077; fi
        printf "first %s\n" $number >$number || return 1
        case $((number % 10)) in
        1) printf "rewritten %s, and longer\n" $number >$number ;;
        2) mv $number moved-$number ;;
        3) rm $number ;;
        4) sync $number ;;
        5) printf "in its place %s\n" $number >$number.new && mv $number.new $number ;;
        6) printf "more\n" >>$number ;;
        7) chmod 604 $number && touch -d @$((1000000000 + number)).123456789 $number ;;
        8) ln $number second-$number ;;
        9) sync $number && printf "after it was synced %s\n" $number >>$number && mv $number moved-$number ;;
        esac || return 1
    done
}
make_small_as() { # USER DIRECTORY FILES
    # shellcheck disable=SC2046  # numbers
    timeout 400 setpriv --reuid "$1" --regid "$1" --clear-groups \
        bash -c "$(declare -f make_small)"'; make_small "$@"' make_small "$2" $(seq "$3")
}
# What everybody sees of a tree; mtimes where they are asked for.
listing() { (cd "$1" && find . -mindepth 1 -type f -printf "%p %U %G %m %s %n${2:+ %T@}\n" | sort); }

# Linux 7.2 as client and server of 4.2 loses times that were set, where it delegates them: at the latest when all is unmounted the file has the time
# of that. Tried by the NFS mount alone, whose server delegates nothing in the first seconds.
nfs_loses_times() { # NFS PLAIN
    local number lost=1
    for number in $(seq 60); do
        (exec 3>$1/probe && echo text >&3 && sync $1/probe && touch -m -d @1000000000 $1/probe && chmod 640 $1/probe)
        [ "$(stat -c %Y $2/probe)" = 1000000000 ] || lost=0
        rm $1/probe
        [ $lost = 1 ] || break
        sleep 0.2
    done
    return $lost
}

# written_back: small files with write_mode=back, most of which are on their way to the server while they are changed on, or begin only when all is
# done. The attributes that their uploads begin with are those of the reply to their creation.
written_back() {
    local nfs=/mnt/back-nfs seen=/mnt/back plain=/srv/back expected=/srv/expected times_are_lost kind delay what reader directories words directory user files
    times_are_lost=0
    for kind in no_root_squash:0 no_root_squash:1h root_squash:200ms; do
        delay=${kind#*:}
        directories="users:1000:$small_files group:1000:40 root:0:40"
        reader=0
        if [ ${kind%:*} = root_squash ]; then
            directories="users:1000:$small_files group:1000:40"
            reader=1000
        fi
        what="$label: back, ${kind%:*}, after $delay"
        mkdir -p -m 700 /mnt/nvme/back /mnt/nvme/journal
        for directory in $plain $expected; do
            install -d -m 755 $directory
            install -d -o 1000 -g 1000 $directory/users
            # A file in it has the directory's group, whoever makes it.
            install -d -o 1000 -g 2000 -m 2775 $directory/group
            install -d $directory/root
        done
        export_directory $plain ${kind%:*}
        check "$what: NFS mounts" mount_nfs $version $plain $nfs
        # Where root may write.
        if [ $version != 3 ] && [ $kind = no_root_squash:0 ] && nfs_loses_times $nfs $plain; then
            times_are_lost=1
            say "$what: NFS loses times by itself: left out"
        fi
        CACHE_DIR=/mnt/nvme/back check "$what: mounts" mount_cached $nfs $seen \
            write_mode=back,journal_dir=/mnt/nvme/journal,journal_size=128M,writeback_delay=$delay
        for words in $directories; do
            IFS=: read -r directory user files <<<"$words"
            check "$what: $directory: $files files" make_small_as $user $seen/$directory $files
            make_small_as $user $expected/$directory $files
        done
        [ $delay != 1h ] || check "$what: they wait" bash -c "! nfs-cachefs status $seen --json | tr -d ' \n' | grep '\"dirty_bytes\":0'"
        listing $seen >/run/unsent
        listing $seen mtime >/run/unsent.mtime
        check "$what: they come to the server" wait_until 300 timeout 200 nfs-cachefs flush --wait $seen
        check "$what: and clash with nobody" nfs-cachefs conflicts $seen
        check_equal "$what: of which there would be a file" "" "$(find $plain $seen -name '*.conflict-*')"
        listing $expected >/run/expected
        check "$what: names, owners, modes, sizes before" diff /run/expected /run/unsent
        check "$what: on the server" diff /run/expected <(listing $plain)
        check "$what: and here" diff /run/expected <(listing $seen)
        check "$what: the bytes on the server" diff -r $expected $plain
        # Root may read nothing of others where it is nobody.
        check "$what: and here" as $reader diff -r $expected $seen
        if [ $times_are_lost = 0 ]; then
            check "$what: mtimes on the server are those here" diff <(listing $seen mtime) <(listing $plain mtime)
            check "$what: and were before" diff /run/unsent.mtime <(listing $plain mtime)
            check_equal "$what: one that was set stays" "1000000007.1234567890" "$(find $plain/users/7 -printf '%T@')"
        fi
        # Of a mount without a word that mount(8) keeps by itself, as _netdev is one.
        check "$what: one more file" as $reader bash -c "echo late >$seen/users/late && sync $seen/users/late"
        check "$what: unmounts" timeout 60 umount $seen
        check_equal "$what: which has brought it to the server" late "$(cat $plain/users/late)"
        check "$what: nothing of ours is left on it" wait_until 60 umount $nfs
        find /mnt/nvme/back /mnt/nvme/journal $plain $expected -mindepth 1 -delete
    done
}

is_installed() { command -v $1 >/dev/null || { say "$1 is not installed: left out"; false; }; }

fsx_as_on_nfs() {
    is_installed fsx || return 0
    local seed there here weights="truncate = 5\nmapread = 10\nmapwrite = 10\nclose_open = 2\ninvalidate = 2\nfsync = 1\nfdatasync = 1\ncopy_file_range = 5\nsendfile = 5\nposix_fadvise = 1\n"
    [ $version = 3 ] || weights+="posix_fallocate = 5\npunch_hole = 5\n"
    printf "flen = 262144\n[opsize]\nmax = 65536\nalign = 1\n[weights]\nread = 20\nwrite = 20\n$weights" >/run/fsx.toml
    for seed in $fsx_seeds; do
        exercise $backend $seed >/run/there.out; there=$?
        exercise $cached $seed >/run/here.out; here=$?
        check_equal "$label: fsx -S $seed as on NFS" $there $here
        [ $there = $here ] || tail -n 30 /run/here.out
    done
}

# Names of the tests that fail in a directory.
pjdfstest_failures() {
    mkdir -p "$1"
    # shellcheck disable=SC2086  # no pattern at all means every test
    timeout 900 pjdfstest -c /run/pjdfstest.toml -p "$1" $pjdfstest_pattern 2>&1 | tee /run/pjdfstest.out | awk '$NF == "FAILED" || $NF == "failed" { print $1 }' | sort
}

pjdfstest_as_on_nfs() {
    is_installed pjdfstest || return 0
    cat >/run/pjdfstest.toml <<'T'
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.02
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
T
    pjdfstest_failures $backend/pjdfstest >/run/there.failures
    local there_summary
    there_summary=$(grep Summary /run/pjdfstest.out)
    pjdfstest_failures $cached/pjdfstest >/run/here.failures
    say "$label: pjdfstest on NFS: $there_summary"
    say "$label: pjdfstest through ours: $(grep Summary /run/pjdfstest.out)"
    check "$label: pjdfstest ran" grep -q Summary /run/pjdfstest.out
    check_equal "$label: pjdfstest: failures that NFS does not have" "" "$(comm -13 /run/there.failures /run/here.failures | tr '\n' ' ')"
}

vm-tool write $server/hot 7 1 $((8 << 20))
parts="contents sparse names exclusive removal locks coherence fsx_as_on_nfs pjdfstest_as_on_nfs squashed written_back absent_dropped"
[ -z "$CACHEFS_LONG" ] || parts+=" absent_stopped"
for version in ${CACHEFS_VM_NFS:-3 4.2}; do
    label=v$version
    check "$label: NFS mounts" mount_nfs $version $server $backend lock
    check "$label: another client mounts" mount_nfs_elsewhere $version $server $other lock
    check "$label: mounts" mount_cached $backend $cached
    CACHE_DIR=/mnt/nvme/beside check "$label: mounts above the other client" mount_cached $other $beside
    for part in ${CACHEFS_VM_PARTS:-$parts}; do
        begin_s=$SECONDS
        case $part in
        absent_dropped) absent dropped network_drop network_restore ;;
        absent_stopped) absent stopped server_stop server_start ;;
        *) $part ;;
        esac
        say "$label: $part took $((SECONDS - begin_s)) s"
    done
    unmount_while_absent
    check "$label: unmounts" timeout 60 umount $beside
    check "$label: NFS unmounts: nothing of ours is left on it" wait_until 60 umount $backend
    check "$label: and the other client's" wait_until 60 umount $other
    # The next version starts afresh.
    find /mnt/nvme/cache /mnt/nvme/beside -mindepth 1 -delete
    find $server -mindepth 1 ! -name hot -delete
done
summary
