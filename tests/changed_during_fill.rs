//! Promise 1 under change: a file that is replaced, rewritten or appended to while it is being filled never
//! reads as a mix, neither then nor from the cache afterwards.

mod support;

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::content::{expect_content, version_of};
use support::*;

#[derive(Clone, Copy, Debug)]
enum Change {
    Replace,
    RewriteInPlace,
    Append,
}

struct Round {
    change: Change,
    old: Content,
    new: Content,
    after: Duration,
    read_bytes: usize,
    direct: bool,
}

impl Round {
    fn draw(random: &mut Random, number: u64, bandwidth: u64) -> Self {
        let change = match random.below(3) {
            0 => Change::Replace,
            1 => Change::RewriteInPlace,
            _ => Change::Append,
        };
        let size_bytes = (1 << 20) + random.below(7 << 20);
        let old = Content::new(number, 1, size_bytes);
        let new = match change {
            Change::Replace => Content::new(number, 2, 1 + random.below(8 << 20)),
            Change::RewriteInPlace => Content::new(number, 2, size_bytes),
            Change::Append => Content::new(number, 1, size_bytes + 1 + random.below(1 << 20)),
        };
        let fill_us = size_bytes * 1_000_000 / bandwidth;
        Self {
            change,
            old,
            new,
            // From before the first byte to a little after the last.
            after: Duration::from_micros(random.below(fill_us * 5 / 4)),
            read_bytes: 4096 << random.below(9),
            direct: random.below(3) == 0,
        }
    }

    fn make_change(&self, path: &Path) -> io::Result<()> {
        match self.change {
            Change::Replace => self.new.replace(path),
            // One write call, so that a server would show the change as one, too.
            Change::RewriteInPlace => {
                let bytes = self.new.bytes(0, self.new.size_bytes as usize);
                File::options()
                    .write(true)
                    .open(path)?
                    .write_all_at(&bytes, 0)
            }
            Change::Append => {
                let added = (self.new.size_bytes - self.old.size_bytes) as usize;
                let bytes = self.new.bytes(self.old.size_bytes, added);
                File::options()
                    .write(true)
                    .open(path)?
                    .write_all_at(&bytes, self.old.size_bytes)
            }
        }
    }

    /// Reads the whole file; every result of read(2) is of one version, or the reading ends with an
    /// error that says that the file changed.
    fn read_while_changing(&self, path: &Path) {
        let flags = if self.direct { libc::O_DIRECT } else { 0 };
        let file = match File::options().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) => return assert_allowed(&error, "open"),
        };
        let mut buffer = support::reading::AlignedBuffer::new(self.read_bytes);
        let mut offset = 0;
        loop {
            let count = match file.read_at(buffer.bytes_mut(), offset) {
                Ok(count) => count,
                Err(error) => return assert_allowed(&error, "read"),
            };
            if count == 0 {
                let ends = [self.old.size_bytes, self.new.size_bytes];
                assert!(
                    ends.contains(&offset),
                    "end of file at {offset}, not one of {ends:?}"
                );
                return;
            }
            let bytes = &buffer.bytes()[..count];
            if version_of(&[self.old, self.new], offset, bytes).is_none() {
                let why = self.old.check(offset, bytes);
                panic!("{count} bytes at {offset} are of no one version: {why:?}");
            }
            offset += count as u64;
            // A direct read goes on at the end only from an aligned offset.
            if self.direct && !offset.is_multiple_of(4096) {
                return;
            }
        }
    }
}

fn assert_allowed(error: &io::Error, verb: &str) {
    let errno = error.raw_os_error();
    assert!(
        matches!(errno, Some(libc::ESTALE | libc::EIO)),
        "{verb}: {error}"
    );
}

#[test]
fn a_file_changed_during_its_fill_is_never_mixed() {
    const BANDWIDTH: u64 = 200 << 20;
    let rounds = sample_or_full(60, 1000);
    let scratch = Scratch::new("changed");
    let network = Network {
        latency_us: 500,
        bandwidth_bytes_per_s: Some(BANDWIDTH),
    };
    let backend = FaultBackend::start(
        &scratch,
        BackendOptions {
            network,
            ..Default::default()
        },
    );
    let mount = Mount::start(&scratch, &backend.mountpoint, MountOptions::new(&scratch));
    let mut random = Random::from_environment("changed");
    for number in 0..rounds {
        let round = Round::draw(&mut random, number, BANDWIDTH);
        let name = format!("file{number}");
        let (plain, served) = (backend.plain.join(&name), mount.join(&name));
        println!(
            "round {number}: {:?} of {} bytes after {:?}, reads of {}, O_DIRECT {}",
            round.change, round.old.size_bytes, round.after, round.read_bytes, round.direct
        );
        round.old.create(&plain).unwrap();
        // Old enough to be believed; some rounds find it younger.
        std::thread::sleep(Duration::from_millis(random.below(60)));
        with_time_limit(&scratch, Duration::from_secs(60), move || {
            run(&round, plain, served)
        });
    }
}

fn run(round: &Round, plain: PathBuf, served: PathBuf) {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let changer = scope.spawn(|| {
            std::thread::sleep(round.after.saturating_sub(begin.elapsed()));
            round.make_change(&plain).unwrap();
        });
        round.read_while_changing(&served);
        changer.join().unwrap();
    });
    // Opened after the change: the new version and nothing else, from the backend, then from the cache.
    for _ in 0..2 {
        expect_content(&served, round.new);
    }
    std::fs::remove_file(plain).unwrap();
}

/// The kernel has the first pages of a read(2) and asks for the rest, of which no byte was fetched before the file was
/// rewritten. It asks again for a page that it was refused.
#[test]
fn a_read_that_begins_with_old_pages_has_no_new_ones() {
    const READ: usize = 8 << 20;
    let scratch = Scratch::new("old-pages");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    let mount = Mount::start(&scratch, &backend.mountpoint, MountOptions::new(&scratch));
    let [old, new] = [1, 2].map(|version| Content::new(0, version, 64 << 20));
    let (plain, served) = (backend.plain.join("file"), mount.join("file"));
    old.create(&plain).unwrap();
    std::thread::sleep(Duration::from_millis(60));
    with_time_limit(&scratch, Duration::from_secs(60), move || {
        let file = File::open(&served).unwrap();
        support::reading::advise_random(&file).unwrap();
        let offset = 32 << 20;
        let mut buffer = vec![0; READ];
        file.read_exact_at(&mut buffer[..65_536], offset).unwrap();
        let bytes = new.bytes(0, new.size_bytes as usize);
        let changer = File::options().write(true).open(&plain).unwrap();
        changer.write_all_at(&bytes, 0).unwrap();
        let count = file.read_at(&mut buffer, offset).unwrap();
        let read = version_of(&[old, new], offset, &buffer[..count]);
        assert!(
            read.is_some(),
            "{count} bytes: {:?}",
            old.check(offset, &buffer[..count])
        );
        expect_content(&served, new);
    });
}
