//! Pipes of a chosen size.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::io;
use std::os::fd::OwnedFd;

/// A pipe; dropped with whatever bytes are still in it.
pub struct Pipe {
    pub reader: OwnedFd,
    pub writer: OwnedFd,
    pub capacity_bytes: u64,
}

impl Pipe {
    /// A pipe that holds `wanted_bytes`, or as much as /proc/sys/fs/pipe-max-size allows.
    pub fn with_capacity(wanted_bytes: u32) -> io::Result<Self> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let size = libc::c_int::try_from(wanted_bytes).unwrap_or(libc::c_int::MAX);
        let capacity = match fcntl(&writer, FcntlArg::F_SETPIPE_SZ(size)) {
            Ok(capacity) => capacity,
            Err(_) => fcntl(&writer, FcntlArg::F_GETPIPE_SZ)?,
        };
        Ok(Self {
            reader,
            writer,
            capacity_bytes: capacity as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_has_the_size_asked_for_or_says_less() {
        let pipe = Pipe::with_capacity(256 * 1024).unwrap();
        assert!(pipe.capacity_bytes >= 4096);
        assert_eq!(pipe.capacity_bytes % 4096, 0);
    }
}
