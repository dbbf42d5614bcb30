//! Why a request failed, and the only map to errno.

use std::io;

/// An error of a request.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    #[error("mounted read-only")]
    ReadOnly,
    #[error("no such node or handle")]
    UnknownNode,
    /// The file is another one than was opened, or changed so that the bytes asked for are gone:
    /// the kernel (open) or the program (read) has to look again.
    #[error("the file changed on the backend")]
    Stale,
    #[error("the backend did not answer within backend_timeout")]
    BackendTimeout,
    #[error("the backend has been away for longer than `stale`")]
    Outdated,
    #[error("interrupted by a signal")]
    Interrupted,
    #[error("the handle was not opened for writing")]
    NotForWriting,
    #[error("a program that runs cannot be written to")]
    BeingExecuted,
    #[error("not a regular file")]
    NotRegular,
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    #[error("no data or hole at or after that offset")]
    NoSuchOffset,
    #[error("not supported")]
    NotSupported,
    #[error("this user has too many files open")]
    TooManyOpen,
    #[error("the daemon is stopping")]
    Stopping,
    /// An errno of the backend, passed on as it is.
    #[error("backend: {0}")]
    Backend(#[source] io::Error),
    /// The cache disk failed and the backend could not stand in.
    #[error("cache disk: {0}")]
    Disk(#[source] io::Error),
}

impl FsError {
    /// The errno a program sees.
    pub fn errno(&self) -> i32 {
        match self {
            Self::ReadOnly => libc::EROFS,
            Self::UnknownNode => libc::ESTALE,
            Self::Stale => libc::ESTALE,
            Self::BackendTimeout => libc::ETIMEDOUT,
            Self::Interrupted => libc::EINTR,
            Self::NotForWriting => libc::EBADF,
            Self::BeingExecuted => libc::ETXTBSY,
            Self::NotRegular => libc::EINVAL,
            Self::Invalid(_) => libc::EINVAL,
            Self::NoSuchOffset => libc::ENXIO,
            Self::NotSupported => libc::EOPNOTSUPP,
            Self::TooManyOpen => libc::ENFILE,
            Self::Stopping => libc::ENOTCONN,
            Self::Backend(error) => error.raw_os_error().filter(|e| *e > 0).unwrap_or(libc::EIO),
            Self::Disk(_) | Self::Outdated => libc::EIO,
        }
    }
}
