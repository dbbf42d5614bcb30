# Shared by prepare, run and test: where things are kept and how a skip looks. Sourced, not run.

VM_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
VM_CACHE=${CACHEFS_VM_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/nfs-cachefs-vm}
# Stock kernel of the guest: 6.12 (backports; FUSE passthrough), 6.1 (stable; none) or 7 (unstable).
VM_KERNEL=${CACHEFS_VM_KERNEL:-6.12}
VMLINUX=$VM_CACHE/boot/vmlinux-$VM_KERNEL
ROOT_IMAGE=$VM_CACHE/root-$VM_KERNEL.img
QEMU_TREE=$VM_CACHE/qemu
NBDKIT_TREE=$VM_CACHE/nbdkit
# Exit status of a skip, as automake and many test drivers use it.
SKIPPED=77

skip() {
    echo "skipped: no VM image ($*)" >&2
    exit $SKIPPED
}

# QEMU and nbdkit are unpacked, not installed: their own loader and libraries are used, whatever the host has.
exec_from() { # TREE PROGRAM ARGUMENT...
    local tree=$1 program=$2
    shift 2
    exec "$tree/lib64/ld-linux-x86-64.so.2" \
        --library-path "$tree/usr/lib/x86_64-linux-gnu:$tree/lib/x86_64-linux-gnu" "$tree/$program" "$@"
}
qemu() {
    exec_from "$QEMU_TREE" usr/bin/qemu-system-x86_64 \
        -L "$QEMU_TREE/usr/share/qemu" -L "$QEMU_TREE/usr/share/seabios" "$@"
}
# lossy_disk FILE SOCKET: serves it as a disk whose write cache is lost with the process. QEMU's own files would keep what was
# never flushed: it is in the host's memory.
lossy_disk() {
    local modules=$NBDKIT_TREE/usr/lib/x86_64-linux-gnu/nbdkit
    exec_from "$NBDKIT_TREE" usr/bin/nbdkit --foreground --unix "$2" \
        --filter="$modules/filters/nbdkit-cache-filter.so" "$modules/plugins/nbdkit-file-plugin.so" \
        file="$1" cache=writeback
}
