//! `mount-cachefs`, installed as /sbin/mount.cachefs: what mount(8) runs for `-t cachefs`.

fn main() {
    std::process::exit(nfs_cachefs::cli::helper::run(std::env::args_os()))
}
