//! The mount against a plain directory: the same random operations on both, with the same results, errors and
//! contents after every step; and what is closed is what a second mount of the same backend reads. CACHEFS_SEED repeats a run, CACHEFS_MODEL_STEPS sets its length.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::writing::{WritableMapping, allocate, copy_range};
use support::*;

const LIMIT: Duration = Duration::from_secs(3600);
const FILES: u64 = 5;
const HANDLES_MAX: usize = 6;
const SIZE_MAX: u64 = 700_000;

/// What a step answers: a number or bytes, or its errno.
type Answer = Result<Vec<u8>, i32>;

/// One step, drawn once and made on both sides.
#[derive(Clone, Debug)]
enum Step {
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
    /// Somebody else changes the file, on the server.
    Foreign {
        name: String,
        byte: u8,
    },
}

/// One side: a directory and its open files.
struct Side {
    root: PathBuf,
    /// Where somebody else's changes are made.
    behind: PathBuf,
    handles: Vec<File>,
    takes_direct: bool,
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

/// What both sides must agree on.
fn facts(metadata: &fs::Metadata) -> Vec<u8> {
    let size = if metadata.is_dir() { 0 } else { metadata.len() };
    let links = if metadata.is_dir() {
        0
    } else {
        metadata.nlink()
    };
    format!(
        "{:o} {size} {links} {} {}",
        metadata.mode(),
        metadata.uid(),
        metadata.gid()
    )
    .into_bytes()
}

impl Side {
    fn make(&mut self, step: &Step) -> Answer {
        match step {
            Step::Open { name, flags, mode } => self.open(name, *flags, *mode),
            Step::Close { handle } => {
                drop(self.handles.remove(*handle));
                Ok(Vec::new())
            }
            Step::CloseAll => {
                self.handles.clear();
                Ok(Vec::new())
            }
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
                let written = self.handles[*handle].write_at(&vec![*byte; *length], *offset);
                answer(written, |count| number(count as u64))
            }
            Step::WriteOn {
                handle,
                length,
                byte,
            } => {
                let written = io::Write::write(&mut &self.handles[*handle], &vec![*byte; *length]);
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
            Step::Sync { handle } => nothing(self.handles[*handle].sync_all()),
            Step::Stat { handle } => {
                answer(self.handles[*handle].metadata(), |found| facts(&found))
            }
            _ => self.change_name(step),
        }
    }

    fn change_name(&self, step: &Step) -> Answer {
        let at = |name: &String| self.root.join(name);
        match step {
            Step::Truncate { name, size } => {
                let size = *size as i64;
                nothing(nix::unistd::truncate(&at(name), size).map_err(io::Error::from))
            }
            Step::Unlink { name } => nothing(fs::remove_file(at(name))),
            Step::Rename { from, to } => nothing(fs::rename(at(from), at(to))),
            Step::Link { from, to } => nothing(fs::hard_link(at(from), at(to))),
            Step::Mkdir { name } => nothing(fs::create_dir(at(name))),
            Step::Rmdir { name } => nothing(fs::remove_dir(at(name))),
            Step::Chmod { name, mode } => nothing(fs::set_permissions(
                at(name),
                fs::Permissions::from_mode(*mode),
            )),
            Step::Foreign { name, byte } => {
                let file = OpenOptions::new().write(true).open(self.behind.join(name));
                nothing(file.and_then(|file| file.write_all_at(&[*byte; 3000], 500)))
            }
            other => panic!("{other:?} is no change of a name"),
        }
    }

    fn open(&mut self, name: &str, flags: i32, mode: u32) -> Answer {
        let flags = if self.takes_direct {
            flags
        } else {
            flags & !libc::O_DIRECT
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
        mapping.store(at, &vec![byte; seen.len()]);
        nothing(mapping.sync())?;
        Ok(seen)
    }

    /// Every name with what is seen of it, and the contents of files.
    fn tree(&self) -> Vec<(PathBuf, Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        self.walk(&self.root, &mut found);
        found.sort();
        found
    }

    fn walk(&self, directory: &Path, into: &mut Vec<(PathBuf, Vec<u8>, Vec<u8>)>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            let name = path.strip_prefix(&self.root).unwrap().to_owned();
            into.push((name, facts(&metadata), content));
            if metadata.is_dir() {
                self.walk(&path, into);
            }
        }
    }
}

struct Dice<'a> {
    random: &'a mut Random,
    handles: usize,
}

impl Dice<'_> {
    fn name(&mut self) -> String {
        let file = format!("file{}", self.random.below(FILES));
        match self.random.below(4) {
            0 => format!("dir/{file}"),
            _ => file,
        }
    }

    fn directory(&mut self) -> String {
        ["dir", "empty"][self.random.below(2) as usize].to_owned()
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
        ];
        for (flag, one_in) in odds {
            if self.random.below(one_in) == 0 {
                flags |= flag;
            }
        }
        flags
    }

    fn step(&mut self) -> Step {
        if self.handles < HANDLES_MAX && self.random.below(4) == 0 {
            let mode = [0o644, 0o600, 0o444, 0o755][self.random.below(4) as usize];
            return Step::Open {
                name: self.name(),
                flags: self.flags(),
                mode,
            };
        }
        if self.random.below(150) == 0 {
            return Step::CloseAll;
        }
        if self.handles == 0 || self.random.below(4) == 0 {
            return self.step_on_names();
        }
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
        match self.random.below(9) {
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
            _ => Step::Truncate {
                name,
                size: self.offset(),
            },
        }
    }
}

