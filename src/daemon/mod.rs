//! The life of one mount: paths are checked, the process goes into the background, the parts are put
//! together, requests are served, everything ends within a bounded time.
//!
//! What always holds: the backend's root is opened before anything is mounted, or known to be away; no thread starts
//! before the last fork; the one who called learns of success or of the error text and exit
//! status, never both, never neither; unmounting ends.
//!
//! - `start`: the way from options to a mount that serves
//! - `prepare`: checks of backend and mountpoint; `backend_root` opens the backend; `cache_directory` those of the cache's disks, `directory_lock`
//!   who holds one, `known_disks` whether its disk is there
//! - `background`: going into the background and telling the caller how it went
//! - `assemble`: which component gets which setting; `disks`: the cache directories; `journalling`: the journal,
//!   `journal_status`, `device_status` and `journal_control` what is told of it, `journal_places` its directories, `journal_devices` what may
//!   be done to them, `journal_memory` what is remembered of a journal that is not there
//! - `pinning`: what is told of pins; `tuning`: what is measured and set for the control loop
//! - `offline`: a backend that is away at the start; `automount`: points of autofs, and who mounts there
//! - `report`: the components' state, for `status`
//! - `run`: serving until the end, signals, shutdown
//! - `control`: the socket that `status`, `evict` and `umount` talk to; `control_client`: their end of it
//! - `status`: what `status --json` says for good; `status_of_scrub`: of checksums, `latency`: of how long things took
//! - `why`: how one file stands; `doctor`: what to do about a mount
//! - `watching`: what programs do, told to `trace` and `top`
//! - `watchdog`: tells the service manager that requests are answered; `guard`: sees to it that a killed daemon ends
//! - `prometheus`: the same as metrics
//! - `unmount`: ending a mount from outside, whatever state its daemon is in; `draining`: not before all is on the backend; `remount`: between ro and rw; `reload`: settings that change while it serves
//! - `mount_table`: /proc/self/mountinfo; `fstab`: /etc/fstab; `utab`: what has umount(8) run its helper
//! - `machine`: what this kernel and machine can do, for `check`
//! - `log`: where messages go
//! - `error`: why a mount does not come up, and exit statuses

pub mod assemble;
pub mod automount;
pub mod backend_root;
pub mod background;
pub mod cache_directory;
pub mod control;
mod control_client;
mod control_slots;
pub mod device_status;
mod directory_lock;
mod disks;
pub mod doctor;
pub mod draining;
pub mod journal_control;
pub mod journal_devices;
pub mod journal_memory;
pub mod journal_places;
pub mod journal_status;
mod journalling;
mod known_disks;
pub mod error;
pub mod fstab;
pub mod guard;
mod latency;
pub mod log;
pub mod machine;
pub mod mount_table;
mod offline;
pub mod pinning;
pub mod prepare;
pub mod prometheus;
pub mod reload;
pub mod remount;
pub mod report;
pub mod run;
pub mod start;
pub mod status;
pub mod status_of_scrub;
pub mod tuning;
pub mod unmount;
mod utab;
pub mod watchdog;
pub mod watching;
pub mod why;

/// The filesystem type as the kernel shows it: `fuse.` and this.
pub const FILESYSTEM_SUBTYPE: &str = "cachefs";

/// A scratch directory for tests: under CACHEFS_TEST_DIR, else the system's; removed when dropped.
#[cfg(test)]
pub(crate) fn test_scratch() -> tempfile::TempDir {
    let parent = std::env::var_os("CACHEFS_TEST_DIR")
        .map_or_else(std::env::temp_dir, std::path::PathBuf::from);
    tempfile::tempdir_in(parent).expect("a scratch directory can be made")
}
