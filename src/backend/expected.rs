//! A backend that was there before and is away now: what was known of its filesystems stands in for them, and its root is
//! awaited.

use super::identity::{FilesystemId, Traits};
use crate::sys::mountinfo::Mount;
use parking_lot::{Condvar, Mutex};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// No mount has this id.
const NOT_MOUNTED: u64 = u64::MAX;

/// What outlives the daemon of one filesystem of the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownFilesystem {
    /// The first bytes of the keys of its files.
    pub id: [u8; 8],
    pub(super) traits: Traits,
    pub fstype: String,
}

impl KnownFilesystem {
    pub(super) fn new(id: FilesystemId, traits: Traits, fstype: &str) -> Self {
        Self {
            id: id.0,
            traits,
            fstype: fstype.to_owned(),
        }
    }

    /// Its traits, a bit each.
    pub fn traits_in_bits(&self) -> u8 {
        let Traits {
            keeps_handles,
            remote,
            local_clock,
            keeps_birth_time,
            shows_rights,
        } = self.traits;
        [
            keeps_handles,
            remote,
            local_clock,
            keeps_birth_time,
            shows_rights,
        ]
        .into_iter()
        .enumerate()
        .fold(0, |bits, (place, holds)| bits | u8::from(holds) << place)
    }

    /// `None` for bits that say nothing.
    pub fn from_bits(id: [u8; 8], bits: u8, fstype: String) -> Option<Self> {
        let bit = |place: u8| bits >> place & 1 == 1;
        (bits < 1 << 5).then(|| Self {
            id,
            traits: Traits {
                keeps_handles: bit(0),
                remote: bit(1),
                local_clock: bit(2),
                keeps_birth_time: bit(3),
                shows_rights: bit(4),
            },
            fstype,
        })
    }

    /// Stands for its mount until it is there.
    pub(super) fn mount(&self) -> Mount {
        Mount {
            id: NOT_MOUNTED,
            root: "/".into(),
            mount_point: "".into(),
            fstype: self.fstype.clone(),
            source: "".into(),
            options: String::new(),
        }
    }
}

pub(super) fn is_expected(mount: &Mount) -> bool {
    mount.id == NOT_MOUNTED
}

/// The root's descriptor: there from the start, or awaited.
pub(super) struct Root {
    descriptor: OnceLock<Arc<OwnedFd>>,
    waiting: Mutex<()>,
    arrived: Condvar,
    wait_until: Instant,
}

impl Root {
    pub fn there(descriptor: OwnedFd) -> Self {
        let root = Self::awaited(Duration::ZERO);
        root.arrive(descriptor);
        root
    }

    /// Calls wait for it this long from now, then fail at once.
    pub fn awaited(patience: Duration) -> Self {
        Self {
            descriptor: OnceLock::new(),
            waiting: Mutex::new(()),
            arrived: Condvar::new(),
            wait_until: Instant::now() + patience,
        }
    }

    /// ETIMEDOUT while it is away. Blocks until then.
    pub fn get(&self) -> io::Result<&Arc<OwnedFd>> {
        let mut waiting = self.waiting.lock();
        loop {
            if let Some(descriptor) = self.descriptor.get() {
                return Ok(descriptor);
            }
            let outcome = self.arrived.wait_until(&mut waiting, self.wait_until);
            if outcome.timed_out() && self.descriptor.get().is_none() {
                return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
            }
        }
    }

    pub fn descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        match self.descriptor.get() {
            Some(descriptor) => Ok(descriptor.as_fd()),
            None => self.get().map(|descriptor| descriptor.as_fd()),
        }
    }

    pub fn if_there(&self) -> Option<&Arc<OwnedFd>> {
        self.descriptor.get()
    }

    /// Whoever comes second changes nothing.
    pub fn arrive(&self, descriptor: OwnedFd) {
        let _waiting = self.waiting.lock();
        let _ = self.descriptor.set(Arc::new(descriptor));
        self.arrived.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::testing::scratch;
    use crate::backend::{Backend, DirectoryBackend};
    use crate::sys::path::open_directory;

    fn expected(backend: &DirectoryBackend, patience: Duration) -> Arc<DirectoryBackend> {
        let (root, _) = backend.root().unwrap();
        let filesystem = backend.known_filesystem(root.filesystem).unwrap();
        DirectoryBackend::awaited(root.key, &[filesystem], patience, Arc::default())
    }

    #[test]
    fn traits_come_back() {
        for bits in 0..1 << 5 {
            let known = KnownFilesystem::from_bits([1; 8], bits, "nfs".to_owned()).unwrap();
            assert_eq!(known.traits_in_bits(), bits);
        }
        assert_eq!(KnownFilesystem::from_bits([1; 8], 32, String::new()), None);
    }

    #[test]
    fn an_awaited_root_is_timed_out_until_the_same_directory_arrives() {
        let (directory, another) = (scratch(), scratch());
        std::fs::write(directory.path().join("file"), "x").unwrap();
        let known = DirectoryBackend::open(directory.path(), Arc::default()).unwrap();
        let (place, _) = known.root().unwrap();
        let awaited = expected(&known, Duration::ZERO);
        let away = awaited.lookup(&place, "file".as_ref()).unwrap_err();
        assert_eq!(away.raw_os_error(), Some(libc::ETIMEDOUT));
        let wrong = open_directory(another.path()).unwrap();
        assert!(!awaited.arrive(wrong).unwrap());
        assert!(awaited.root().is_err());
        let right = open_directory(directory.path()).unwrap();
        assert!(awaited.arrive(right).unwrap());
        let found = awaited.lookup(&place, "file".as_ref()).unwrap();
        assert_eq!(found.filesystem, place.filesystem);
        assert_eq!(found.attributes.size_bytes, 1);
    }

    #[test]
    fn who_asks_early_waits_for_the_root() {
        let directory = scratch();
        let known = DirectoryBackend::open(directory.path(), Arc::default()).unwrap();
        let awaited = expected(&known, Duration::from_secs(60));
        let asking = awaited.clone();
        let asker = std::thread::spawn(move || asking.root().map(drop));
        awaited
            .arrive(open_directory(directory.path()).unwrap())
            .unwrap();
        asker.join().unwrap().unwrap();
    }
}
