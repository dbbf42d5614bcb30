//! One side as one thread has it: where it makes its steps, and what it has open.

use crate::steps::{SLOT_BYTES, Step, Way};
use crate::support::reading::{Mapping, open_direct};
use crate::support::writing::{WritableMapping, allocate, copy_range, open_with};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// What a step answers: a number or bytes, or its errno.
pub type Answer = Result<Vec<u8>, i32>;

pub const LOG: &str = "shared/log";
pub const RECORD_BYTES: usize = 200;
pub const ATTRIBUTE: &str = "user.model";
/// Before it lie the times that steps set, behind it those that changes leave.
const SET_TIMES_END_S: i64 = 1_000_000;

pub struct Side {
    pub root: PathBuf,
    /// The same files past the mount, for somebody else's changes.
    pub behind: PathBuf,
    /// By another mount.
    pub other: PathBuf,
    /// Every other thread works by the other mount.
    pub is_in_turn: bool,
    /// The plain directory is neither asked for O_DIRECT, which it has conditions for, nor waited for.
    pub is_mount: bool,
    /// The directory gets there later.
    pub is_written_back: bool,
    pub thread: usize,
    /// The file with slots that this thread's mount writes to.
    pub slots: String,
    pub handles: Vec<File>,
    log: Option<File>,
    slots_open: Option<File>,
    slots_direct: Option<File>,
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(-1)
}

fn answer<T>(result: io::Result<T>, show: impl FnOnce(T) -> Vec<u8>) -> Answer {
    result.map(show).map_err(|error| errno(&error))
}

fn nothing(result: io::Result<()>) -> Answer {
    answer(result, |()| Vec::new())
}

fn number(value: u64) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// Bytes that tell whose they are, in their upper half.
fn pattern(thread: usize, byte: u8, length: usize) -> Vec<u8> {
    let owner = (thread as u8 + 1) << 4;
    let lower = |index: usize| byte.wrapping_add((index + index / 251) as u8) & 15;
    (0..length).map(|index| owner | lower(index)).collect()
}

/// One line of the log, as long as every other.
fn record(thread: usize, number: u64) -> Vec<u8> {
    let mut line = format!("{thread:02} {number:08} ").into_bytes();
    line.resize(RECORD_BYTES - 1, b'a' + thread as u8);
    line.push(b'\n');
    line
}

/// What both sides must agree on. Times only where a step has set them.
pub fn facts(metadata: &fs::Metadata) -> String {
    let is_directory = metadata.is_dir();
    let counted = |value: u64| if is_directory { 0 } else { value };
    let changed = match metadata.mtime() {
        set if set < SET_TIMES_END_S => format!("{set}.{}", metadata.mtime_nsec()),
        _ => "lately".to_owned(),
    };
    format!(
        "{:o} {} {} {} {} {changed}",
        metadata.mode(),
        counted(metadata.len()),
        counted(metadata.nlink()),
        metadata.uid(),
        metadata.gid()
    )
}

impl Side {
    pub fn new(root: &Path, behind: &Path, thread: usize, is_mount: bool) -> Self {
        Self {
            root: root.to_owned(),
            behind: behind.to_owned(),
            other: root.to_owned(),
            is_in_turn: false,
            is_mount,
            is_written_back: false,
            thread,
            slots: String::new(),
            handles: Vec::new(),
            log: None,
            slots_open: None,
            slots_direct: None,
        }
    }

    pub fn close_all(&mut self) {
        self.handles.clear();
        self.log = None;
        self.slots_open = None;
        self.slots_direct = None;
    }

    pub fn make(&mut self, step: &Step) -> Answer {
        match step {
            Step::Open { name, flags, mode } => self.open(name, *flags, *mode),
            Step::Close { handle } => {
                drop(self.handles.remove(*handle));
                Ok(Vec::new())
            }
            Step::CloseAll => {
                self.close_all();
                Ok(Vec::new())
            }
            Step::ReadOther {
                thread,
                name,
                by_other_mount,
            } => self.read_other(*thread, name, *by_other_mount),
            Step::Record { number, keep_open } => self.append_record(*number, *keep_open),
            Step::ReadLog => self.own_records(),
            Step::SlotWrite { .. } | Step::SlotRead { .. } | Step::SlotPunch { .. } => {
                answer(self.use_slot(step), |bytes| bytes)
            }
            _ => self.use_handle(step),
        }
    }

