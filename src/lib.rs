//! nfs-cachefs: a local disk in front of a slow or remote directory, served through FUSE.
//!
//! The modules in layer order; imports point downward only (tests/layers.rs):
#![deny(unsafe_code)]

/// One file per subcommand.
pub mod cli;
/// Wiring and life cycle: start-up, shutdown, control socket.
pub mod daemon;
/// Options and settings, validated once.
pub mod config;
/// The kernel protocol: read, decode, dispatch, reply, passthrough ids, invalidation.
pub mod fuse;
/// File semantics: names, nodes, handles, attributes, access, reading, writing, sync, locks, io modes, errno.
pub mod fs;
/// Changes of bytes that are in the journal first: dirty files, upload, conflicts.
pub mod writeback;
/// Objects, extents, fill, what is written and kept, index, eviction, recovery.
pub mod cache;
/// What was written and the backend does not have yet: format, group commit, recovery.
pub mod journal;
/// Which bytes to fetch ahead: pure.
pub mod readahead;
/// How fills are made, by what they bring: pure.
pub mod tuning;
/// The directory being cached: deadlines, identity, expendable threads.
pub mod backend;
/// Every disk and pipe operation: engines, buffers, splices, simulator.
pub mod io;
/// Safe wrappers of system calls, one file per family.
pub mod sys;
/// Words shared by every layer.
pub mod types;
/// What the kernel is to forget.
pub mod events;
/// Operations of programs as they end, for who watches.
pub mod watch;
/// Monotonic and wall-clock time.
pub mod clock;
/// Counters and gauges.
pub mod metrics;
