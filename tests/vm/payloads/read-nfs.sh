#!/bin/bash
# Reading through the cache from a real NFS server, v3 and v4.2: same bytes cold, warm and after restarts,
# no READ call when warm, changes seen, no mix, an absent server.
. /payload/lib.sh
. /payload/settings

# The processor is emulated: 200 MB and the full torture take an hour and more, the sample some minutes.
rounds=20
files=150
total_bytes=20000000
if [ -n "$CACHEFS_LONG" ]; then
    rounds=1000
    files=2000
    total_bytes=200000000
fi
cached=/mnt/cached
install_product
check "the cache disk is formatted and mounted" format_cache_disk xfs

# This system's own files first, filled up with generated ones.
mkdir -p /srv/nfs/tree
cp -a /usr/lib/systemd /srv/nfs/tree/
[ -z "$CACHEFS_LONG" ] || cp -a /usr/bin /usr/sbin /usr/lib/x86_64-linux-gnu /srv/nfs/tree/
have_bytes=$(du -sb /srv/nfs/tree | cut -f1)
wanted_bytes=$((total_bytes - have_bytes))
[ $wanted_bytes -gt 5000000 ] || wanted_bytes=5000000
check "a tree is written" vm-tool tree-write /srv/nfs/tree/generated 1 $files $wanted_bytes
mkdir -p /srv/nfs/nested /srv/nfs/submount
# A filesystem of its own below the export: the client sees another device there.
truncate -s 32M /srv/nested.img
mkfs.ext4 -q -F /srv/nested.img
check "a filesystem below the export" mount -o loop /srv/nested.img /srv/nfs/nested
echo inner >/srv/nfs/nested/inner
vm-tool write /srv/nfs/hot 7 1 $((8 << 20))
export_directory /srv/nfs no_root_squash crossmnt
check "the server starts" server_start
want=$(vm-tool tree-sum /srv/nfs/tree)
say "the tree: $want"

# tree_sum DIR: with a time limit, so that a hang is a failed check and not the end of the run.
tree_sum() { timeout -k 5 400 vm-tool tree-sum "$1"; }
# timed WHAT: tells how long the last pass took, since $begin_s.
timed() { say "   $label: $1 pass took $((SECONDS - begin_s)) s"; }

# warm_pass WHAT: the tree's checksum again, without one READ call.
warm_pass() {
    local before after
    before=$(nfs_reads "$backend")
    drop_caches
    local begin_s=$SECONDS
    check_equal "$label: $1: same checksum" "$want" "$(tree_sum $cached/tree)"
    timed "$1"
    after=$(nfs_reads "$backend")
    check_equal "$label: $1: READ calls" 0 $((after - before))
}

read_tree() {
    check "$label: mounts" mount_cached "$backend" $cached
    local begin_s=$SECONDS
    check_equal "$label: cold: same checksum" "$want" "$(tree_sum $cached/tree)"
    timed cold
    check "$label: cold: READ calls are counted" test "$(nfs_reads "$backend")" -gt 0
    warm_pass warm
    # The index is durable at least every 5 s.
    sleep 6
    check "$label: the daemon is killed" daemon_kill $cached
    check "$label: mounts after SIGKILL" mount_cached "$backend" $cached
    warm_pass "after SIGKILL"
    check "$label: unmounts" umount $cached
    check "$label: mounts again" mount_cached "$backend" $cached
    warm_pass "after unmount"
}

below_and_names() {
    check_equal "$label: a nested export" inner "$(cat $cached/nested/inner)"
    check "$label: a mount below the backend" mount -t tmpfs none "$backend/submount"
    echo below >"$backend/submount/file"
    check_equal "$label: is seen" below "$(cat $cached/submount/file)"
    # Lazily: directories that the daemon knows there keep it busy.
    umount -l "$backend/submount"
    check_equal "$label: a link's target" "$(readlink /srv/nfs/tree/generated/d000/symbolic0)" \
        "$(readlink $cached/tree/generated/d000/symbolic0)"
    check_equal "$label: hard links share a number" "$(stat -c %i $cached/tree/generated/d000/f000000)" \
        "$(stat -c %i $cached/tree/generated/d000/hard0)"
}