    fn use_handle(&self, step: &Step) -> Answer {
        match step {
            Step::Read {
                handle,
                offset,
                length,
            } => {
                let mut bytes = vec![0; *length];
                let read = self.handles[*handle].read_at(&mut bytes, *offset);
                answer(read, |count| bytes[..count].to_vec())
            }
            Step::Write {
                handle,
                offset,
                length,
                byte,
            } => {
                let bytes = pattern(self.thread, *byte, *length);
                let written = self.handles[*handle].write_at(&bytes, *offset);
                answer(written, |count| number(count as u64))
            }
            Step::WriteOn {
                handle,
                length,
                byte,
            } => {
                let bytes = pattern(self.thread, *byte, *length);
                let written = io::Write::write(&mut &self.handles[*handle], &bytes);
                answer(written, |count| number(count as u64))
            }
            Step::SetSize { handle, size } => nothing(self.handles[*handle].set_len(*size)),
            Step::Allocate {
                handle,
                mode,
                offset,
                length,
            } => nothing(allocate(&self.handles[*handle], *mode, *offset, *length)),
            Step::Copy {
                from,
                to,
                offset,
                length,
            } => {
                let (from, to) = (&self.handles[*from], &self.handles[*to]);
                // As programs do: the kernel copies no further than the size it was told last.
                from.metadata().map_err(|error| errno(&error))?;
                answer(copy_range(from, 0, to, *offset, *length), |count| {
                    number(count as u64)
                })
            }
            Step::Map { handle, byte } => self.map(*handle, *byte),
            Step::Sync { handle } if self.is_mount => nothing(self.handles[*handle].sync_all()),
            Step::Sync { .. } => Ok(Vec::new()),
            Step::Stat { handle } => answer(self.handles[*handle].metadata(), |found| {
                facts(&found).into_bytes()
            }),
            _ => nothing(self.change_name(step)),
        }
    }

    fn change_name(&self, step: &Step) -> io::Result<()> {
        let at = |name: &String| self.root.join(name);
        match step {
            Step::Truncate { name, size } => Ok(nix::unistd::truncate(&at(name), *size as i64)?),
            Step::Unlink { name } => fs::remove_file(at(name)),
            Step::Rename { from, to } => fs::rename(at(from), at(to)),
            Step::Link { from, to } => fs::hard_link(at(from), at(to)),
            Step::Symlink { target, name } => symlink(target, at(name)),
            Step::Mkdir { name } => fs::create_dir(at(name)),
            Step::Rmdir { name } => fs::remove_dir(at(name)),
            Step::Chmod { name, mode } => {
                fs::set_permissions(at(name), fs::Permissions::from_mode(*mode))
            }
            Step::SetTimes { name, seconds } => set_times(&at(name), *seconds),
            Step::SetAttribute { name, length, byte } => {
                let value = pattern(self.thread, *byte, *length);
                let flags = rustix::fs::XattrFlags::empty();
                Ok(rustix::fs::setxattr(at(name), ATTRIBUTE, &value, flags)?)
            }
            Step::Foreign { name, byte } => self.change_behind(name, *byte),
            other => panic!("{other:?} is no change of a name"),
        }
    }

    /// Seen by the next open, and shown from then on.
    fn change_behind(&self, name: &str, byte: u8) -> io::Result<()> {
        if self.is_written_back {
            self.settle(name)?;
        }
        let bytes = pattern(self.thread, byte, 3000);
        let file = OpenOptions::new().write(true).open(self.behind.join(name));
        file.and_then(|file| file.write_all_at(&bytes, 500))?;
        File::open(self.root.join(name)).map(drop)
    }

    /// What was written is behind the mount when somebody locks the file.
    fn settle(&self, name: &str) -> io::Result<()> {
        let file = File::open(self.root.join(name))?;
        Ok(flock(&file, FlockOperation::LockShared)?)
    }

    fn open(&mut self, name: &str, flags: i32, mode: u32) -> Answer {
        let flags = match self.is_mount {
            true => flags,
            false => flags & !(libc::O_DIRECT | libc::O_SYNC),
        };
        let access = flags & libc::O_ACCMODE;
        let opened = OpenOptions::new()
            .read(access != libc::O_WRONLY)
            .write(access != libc::O_RDONLY)
            .mode(mode)
            .custom_flags(flags & !libc::O_ACCMODE)
            .open(self.root.join(name));
        let file = opened.map_err(|error| errno(&error))?;
        self.handles.push(file);
        Ok(Vec::new())
    }

    fn map(&self, handle: usize, byte: u8) -> Answer {
        let file = &self.handles[handle];
        let size = file.metadata().map_err(|error| errno(&error))?.len() as usize;
        if size == 0 {
            return Ok(Vec::new());
        }
        let mapping = WritableMapping::new(file, size).map_err(|error| errno(&error))?;
        let at = size / 3;
        let seen = mapping.load(at, (size - at).min(2000));
        mapping.store(at, &pattern(self.thread, byte, seen.len()));
        nothing(mapping.sync())?;
        Ok(seen)
    }

