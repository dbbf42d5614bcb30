//! The kernel protocol: requests are read from /dev/fuse, decoded, handed to the verbs of
//! [`crate::fs::operations::Operations`], and answered. No file semantics here. fuser negotiates; the
//! reading is ours (docs/decisions/001-own-reader.md).
//!
//! What always holds: a request is answered exactly once, on the device it was read from; a handler
//! that panics or loses its completion answers EIO; a reader thread never waits for a backend or a
//! disk; notifications go out from a thread that serves nothing.
//!
//! - `session`: [`Channel`] (mounted, negotiated) and [`Serving`] (answering), the reader threads
//! - `mount`: the mount system call, finding and leaving our own mount
//! - `protocol`: what is asked of the kernel at INIT, and the report of what it has
//! - `dispatch`: request to verb, and who is let in
//! - `decode`, `encode`, `directory`, `abi`: bytes, pure
//! - `locks`: requests about locks
//! - `names`: requests that change names and attributes; `bytes`: those that change bytes
//! - `reply`: the duty to answer one request; `watched`: what is told of it to who watches
//! - `interrupts`: interrupts that overtake their request
//! - `invalidate`: what the kernel is to forget
//! - `registry`: passthrough ids
//! - `memory_fs`, `mounted_tests`: the tests on a real mount

pub mod abi;
pub mod bytes;
pub mod decode;
pub mod directory;
pub mod dispatch;
pub mod encode;
pub mod interrupts;
pub mod invalidate;
pub mod locks;
pub mod mount;
pub mod names;
pub mod protocol;
pub mod registry;
pub mod reply;
pub mod session;
mod watched;

pub use mount::{Access, DeviceNumber, FuseError, MountPlan, UnmountMode};
pub use protocol::{Passthrough, ProtocolReport};
pub use session::{Channel, MountSettings, Serving, Unmounter};

#[cfg(test)]
mod memory_fs;
#[cfg(test)]
mod mounted_tests;