fn shown(answer: &Answer) -> String {
    match answer {
        Ok(bytes) if bytes.len() > 60 => format!("{} bytes", bytes.len()),
        Ok(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Err(code) => format!("{}", io::Error::from_raw_os_error(*code)),
    }
}

/// Which handles are of one file, and what both sides take it for.
fn tell_handles(seen: &Side, model: &Side) {
    for (index, (here, there)) in seen.handles.iter().zip(&model.handles).enumerate() {
        let (here, there) = (here.metadata().unwrap(), there.metadata().unwrap());
        let flags = nix::fcntl::fcntl(&seen.handles[index], nix::fcntl::FcntlArg::F_GETFL);
        eprintln!(
            "handle {index}: inode {} flags {:o} here {} there {}",
            here.ino(),
            flags.unwrap_or(-1),
            String::from_utf8_lossy(&facts(&here)),
            String::from_utf8_lossy(&facts(&there)),
        );
    }
}

fn compare(round: u64, history: &[String], seen: &Side, model: &Side) {
    let (seen, model) = (seen.tree(), model.tree());
    let names = |tree: &[(PathBuf, Vec<u8>, Vec<u8>)]| {
        tree.iter()
            .map(|(name, facts, _)| {
                format!("{} {}", name.display(), String::from_utf8_lossy(facts))
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&seen), names(&model), "round {round}: {history:#?}");
    for ((name, _, here), (_, _, there)) in seen.iter().zip(&model) {
        let first = here.iter().zip(there).position(|(a, b)| a != b);
        assert!(
            here == there,
            "round {round}: {} differs at {first:?}: {history:#?}",
            name.display()
        );
    }
}

/// A second mount of the backend, with a cache of its own, that believes no names.
fn second_mount(scratch: &Scratch, plain: &Path) -> Mount {
    let cache = scratch.path().join("cache2");
    mount::private_directory(&cache);
    let mut options = MountOptions::new(scratch)
        .with("actimeo=0")
        .with("lookupcache=none");
    options.mountpoint = scratch.directory("mount2");
    options.cache_dirs = vec![cache];
    Mount::start(scratch, plain, options)
}

fn the_mount_does_what_a_directory_does(test: &str, options: &[&str]) {
    let scratch = Scratch::new(test);
    let (plain, reference) = (scratch.directory("plain"), scratch.directory("reference"));
    let mut mount_options = MountOptions::new(&scratch);
    for option in options {
        mount_options = mount_options.with(option);
    }
    let mount = Mount::start(&scratch, &plain, mount_options);
    let second = second_mount(&scratch, &plain);
    let other = Side {
        root: second.path().to_owned(),
        behind: plain.clone(),
        handles: Vec::new(),
        takes_direct: true,
    };
    let mut random = Random::from_environment(test);
    let steps = match std::env::var("CACHEFS_MODEL_STEPS") {
        Ok(text) => text.parse().expect("CACHEFS_MODEL_STEPS is a number"),
        Err(_) => sample_or_full(1500, 100_000),
    };
    let mut seen = Side {
        root: mount.path().to_owned(),
        behind: plain,
        handles: Vec::new(),
        takes_direct: true,
    };
    let mut model = Side {
        root: reference.clone(),
        behind: reference,
        handles: Vec::new(),
        takes_direct: false,
    };
    with_time_limit(&scratch, LIMIT, move || {
        let mut history = Vec::new();
        let mut worked: BTreeMap<String, u64> = BTreeMap::new();
        for round in 1..=steps {
            let handles = model.handles.len();
            let step = Dice {
                random: &mut random,
                handles,
            }
            .step();
            let (here, there) = (seen.make(&step), model.make(&step));
            let told = format!("{step:?} -> {}", shown(&there));
            let kind = told.split_whitespace().next().unwrap_or_default();
            *worked.entry(kind.to_owned()).or_default() += u64::from(there.is_ok());
            history.push(told);
            let last = &history[history.len().saturating_sub(sample_or_full(40, 400))..];
            if here != there {
                tell_handles(&seen, &model);
            }
            assert!(
                here == there,
                "round {round}: {} here: {last:#?}",
                shown(&here)
            );
            if round % 5 == 0 {
                compare(round, last, &seen, &model);
            }
            let has_closed = matches!(step, Step::Close { .. } | Step::CloseAll);
            if has_closed && model.handles.is_empty() {
                compare(round, last, &other, &model);
            }
        }
        println!("steps that worked: {worked:?}");
        assert!(
            steps < 50_000 || worked.values().all(|count| *count > 0),
            "{worked:?}"
        );
    });
}

#[test]
fn random_operations_do_what_they_do_on_a_plain_directory() {
    the_mount_does_what_a_directory_does("model", &[]);
}

#[test]
fn random_operations_do_what_they_do_with_all_that_is_written_kept() {
    the_mount_does_what_a_directory_does("model-kept", &["keep_written=always"]);
}

#[test]
fn random_operations_do_what_they_do_with_nothing_that_is_written_kept() {
    the_mount_does_what_a_directory_does("model-not-kept", &["keep_written=never"]);
}

#[test]
fn random_operations_do_what_they_do_without_passthrough() {
    the_mount_does_what_a_directory_does("model-daemon", &["passthrough=off"]);
}

#[test]
fn random_operations_do_what_they_do_with_passthrough_of_small_files() {
    the_mount_does_what_a_directory_does("model-passthrough", &["small_file_size=1"]);
}
