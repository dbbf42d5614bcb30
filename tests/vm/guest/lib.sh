# For payloads, in the guest: checks, the cache disk, the NFS server and client, the mount. Sourced by bash.
#
# A payload ends with `summary`, which prints the counts and makes the exit status.

export PATH=/payload/bin:$PATH
passed=0
failed=0

now() { cut -d' ' -f1 /proc/uptime; }
say() { echo "[$(now)] $*"; }

# check WHAT COMMAND...: runs it with a time limit of its own (LIMIT_S, 120 s).
check() {
    local what=$1 status=0
    shift
    _limited "$@" >/run/check.out 2>&1 || status=$?
    if [ $status = 0 ]; then
        passed=$((passed + 1))
        say "ok: $what"
    else
        failed=$((failed + 1))
        say "FAILED: $what (status $status): $*"
        tail -n 15 /run/check.out | sed 's/^/    /'
    fi
}
_limited() {
    # Functions cannot be run by timeout(1); they bring their own limits.
    if [ "$(type -t "$1")" = file ]; then timeout -k 5 "${LIMIT_S:-120}" "$@"; else "$@"; fi
}
# check_equal WHAT WANTED GOT
check_equal() { check "$1" test "$2" = "$3"; }

summary() {
    say "$passed passed, $failed failed"
    [ "$failed" = 0 ]
}

# --- several boots

kept=/var/lib/vmtest
[ ! -f $kept/counts ] || . $kept/counts
# stage: what the boot before has asked for, `first` at first.
stage() { cat $kept/stage 2>/dev/null || echo first; }
# next_boot STAGE: shuts down in order, and the payload begins anew as STAGE. Does not return.
next_boot() {
    keep_for "$1"
    sync
    echo VMTEST-REBOOT
    # `systemctl reboot` would ask logind, which the guest does without.
    systemctl --no-block --job-mode=replace-irreversibly start reboot.target
    # Who started us would report our end as that of the payload.
    kill $PPID
    exit
}
keep_for() { # STAGE
    mkdir -p $kept
    echo "$1" >$kept/stage
    echo "passed=$passed failed=$failed" >$kept/counts
    date +%s >$kept/asked_at
}
# power_cut STAGE: the power goes within the next seconds, whatever is under way, and the payload begins anew as STAGE. What lossy
# disks were not told to flush is gone. Does not return.
power_cut() {
    keep_for "$1"
    # Of the root alone: of others it would be the flush that a test is about.
    sync -f $kept
    echo VMTEST-CUT
    sleep infinity
}
# shutdown_s: seconds from next_boot to this kernel's start.
shutdown_s() { echo $(($(date +%s) - $(cut -d. -f1 /proc/uptime) - $(cat $kept/asked_at))); }
# went_in_turn: at the shutdown before every mount of ours was unmounted at the first try. What a test had refused earlier in that
# boot stands in its journal, too.
went_in_turn() {
    local told
    told=$(journalctl -b -1 --no-pager -q --since "@$(cat $kept/asked_at)") && [ -n "$told" ] || { echo "no journal of it"; return 1; }
    ! grep -E "Failed unmounting (mnt|nvme)" <<<"$told"
}
# booted: waits for what a boot is to bring; mounts may still wait for their server.
booted() { wait_until 400 systemctl -q is-active multi-user.target; }

# --- cache disk

# format_cache_disk [ext4|xfs]: on /mnt/nvme, found by serial: the disk's kernel name changes from boot to boot.
format_cache_disk() {
    local type=${1:-xfs}
    mkdir -p /mnt/nvme
    case $type in
    xfs) mkfs.xfs -q -K -f /run/disk/cache ;;
    ext4) mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=1 /run/disk/cache ;;
    esac
    mount /run/disk/cache /mnt/nvme
    mkdir -p -m 700 /mnt/nvme/cache
}

# --- server

# export_directory DIR [OPTIONS]: adds an export to this machine's server, e.g. `export_directory /srv/a root_squash`.
export_directory() {
    mkdir -p "$1"
    local options=${2:-no_root_squash}
    [ -z "${3:-}" ] || options+=,$3
    sed -i "\\#^$1 #d" /etc/exports 2>/dev/null
    echo "$1 127.0.0.1(rw,sync,no_subtree_check,$options)" >>/etc/exports
    if systemctl is-active -q nfs-server; then exportfs -r; fi
}
server_start() { timeout 200 systemctl start rpcbind.socket nfs-server; }
server_stop() { timeout 200 systemctl stop nfs-server; }

# The network between client and server: packets vanish, as behind a broken switch; nothing is refused.
network_drop() {
    nft add table inet vmtest &&
        nft add chain inet vmtest drop_nfs '{ type filter hook input priority 0; }' &&
        nft add rule inet vmtest drop_nfs tcp dport 2049 drop &&
        nft add rule inet vmtest drop_nfs tcp sport 2049 drop
}
network_restore() { nft delete table inet vmtest; }

# --- client

