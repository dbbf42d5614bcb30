//! The steps of a run: which there are, and how a thread draws its own.

use crate::support::Random;

const FILES: u64 = 5;
const HANDLES_MAX: usize = 6;
const SIZE_MAX: u64 = 400_000;
/// A thread's part of the files that all write to. It begins and ends amid a page, and four make up a large file.
pub const SLOT_BYTES: u64 = 70_003;

/// How a part of a shared file is read.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    Open,
    Direct,
    OpenedNow,
    Mapped,
}

/// One step, drawn once and made on both sides.
#[derive(Clone, Debug)]
pub enum Step {
    Open {
        name: String,
        flags: i32,
        mode: u32,
    },
    CloseAll,
    Close {
        handle: usize,
    },
    Read {
        handle: usize,
        offset: u64,
        length: usize,
    },
    Write {
        handle: usize,
        offset: u64,
        length: usize,
        byte: u8,
    },
    WriteOn {
        handle: usize,
        length: usize,
        byte: u8,
    },
    SetSize {
        handle: usize,
        size: u64,
    },
    Allocate {
        handle: usize,
        mode: i32,
        offset: u64,
        length: u64,
    },
    Copy {
        from: usize,
        to: usize,
        offset: u64,
        length: usize,
    },
    Map {
        handle: usize,
        byte: u8,
    },
    Sync {
        handle: usize,
    },
    Stat {
        handle: usize,
    },
    Truncate {
        name: String,
        size: u64,
    },
    Unlink {
        name: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Link {
        from: String,
        to: String,
    },
    Symlink {
        target: String,
        name: String,
    },
    Mkdir {
        name: String,
    },
    Rmdir {
        name: String,
    },
    Chmod {
        name: String,
        mode: u32,
    },
    SetTimes {
        name: String,
        seconds: i64,
    },
    SetAttribute {
        name: String,
        length: usize,
        byte: u8,
    },
    /// Somebody else changes the file, on the server.
    Foreign {
        name: String,
        byte: u8,
    },
    /// Whatever there is, of another thread.
    ReadOther {
        thread: usize,
        name: String,
        by_other_mount: bool,
    },
    /// One more record at the end of the log that all append to.
    Record {
        number: u64,
        keep_open: bool,
    },
    /// The records of this thread.
    ReadLog,
    SlotWrite {
        is_direct: bool,
        offset: u64,
        length: usize,
        byte: u8,
    },
    SlotRead {
        way: Way,
        offset: u64,
        length: usize,
    },
    SlotPunch {
        offset: u64,
        length: usize,
    },
}

/// Draws for one thread, which has so many handles open.
pub struct Dice<'a> {
    pub random: &'a mut Random,
    pub thread: usize,
    pub threads: usize,
    pub handles: usize,
    pub records: u64,
}

