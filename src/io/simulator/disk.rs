//! [`Io`] on a device of a simulation.

use super::file::SimulatedFile;
use super::{Core, Kind};
use crate::io::{DiskSpace, Io, IoFile, OpenMode};
use std::io;
use std::sync::Arc;

/// One device as one life of the machine sees it.
pub struct SimulatedDisk {
    core: Arc<Core>,
    name: String,
    life: u64,
}

impl SimulatedDisk {
    pub(super) fn new(core: Arc<Core>, name: &str, life: u64) -> Self {
        Self {
            core,
            name: name.to_owned(),
            life,
        }
    }

    /// From now on [`IoFile::is_exclusive`] is false (or true again) for this file, as if a program
    /// had it mapped. ENOENT, EISDIR, and EIO after a crash.
    pub fn pretend_mapped(&self, path: &str, is_mapped: bool) -> io::Result<()> {
        self.core.look(self.life, &self.name, |device, _| {
            device.file_at(path)?.is_mapped = is_mapped;
            Ok(())
        })
    }

    /// Decay at rest: flips bit `bit` (0 to 7) of the byte at `offset` of what is durable of this file,
    /// and drops the page that would hide it. False where nothing durable is allocated.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u32) -> io::Result<bool> {
        self.core.look(self.life, &self.name, |device, _| {
            Ok(device.file_at(path)?.flip_bit(offset, bit))
        })
    }
}

impl Io for SimulatedDisk {
    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.core
            .operate(self.life, &self.name, Kind::Change, |device, faults, _| {
                device.create_directory(path, faults)
            })
    }

    fn list(&self, path: &str, each: &mut dyn FnMut(&str) -> bool) -> io::Result<()> {
        let names =
            self.core
                .operate(self.life, &self.name, Kind::Change, |device, faults, _| {
                    device.list(path, faults)
                })?;
        for name in names {
            if !each(&name) {
                break;
            }
        }
        Ok(())
    }

    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn IoFile>> {
        let (inode, is_directory) = self.core.operate(
            self.life,
            &self.name,
            Kind::Change,
            |device, faults, now_ns| device.open(path, mode, now_ns, faults),
        )?;
        Ok(Arc::new(SimulatedFile::new(
            self.core.clone(),
            &self.name,
            self.life,
            inode,
            mode != OpenMode::Read && !is_directory,
        )))
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.core
            .operate(self.life, &self.name, Kind::Change, |device, faults, _| {
                device.remove_file(path, faults)
            })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.core
            .operate(self.life, &self.name, Kind::Change, |device, faults, _| {
                device.rename(from, to, faults)
            })
    }

    fn sync_directory(&self, path: &str) -> io::Result<()> {
        self.core
            .operate(self.life, &self.name, Kind::Sync, |device, faults, _| {
                device.sync_directory(path, faults)
            })
    }

    fn sync_all(&self) -> io::Result<()> {
        self.core
            .operate(self.life, &self.name, Kind::Sync, |device, faults, _| {
                device.sync_all(faults)
            })
    }

    fn space(&self) -> io::Result<DiskSpace> {
        self.core
            .look(self.life, &self.name, |device, _| Ok(device.space()))
    }
}