changes() {
    vm-tool write /srv/nfs/changing 7 1 3000000
    check_equal "$label: a file" 1 "$(vm-tool verify $cached/changing 7)"
    local version=2
    for how in rewritten replaced; do
        if [ $how = replaced ]; then
            vm-tool write /srv/nfs/changing.new 7 $version 3000000
            mv /srv/nfs/changing.new /srv/nfs/changing
        else
            vm-tool write /srv/nfs/changing 7 $version 3000000
        fi
        check_equal "$label: $how on the server: seen at the next open" $version "$(vm-tool verify $cached/changing 7)"
        check_equal "$label: and at the one after" $version "$(vm-tool verify $cached/changing 7)"
        version=$((version + 1))
    done
    check "$label: a mapping outlives eviction" vm-tool map-verify $cached/changing 7 --between "nfs-cachefs evict $cached || true"
    rm /srv/nfs/changing
    check "$label: removed on the server: gone" bash -c "! cat $cached/changing"
    LIMIT_S=$((120 + rounds * 2)) check "$label: $rounds changes during the first read" \
        vm-tool torture $cached/torn /srv/nfs/torn $rounds
    tail -n 1 /run/check.out
    check_equal "$label: .nfs files" 0 "$(find /srv/nfs -name '.nfs*' | wc -l)"
}

# absent HOW: the server goes away by the commands leave and return_, under readers of a complete file.
absent() {
    local what="$label: $1" readers=()
    vm-tool verify $cached/hot 7 >/dev/null
    drop_caches
    # Open handles that hit never wait; what they are allowed is the emulated processor's own slowness.
    vm-tool probe $cached/hot 7 25 900 >/run/probe.out 2>&1 &
    local probe=$!
    sleep 2
    check "$what: the server goes" $2
    # Eight readers of what is not there.
    for number in 1 2 3 4 5 6 7 8; do
        cat "$cached/tree/missing-$number" "$cached/cold-$number" >/dev/null 2>&1 &
        readers+=($!)
    done
    check "$what: status says unreachable" wait_until 40 status_has $cached '"reachable":false'
    check "$what: status answers" timeout 10 nfs-cachefs status $cached
    check "$what: an open of a known file" timeout 5 vm-tool verify $cached/hot 7
    local probe_status=0
    wait $probe || probe_status=$?
    check_equal "$what: hits did not wait ($(tail -n 1 /run/probe.out))" 0 $probe_status
    kill -9 "${readers[@]}" 2>/dev/null
    wait "${readers[@]}" 2>/dev/null
    check "$what: the server is back" $3
    check "$what: reachable again" wait_until 90 status_has $cached '"reachable":true'
    check "$what: reads again" timeout 60 vm-tool verify $cached/after-$1 7
}

unmount_while_absent() {
    check "$label: the network is dropped" network_drop
    cat $cached/cold-9 >/dev/null 2>&1 &
    local reader=$!
    sleep 1
    # Its open file would make the mount busy; a reader that waits ends within 1 s of SIGKILL.
    kill -9 $reader
    check "$label: a waiting reader ends when killed" timeout 5 tail --pid=$reader -f /dev/null
    wait $reader 2>/dev/null
    check "$label: umount ends while the server is away" timeout 60 nfs-cachefs umount $cached
    check_equal "$label: it is gone" 0 "$(mounts_of $cached)"
    check "$label: the network is back" network_restore
}

fstab_line() {
    echo "cachefs $cached cachefs nfs_backend=$backend,cache_dir=/mnt/nvme/cache,_netdev,nofail,x-systemd.requires-mounts-for=$backend 0 0" >>/etc/fstab
    check "$label: mount -a" timeout 60 mount -a
    check "$label: mount -a again" timeout 60 mount -a
    check_equal "$label: mounted once" 1 "$(mounts_of $cached)"
    check_equal "$label: the source is shown as given" cachefs "$(awk -v m=$cached '$2 == m { print $1 }' /proc/self/mounts)"
    check_equal "$label: it reads" inner "$(cat $cached/nested/inner)"
    check "$label: umount" timeout 60 umount $cached
    systemctl daemon-reload
    check "$label: systemd mounts the same line" timeout 90 systemctl start mnt-cached.mount
    check_equal "$label: and it reads" inner "$(cat $cached/nested/inner)"
    check "$label: systemd stops it" timeout 90 systemctl stop mnt-cached.mount
    check_equal "$label: it is gone" 0 "$(mounts_of $cached)"
    sed -i '\# cachefs #d' /etc/fstab
    systemctl daemon-reload
}

for number in 1 2 3 4 5 6 7 8 9; do vm-tool write /srv/nfs/cold-$number 7 1 2000000; done
vm-tool write /srv/nfs/after-dropped 7 1 1000000
vm-tool write /srv/nfs/after-stopped 7 1 1000000
for version in 3 4.2; do
    label=v$version
    backend=/mnt/nfs
    check "$label: NFS mounts" mount_nfs $version /srv/nfs $backend
    read_tree
    below_and_names
    changes
    absent dropped network_drop network_restore
    absent stopped server_stop server_start
    unmount_while_absent
    fstab_line
    check "$label: NFS unmounts: nothing of ours is left on it" umount -R $backend
    # The next version starts cold.
    find /mnt/nvme/cache -mindepth 1 -delete
done
summary