    /// Another thread's file may come, go and change; its bytes are its own, or holes.
    fn read_other(&self, thread: usize, name: &str, by_other_mount: bool) -> Answer {
        if !self.is_mount {
            return Ok(Vec::new());
        }
        let root = if by_other_mount {
            &self.other
        } else {
            &self.root
        };
        let owner = (thread as u8 + 1) << 4;
        match fs::read(root.join(name)) {
            Ok(bytes) => match bytes.iter().find(|b| **b != 0 && **b & 0xf0 != owner) {
                Some(strange) => Ok(vec![*strange]),
                None => Ok(Vec::new()),
            },
            Err(error) => match errno(&error) {
                libc::ENOENT | libc::ELOOP => Ok(Vec::new()),
                // What was deleted by another mount than this is read by cannot be fetched any more.
                libc::ESTALE if by_other_mount != self.works_elsewhere(thread) => Ok(Vec::new()),
                code => Err(code),
            },
        }
    }

    fn works_elsewhere(&self, thread: usize) -> bool {
        self.is_in_turn && !self.thread.abs_diff(thread).is_multiple_of(2)
    }

    fn append_record(&mut self, index: u64, keep_open: bool) -> Answer {
        if self.log.is_none() {
            let opened = OpenOptions::new().append(true).open(self.root.join(LOG));
            self.log = Some(opened.map_err(|error| errno(&error))?);
        }
        let log = self.log.as_ref().expect("it has been opened");
        let line = record(self.thread, index);
        let written = io::Write::write(&mut &*log, &line).map_err(|error| errno(&error))?;
        if !keep_open {
            self.log = None;
        }
        Ok(number(written as u64))
    }

    /// In their order. Each record that is whole by the file's size is somebody's.
    fn own_records(&self) -> Answer {
        let bytes = fs::read(self.root.join(LOG)).map_err(|error| errno(&error))?;
        let own = format!("{:02} ", self.thread);
        let mut found = Vec::new();
        for line in bytes.chunks_exact(RECORD_BYTES) {
            if line.starts_with(own.as_bytes()) {
                found.extend_from_slice(&line[..12]);
            } else if !line[0].is_ascii_digit() || line[RECORD_BYTES - 1] != b'\n' {
                found.extend_from_slice(b"a torn record");
            }
        }
        Ok(found)
    }

    fn use_slot(&mut self, step: &Step) -> io::Result<Vec<u8>> {
        let path = self.root.join(&self.slots);
        let start = self.thread as u64 * SLOT_BYTES;
        match step {
            Step::SlotWrite {
                is_direct,
                offset,
                length,
                byte,
            } => {
                let bytes = pattern(self.thread, *byte, *length);
                let written = self
                    .slot_file(*is_direct)?
                    .write_at(&bytes, start + offset)?;
                Ok(number(written as u64))
            }
            Step::SlotRead {
                way,
                offset,
                length,
            } => {
                let mut bytes = vec![0; *length];
                let at = start + offset;
                match way {
                    Way::Open => self.slot_file(false)?.read_exact_at(&mut bytes, at)?,
                    Way::Direct if self.is_mount => {
                        open_direct(&path)?.read_exact_at(&mut bytes, at)?
                    }
                    Way::Direct | Way::OpenedNow => {
                        File::open(&path)?.read_exact_at(&mut bytes, at)?
                    }
                    Way::Mapped => {
                        let file = File::open(&path)?;
                        let mapping = Mapping::new(&file, at as usize + length)?;
                        bytes = mapping.read(at as usize, *length);
                    }
                }
                Ok(bytes)
            }
            Step::SlotPunch { offset, length } => {
                let mode = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE;
                let file = self.slot_file(false)?;
                allocate(file, mode, start + offset, *length as u64)?;
                Ok(Vec::new())
            }
            other => panic!("{other:?} is no use of a slot"),
        }
    }

    /// Kept open from its first use on.
    fn slot_file(&mut self, is_direct: bool) -> io::Result<&File> {
        let path = self.root.join(&self.slots);
        let (kept, flags) = match is_direct && self.is_mount {
            true => (&mut self.slots_direct, libc::O_DIRECT),
            false => (&mut self.slots_open, 0),
        };
        if kept.is_none() {
            *kept = Some(open_with(&path, flags)?);
        }
        Ok(kept.as_ref().expect("it has been opened"))
    }
}

/// Of what is open nowhere, perhaps.
fn set_times(path: &Path, seconds: i64) -> io::Result<()> {
    let time = rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: 123_456_789,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let flags = rustix::fs::AtFlags::empty();
    Ok(rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags)?)
}
