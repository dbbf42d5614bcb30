//! [`IoFile`] on a file of a simulated device.

use super::device::Device;
use super::faults::{Fault, Injector};
use super::{Core, Kind, errno};
use crate::io::{
    ALIGNMENT_BYTES, Buffer, BufferPool, Completion, FileFacts, FillCompletion, FillError,
    FillSource, IoFile,
};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

const FILL_MAX_BYTES: u64 = 1 << 20;

/// One open file. Requests under way keep what is open of it.
pub(super) struct SimulatedFile {
    open: Arc<OpenFile>,
}

struct OpenFile {
    core: Arc<Core>,
    device: String,
    life: u64,
    inode: u64,
    is_writable: bool,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // EIO: the life that opened it is over, and with it the count.
        let _ = self.look(|device, _| {
            device.close(self.inode);
            Ok(())
        });
    }
}

impl OpenFile {
    fn operate<T>(
        &self,
        kind: Kind,
        operation: impl FnOnce(&mut Device, &mut Injector, i128) -> io::Result<T>,
    ) -> io::Result<T> {
        self.core.operate(self.life, &self.device, kind, operation)
    }

    fn look<T>(
        &self,
        look: impl FnOnce(&mut Device, &mut Injector) -> io::Result<T>,
    ) -> io::Result<T> {
        self.core.look(self.life, &self.device, look)
    }

    fn read(&self, buffer: &mut [u8], offset: u64, direct: bool) -> io::Result<usize> {
        self.operate(Kind::Change, |device, faults, _| {
            device.read(self.inode, buffer, offset, direct, faults)
        })
    }

    fn write(&self, data: &[u8], offset: u64, direct: bool) -> io::Result<()> {
        self.operate(Kind::Change, |device, faults, now_ns| {
            // Without data there is no system call that could object.
            if !self.is_writable && !data.is_empty() {
                return Err(errno(libc::EBADF));
            }
            device.write(self.inode, data, offset, direct, now_ns, faults)
        })
    }

    /// Notes a submitted request, and rolls how long it is to be delayed at most.
    fn begin(&self) -> Duration {
        let delay = self.look(|device, faults| {
            let file = device.inode(self.inode)?;
            file.in_flight += 1;
            let any = Fault::Delay {
                at_most: Duration::ZERO,
            };
            let path = file.path.clone();
            Ok(match faults.strike(any, &self.device, &path) {
                Some(Fault::Delay { at_most }) => at_most,
                _ => Duration::ZERO,
            })
        });
        delay.unwrap_or_default()
    }

    fn end(&self) {
        // EIO: the life that counted the request is over. ESTALE: a directory.
        let _ = self.look(|device, _| {
            device.inode(self.inode)?.in_flight -= 1;
            Ok(())
        });
    }

    fn fill(&self, source: &FillSource, offset: u64, length_bytes: u64) -> Result<u64, FillError> {
        if !offset.is_multiple_of(ALIGNMENT_BYTES) || length_bytes > FILL_MAX_BYTES {
            return Err(FillError::Destination(errno(libc::EINVAL)));
        }
        // Page-aligned and whole pages, as the source may be open with O_DIRECT.
        let pool =
            BufferPool::new(1, FILL_MAX_BYTES as usize, false).map_err(FillError::Destination)?;
        let mut buffer = pool
            .try_take()
            .expect("a new pool of one slot has one to give");
        let length_bytes = length_bytes as usize;
        let read = read_source(source, &mut buffer, length_bytes, offset);
        let moved = read.map_err(FillError::Source)?;
        self.write(&buffer[..moved], offset, true)
            .map_err(FillError::Destination)?;
        Ok(moved as u64)
    }
}