impl Dice<'_> {
    pub fn step(&mut self) -> Step {
        if self.handles < HANDLES_MAX && self.random.below(4) == 0 {
            let mode = [0o644, 0o600, 0o444, 0o755][self.random.below(4) as usize];
            return Step::Open {
                name: self.name(),
                flags: self.flags(),
                mode,
            };
        }
        match self.random.below(150) {
            0 => return Step::CloseAll,
            1..15 => return self.step_among_others(),
            _ => {}
        }
        if self.handles == 0 || self.random.below(4) == 0 {
            return self.step_on_names();
        }
        self.step_on_a_handle()
    }

    fn step_on_a_handle(&mut self) -> Step {
        let handle = self.handle();
        match self.random.below(12) {
            0 => Step::Close { handle },
            1 | 2 => Step::Read {
                handle,
                offset: self.offset(),
                length: self.length(),
            },
            3 | 4 => Step::Write {
                handle,
                offset: self.offset(),
                length: self.length(),
                byte: self.byte(),
            },
            5 => Step::WriteOn {
                handle,
                length: self.length(),
                byte: self.byte(),
            },
            6 => Step::SetSize {
                handle,
                size: self.offset(),
            },
            7 => Step::Allocate {
                handle,
                mode: [
                    0,
                    libc::FALLOC_FL_KEEP_SIZE,
                    libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE,
                    libc::FALLOC_FL_ZERO_RANGE,
                ][self.random.below(4) as usize],
                offset: self.offset(),
                length: self.length() as u64,
            },
            8 => Step::Copy {
                from: self.handle(),
                to: handle,
                offset: SIZE_MAX + self.offset(),
                length: self.length(),
            },
            9 => Step::Map {
                handle,
                byte: self.byte(),
            },
            10 => Step::Sync { handle },
            _ => Step::Stat { handle },
        }
    }

    fn step_on_names(&mut self) -> Step {
        let name = self.name();
        match self.random.below(13) {
            0 => Step::Truncate {
                name,
                size: self.offset(),
            },
            1 => Step::Unlink { name },
            2 => Step::Rename {
                from: name,
                to: self.name(),
            },
            3 => Step::Link {
                from: name,
                to: self.name(),
            },
            4 => Step::Mkdir {
                name: self.directory(),
            },
            5 => Step::Rmdir {
                name: self.directory(),
            },
            6 => Step::Chmod {
                name,
                mode: 0o600 | self.random.below(0o100) as u32,
            },
            // Not while it is open here: then only a revalidation shows it.
            7 if self.handles == 0 => Step::Foreign {
                name,
                byte: self.byte(),
            },
            8 => Step::Symlink {
                // Of this thread from wherever it is moved to, or of nobody.
                target: format!("../thread{}/file{}", self.thread, self.random.below(FILES)),
                name: self.link(),
            },
            9 => Step::Rename {
                from: self.directory(),
                to: self.directory(),
            },
            10 => Step::SetTimes {
                name,
                seconds: self.random.below(1_000_000) as i64,
            },
            11 => Step::SetAttribute {
                name,
                length: self.random.below(200) as usize,
                byte: self.byte(),
            },
            _ => Step::Truncate {
                name,
                size: self.offset(),
            },
        }
    }

    /// What other threads are in, too. Its outcome is the same in every order.
    fn step_among_others(&mut self) -> Step {
        let offset = self.random.below(SLOT_BYTES);
        let length = self.length().min((SLOT_BYTES - offset) as usize);
        match self.random.below(8) {
            0 => {
                let thread = self.random.below(self.threads as u64) as usize;
                Step::ReadOther {
                    thread,
                    name: self.name_of(thread),
                    by_other_mount: self.random.below(2) == 0,
                }
            }
            1 | 2 => Step::Record {
                number: self.records,
                keep_open: self.random.below(2) == 0,
            },
            3 => Step::ReadLog,
            4 | 5 => Step::SlotWrite {
                is_direct: self.random.below(3) == 0,
                offset,
                length,
                byte: self.byte(),
            },
            6 => Step::SlotRead {
                way: [Way::Open, Way::Direct, Way::OpenedNow, Way::Mapped]
                    [self.random.below(4) as usize],
                offset,
                length,
            },
            _ => Step::SlotPunch { offset, length },
        }
    }

    fn name(&mut self) -> String {
        self.name_of(self.thread)
    }

    /// In the thread's own tree, or its own in the directory that all have names in.
    fn name_of(&mut self, thread: usize) -> String {
        let file = format!("file{}", self.random.below(FILES));
        match self.random.below(10) {
            0 | 1 => format!("thread{thread}/dir/{file}"),
            2 | 3 => format!("shared/thread{thread}-{file}"),
            4 => format!("thread{thread}/link"),
            _ => format!("thread{thread}/{file}"),
        }
    }

    fn link(&mut self) -> String {
        format!("thread{}/link", self.thread)
    }

    fn directory(&mut self) -> String {
        let thread = self.thread;
        match self.random.below(5) {
            0 | 1 => format!("thread{thread}/dir"),
            2 => format!("thread{thread}/dir/inner"),
            3 => format!("shared/thread{thread}-empty"),
            _ => format!("thread{thread}/empty"),
        }
    }

    fn handle(&mut self) -> usize {
        self.random.below(self.handles as u64) as usize
    }

    fn offset(&mut self) -> u64 {
        match self.random.below(3) {
            0 => self.random.below(20) * 4096,
            _ => self.random.below(SIZE_MAX),
        }
    }

    fn length(&mut self) -> usize {
        match self.random.below(3) {
            0 => 4096 * (1 + self.random.below(8) as usize),
            1 => 1 + self.random.below(300) as usize,
            _ => 1 + self.random.below(150_000) as usize,
        }
    }

    fn byte(&mut self) -> u8 {
        self.random.next() as u8
    }

    fn flags(&mut self) -> i32 {
        let mut flags =
            [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR][self.random.below(3) as usize];
        let odds = [
            (libc::O_CREAT, 2),
            (libc::O_EXCL, 8),
            (libc::O_TRUNC, 6),
            (libc::O_APPEND, 4),
            (libc::O_DIRECT, 5),
            (libc::O_SYNC, 12),
            (libc::O_NOFOLLOW, 12),
        ];
        for (flag, one_in) in odds {
            if self.random.below(one_in) == 0 {
                flags |= flag;
            }
        }
        flags
    }
}
