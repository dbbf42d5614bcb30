//! `nfs-cachefs`: parse, dispatch, exit status.

fn main() {
    std::process::exit(nfs_cachefs::cli::run(std::env::args_os()))
}
