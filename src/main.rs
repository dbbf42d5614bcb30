//! `nfs-cachefs`: parse, dispatch, exit status.

/// Nodes live long and lie in slabs of their own, apart from what comes and goes with each request, which leaves no gaps
/// between them.
#[global_allocator]
static HEAP: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    std::process::exit(nfs_cachefs::cli::run(std::env::args_os()))
}
