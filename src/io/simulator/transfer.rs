//! Moving the bytes of a device's files, with the faults planned for that.

use super::content::{BLOCK_BYTES, units};
use super::device::Device;
use super::errno;
use super::faults::{Fault, Injector};
use super::inode::{Inode, Landing};
use std::collections::BTreeMap;
use std::io;

/// The largest file of ext4 with 4 KiB blocks.
pub(super) const FILE_SIZE_MAX_BYTES: u64 = ((1 << 32) - 1) * BLOCK_BYTES;

/// What is open and not a file is a directory.
fn find(inodes: &mut BTreeMap<u64, Inode>, inode: u64) -> io::Result<&mut Inode> {
    inodes.get_mut(&inode).ok_or_else(|| errno(libc::EISDIR))
}

/// EINVAL where the end is no `off_t` (fs/read_write.c, rw_verify_area).
fn check_offsets(offset: u64, length_bytes: usize) -> io::Result<()> {
    match offset.checked_add(length_bytes as u64) {
        Some(end) if end <= i64::MAX as u64 => Ok(()),
        _ => Err(errno(libc::EINVAL)),
    }
}

impl Device {
    pub fn read(
        &mut self,
        inode: u64,
        buffer: &mut [u8],
        offset: u64,
        direct: bool,
        faults: &mut Injector,
    ) -> io::Result<usize> {
        check_offsets(offset, buffer.len())?;
        let file = find(&mut self.inodes, inode)?;
        if faults.strikes(Fault::ReadError, &self.name, &file.path) {
            return Err(errno(libc::EIO));
        }
        if faults.strikes(Fault::BitFlip, &self.name, &file.path) {
            let flipped = offset + faults.dice.below(buffer.len() as u64);
            file.flip_bit(flipped, faults.dice.below(8) as u32);
        }
        if direct {
            return Ok(file.read_direct(buffer, offset));
        }
        let before_bytes = file.view.allocated_bytes();
        let moved = file.read(buffer, offset);
        // A page read from a disk that lost its block leaves the file smaller.
        self.used_bytes = self.used_bytes + file.view.allocated_bytes() - before_bytes;
        Ok(moved)
    }

    /// How much of a read that asks for `length_bytes` is to be tried.
    pub fn shorten(&mut self, inode: u64, length_bytes: usize, faults: &mut Injector) -> usize {
        match self.inodes.get(&inode) {
            Some(file)
                if length_bytes > 1 && faults.strikes(Fault::ShortRead, &self.name, &file.path) =>
            {
                1 + faults.dice.below(length_bytes as u64 - 1) as usize
            }
            _ => length_bytes,
        }
    }

    /// Writes as much as there is room for, then says what stopped it.
    pub fn write(
        &mut self,
        inode: u64,
        data: &[u8],
        offset: u64,
        direct: bool,
        now_ns: i128,
        faults: &mut Injector,
    ) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let file = find(&mut self.inodes, inode)?;
        check_offsets(offset, data.len())?;
        let mut writable = data.len();
        let mut result = Ok(());
        if offset + data.len() as u64 > FILE_SIZE_MAX_BYTES {
            writable = FILE_SIZE_MAX_BYTES.saturating_sub(offset) as usize;
            result = Err(errno(libc::EFBIG));
        }
        let mut free_bytes = self.capacity_bytes.saturating_sub(self.used_bytes);
        for (block, _, range) in units(offset, writable, BLOCK_BYTES) {
            if file.view.has_block(block) {
                continue;
            }
            if free_bytes < BLOCK_BYTES {
                writable = range.start;
                result = Err(errno(libc::ENOSPC));
                break;
            }
            free_bytes -= BLOCK_BYTES;
        }
        if faults.strikes(Fault::WriteError, &self.name, &file.path) {
            writable = faults.dice.below(writable as u64 + 1) as usize;
            result = Err(errno(libc::EIO));
        }
        let landing = if faults.strikes(Fault::LostWrite, &self.name, &file.path) {
            Landing::Lost
        } else if faults.strikes(Fault::MisdirectedWrite, &self.name, &file.path) {
            Landing::Misdirected
        } else {
            Landing::Faithful
        };
        let before_bytes = file.view.allocated_bytes();
        let data = &data[..writable];
        file.write(data, offset, direct, landing, now_ns, &mut faults.dice);
        self.used_bytes = self.used_bytes + file.view.allocated_bytes() - before_bytes;
        result
    }

    pub fn punch(
        &mut self,
        inode: u64,
        offset: u64,
        length_bytes: u64,
        now_ns: i128,
        faults: &mut Injector,
    ) -> io::Result<()> {
        let file = find(&mut self.inodes, inode)?;
        if faults.strikes(Fault::WriteError, &self.name, &file.path) {
            return Err(errno(libc::EIO));
        }
        let before_bytes = file.view.allocated_bytes();
        file.punch(offset, length_bytes, now_ns, &mut faults.dice);
        self.used_bytes = self.used_bytes + file.view.allocated_bytes() - before_bytes;
        Ok(())
    }

    pub fn set_size(
        &mut self,
        inode: u64,
        size_bytes: u64,
        now_ns: i128,
        faults: &mut Injector,
    ) -> io::Result<()> {
        let file = find(&mut self.inodes, inode)?;
        check_offsets(size_bytes, 0)?;
        if size_bytes > FILE_SIZE_MAX_BYTES {
            return Err(errno(libc::EFBIG));
        }
        if faults.strikes(Fault::WriteError, &self.name, &file.path) {
            return Err(errno(libc::EIO));
        }
        let before_bytes = file.view.allocated_bytes();
        file.resize(size_bytes, now_ns);
        self.used_bytes = self.used_bytes + file.view.allocated_bytes() - before_bytes;
        Ok(())
    }
}