# mount_nfs 3|4.2 EXPORT MOUNTPOINT [OPTIONS]
mount_nfs() {
    local version=$1 source=$2 target=$3 options=${4:-}
    mkdir -p "$target"
    # A v3 lock daemon is needed only by who asks for it.
    [ "$version" != 3 ] || [[ ,$options, == *,lock,* ]] || options=nolock${options:+,$options}
    # nosharecache: every mount has counters of its own in mountstats.
    timeout 200 mount -t nfs -o "vers=$version,proto=tcp,nosharecache${options:+,$options}" "${NFS_SERVER:-127.0.0.1}:$source" "$target"
}
# mount_nfs_elsewhere 3|4.2 EXPORT MOUNTPOINT [OPTIONS]: as another machine does. For v4 one is who gives another name and
# finds the server at another address; v3 has no state of clients but locks, whose owners are told apart per address.
mount_nfs_elsewhere() {
    [ "$1" != 3 ] || { mount_nfs "$@"; return; }
    local status=0
    # Without a line's end: the kernel would be asked to take it forever.
    printf elsewhere >/sys/fs/nfs/net/nfs_client/identifier
    NFS_SERVER=127.0.0.2 mount_nfs "$@" || status=$?
    printf here >/sys/fs/nfs/net/nfs_client/identifier
    return $status
}
# nfs_reads MOUNTPOINT: read calls that the client has sent for this mount (v4.2 has two kinds).
nfs_reads() {
    awk -v target="$1" '$1 == "device" { ours = ($5 == target) }
        ours && ($1 == "READ:" || $1 == "READ_PLUS:") { calls += $2 }
        END { print calls + 0 }' /proc/self/mountstats
}
# Not while the server is away: forgetting a v4 inode gives its delegation back, which waits for the server.
drop_caches() { sync; echo 3 >/proc/sys/vm/drop_caches; }

# --- the product

# install_product: what the install command does, from the payload's binaries.
install_product() {
    install -m 755 /payload/bin/nfs-cachefs /usr/bin/nfs-cachefs
    install -m 755 /payload/bin/mount-cachefs /sbin/mount.cachefs
    # For mount(8) and umount(8), which go by the type in the mount table.
    ln -sf mount.cachefs /sbin/mount.fuse.cachefs
    ln -sf mount.cachefs /sbin/umount.fuse.cachefs
    modprobe fuse
    modprobe loop
}
# use_package: what comes after acts on the package and not on the payload's programs. 77 where there is none.
use_package() {
    PATH=${PATH#/payload/bin:}:/payload/bin
    package=$(ls /payload/nfs-cachefs_*.deb 2>/dev/null) ||
        { echo "skipped: no package (cargo install cargo-deb)"; exit 77; }
}
install_package() { LIMIT_S=400 check "the package is installed" dpkg -i "$package"; }
# prepare_machine: a cache disk in fstab, a server that answers to the name of `server`, a log that outlives a boot.
prepare_machine() {
    check "the cache disk is formatted" mkfs.xfs -q -K -f -L nvme /run/disk/cache
    mkdir -p /nvme /mnt/nfs /mnt/cached /var/log/journal
    echo "LABEL=nvme /nvme xfs x-systemd.device-timeout=600 0 2" >>/etc/fstab
    echo "127.0.0.1 server" >>/etc/hosts
    rm -f /etc/systemd/journald.conf.d/vm.conf
    systemctl -q unmask systemd-journal-flush
    # One machine over all boots.
    umount /etc/machine-id 2>/dev/null
    systemd-machine-id-setup
    systemctl daemon-reload
    # Of this boot, too: the next one asks what it said at its end.
    systemctl restart systemd-journald
    journalctl --flush
    check "and mounted" systemctl start nvme.mount
}
# mount_cached BACKEND MOUNTPOINT [OPTIONS]; CACHE_DIR where it is not the usual one
mount_cached() {
    mkdir -p "$2"
    timeout 200 mount -t cachefs -o "nfs_backend=$1,cache_dir=${CACHE_DIR:-/mnt/nvme/cache}${CACHEFS_VM_OPTIONS:+,$CACHEFS_VM_OPTIONS}${3:+,$3}" cachefs "$2" && mountpoint -q "$2"
}
# daemon_pid MOUNTPOINT: the daemon that serves it, by its command line; the newest when several match.
daemon_pid() { pgrep -n -f "(nfs-cachefs|mount.cachefs).*$1( |\$)"; }
daemon_kill() { # MOUNTPOINT: SIGKILL, then the dead mount goes
    local pid
    pid=$(daemon_pid "$1") || return 1
    kill -9 "$pid"
    timeout 20 tail --pid="$pid" -f /dev/null
    timeout 20 umount -l "$1"
}
mounts_of() { grep -c " $1 " /proc/self/mounts || true; }
status_has() { # MOUNTPOINT JSON_PART: the status as one line without spaces
    timeout 20 nfs-cachefs status "$1" --json | tr -d ' \n' | grep -q -- "$2"
}
# since VERSION: whether this kernel is that or newer.
since() { printf '%s\n%s\n' "$1" "$(uname -r)" | sort -C -V; }
# wait_until SECONDS COMMAND...
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.2
    done
}
