# Shared by prepare, run and test: where things are kept and how a skip looks. Sourced, not run.

VM_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
VM_CACHE=${CACHEFS_VM_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/nfs-cachefs-vm}
# Stock kernel of the guest: 6.12 (backports; FUSE passthrough) or 6.1 (stable; none).
VM_KERNEL=${CACHEFS_VM_KERNEL:-6.12}
VMLINUX=$VM_CACHE/boot/vmlinux-$VM_KERNEL
ROOT_IMAGE=$VM_CACHE/root-$VM_KERNEL.img
QEMU_TREE=$VM_CACHE/qemu
# Exit status of a skip, as automake and many test drivers use it.
SKIPPED=77

skip() {
    echo "skipped: no VM image ($*)" >&2
    exit $SKIPPED
}

# QEMU is unpacked, not installed: its own loader and libraries are used, whatever the host has.
qemu() {
    local libraries=$QEMU_TREE/usr/lib/x86_64-linux-gnu:$QEMU_TREE/lib/x86_64-linux-gnu
    exec "$QEMU_TREE/lib64/ld-linux-x86-64.so.2" --library-path "$libraries" \
        "$QEMU_TREE/usr/bin/qemu-system-x86_64" \
        -L "$QEMU_TREE/usr/share/qemu" -L "$QEMU_TREE/usr/share/seabios" "$@"
}