/// Reads until `length_bytes` are there or the source has ended.
fn read_source(
    source: &FillSource,
    buffer: &mut [u8],
    length_bytes: usize,
    offset: u64,
) -> io::Result<usize> {
    if let FillSource::Watched(source, watch) = source {
        let read_bytes = read_source(source, buffer, length_bytes, offset)?;
        watch(&buffer[..read_bytes], offset);
        return Ok(read_bytes);
    }
    let whole_pages = length_bytes.next_multiple_of(ALIGNMENT_BYTES as usize);
    let mut moved = 0;
    while moved < length_bytes {
        let position = offset + moved as u64;
        let result = match source {
            FillSource::Descriptor(file) => pread(file, &mut buffer[moved..whole_pages], position),
            FillSource::Reader(reader) => {
                reader.read_at(&mut buffer[moved..length_bytes], position)
            }
            FillSource::Watched(..) => unreachable!("taken apart above"),
        };
        match result {
            Ok(0) => break,
            Ok(read) => moved += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(moved.min(length_bytes))
}

fn pread(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let offset = offset.try_into().map_err(|_| errno(libc::EINVAL))?;
    Ok(nix::sys::uio::pread(file, buffer, offset)?)
}

impl SimulatedFile {
    pub fn new(core: Arc<Core>, device: &str, life: u64, inode: u64, is_writable: bool) -> Self {
        Self {
            open: Arc::new(OpenFile {
                core,
                device: device.to_owned(),
                life,
                inode,
                is_writable,
            }),
        }
    }
}

impl IoFile for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let open = &self.open;
        open.operate(Kind::Change, |device, faults, _| {
            let length_bytes = device.shorten(open.inode, buffer.len(), faults);
            device.read(
                open.inode,
                &mut buffer[..length_bytes],
                offset,
                false,
                faults,
            )
        })
    }

    fn read_past_cache(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.open.read(buffer, offset, true)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.open.write(data, offset, false)
    }

    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        let open = &self.open;
        open.look(|device, faults| {
            let length_bytes = device.shorten(open.inode, buffer.len(), faults);
            let file = device.inode(open.inode)?;
            Ok(file.read_resident(&mut buffer[..length_bytes], offset))
        })
    }

    fn submit_read(
        &self,
        mut buffer: Buffer,
        offset: u64,
        length_bytes: usize,
        direct: bool,
        done: Completion,
    ) {
        let direct = direct
            && offset.is_multiple_of(ALIGNMENT_BYTES)
            && (length_bytes as u64).is_multiple_of(ALIGNMENT_BYTES)
            && buffer.is_aligned();
        let delay_max = self.open.begin();
        let open = self.open.clone();
        let task = move || {
            let result = match buffer.get_mut(..length_bytes) {
                Some(into) => open.read(into, offset, direct),
                None => Err(errno(libc::EINVAL)),
            };
            open.end();
            drop(open);
            done(result, buffer);
        };
        self.open
            .core
            .schedule
            .submit(Box::new(task), delay_max, false);
    }

    fn submit_fill(
        &self,
        source: FillSource,
        offset: u64,
        length_bytes: u64,
        done: FillCompletion,
    ) {
        let delay_max = self.open.begin();
        let open = self.open.clone();
        let task = move || {
            let result = open.fill(&source, offset, length_bytes);
            open.end();
            drop(open);
            drop(source);
            done(result);
        };
        self.open
            .core
            .schedule
            .submit(Box::new(task), delay_max, true);
    }

    fn set_size(&self, size_bytes: u64) -> io::Result<()> {
        let open = &self.open;
        open.operate(Kind::Change, |device, faults, now_ns| {
            if !open.is_writable {
                return Err(errno(libc::EINVAL));
            }
            device.set_size(open.inode, size_bytes, now_ns, faults)
        })
    }

    fn punch(&self, offset: u64, length_bytes: u64) -> io::Result<()> {
        let open = &self.open;
        open.operate(Kind::Change, |device, faults, now_ns| {
            device.punch(open.inode, offset, length_bytes, now_ns, faults)
        })
    }

    /// The room of a simulated disk is nobody else's.
    fn set_blocks_aside(&self) {}

    fn facts(&self) -> io::Result<FileFacts> {
        self.open
            .look(|device, _| Ok(device.facts(self.open.inode)))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.open.operate(Kind::Sync, |device, faults, _| {
            device.sync_data(self.open.inode, false, faults)
        })
    }

    fn sync_all(&self) -> io::Result<()> {
        self.open.operate(Kind::Sync, |device, faults, _| {
            device.sync_data(self.open.inode, true, faults)
        })
    }

    fn set_random_access(&self, _random: bool) {
        // Nothing reads ahead here.
    }

    fn is_exclusive(&self) -> bool {
        let exclusive = self.open.look(|device, _| {
            let file = device.inode(self.open.inode)?;
            Ok(file.open_files == 1 && file.in_flight == 0 && !file.is_mapped)
        });
        exclusive.unwrap_or(false)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
