//! Fill chains whose source, a small FUSE filesystem, keeps every read until it is told to answer.

use super::*;
use crate::io::{FillError, FillSource};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyEntry, Request,
};
use parking_lot::Mutex;
use std::ffi::OsStr;
use std::time::{Instant, UNIX_EPOCH};

const PIECE_BYTES: u64 = 1024 * 1024;
const PIECES: u64 = 12;
const CHAINS: usize = 3;

#[derive(Clone)]
struct Stuck {
    content: Arc<Vec<u8>>,
    /// `None` once reads are answered at once.
    kept: Arc<Mutex<Option<Vec<KeptRead>>>>,
}

type KeptRead = (u64, u32, ReplyData);

impl Stuck {
    fn answer(&self, (offset, length_bytes, reply): KeptRead) {
        let start = (offset as usize).min(self.content.len());
        let end = (start + length_bytes as usize).min(self.content.len());
        reply.data(&self.content[start..end]);
    }

    fn release(&self) {
        let kept = self.kept.lock().take();
        kept.into_iter()
            .flatten()
            .for_each(|read| self.answer(read));
    }

    fn facts(&self, inode: INodeNo) -> FileAttr {
        let root = inode == INodeNo::ROOT;
        FileAttr {
            ino: inode,
            size: self.content.len() as u64,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if root {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }
}

impl Filesystem for Stuck {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "file" {
            reply.entry(&PATIENCE, &self.facts(INodeNo(2)), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&PATIENCE, &self.facts(inode));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length_bytes: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = (offset, length_bytes, reply);
        match &mut *self.kept.lock() {
            Some(kept) => kept.push(read),
            None => self.answer(read),
        }
    }
}

/// Mounts, starts twelve fills on three chains, waits until the backend hangs, then runs `check`.
fn with_hung_chains(
    check: impl Fn(
        &Arc<Engine>,
        &LocalDisk,
        &Stuck,
        Vec<crossbeam_channel::Receiver<Result<u64, FillError>>>,
    ),
) {
    let engine = Engine::start(EngineSettings {
        fill_parallelism: CHAINS,
        ..EngineSettings::default()
    })
    .unwrap();
    if engine.report().engine != "uring" {
        return eprintln!("not tried: {}", engine.report().reason);
    }
    let scratch = Scratch::new();
    let mountpoint = scratch.path().join("backend");
    let cache = scratch.path().join("cache");
    std::fs::create_dir(&mountpoint).unwrap();
    std::fs::create_dir(&cache).unwrap();
    let stuck = Stuck {
        content: Arc::new(pattern((PIECES * PIECE_BYTES) as usize, 41)),
        kept: Arc::new(Mutex::new(Some(Vec::new()))),
    };
    let mounted = fuser::spawn_mount(stuck.clone(), &mountpoint, &fuser::Config::default());
    let session = match mounted {
        Ok(session) => session,
        Err(error) => return eprintln!("not tried: mounting a FUSE filesystem: {error}"),
    };
    let source: Arc<OwnedFd> =
        Arc::new(std::fs::File::open(mountpoint.join("file")).unwrap().into());
    let disk = open_disk(&cache, &engine);
    let file = disk.open("object", OpenMode::CreateNew).unwrap();
    file.set_size(PIECES * PIECE_BYTES).unwrap();
    let answers = (0..PIECES)
        .map(|piece| {
            let (sender, receiver) = crossbeam_channel::unbounded();
            let done = Box::new(move |result| sender.send(result).unwrap());
            let from = FillSource::Descriptor(source.clone());
            file.submit_fill(from, piece * PIECE_BYTES, PIECE_BYTES, done);
            receiver
        })
        .collect();
    drop((file, source));
    let deadline = Instant::now() + PATIENCE;
    while stuck
        .kept
        .lock()
        .as_ref()
        .is_some_and(|kept| kept.len() < CHAINS)
    {
        assert!(Instant::now() < deadline, "the chains reach the backend");
        std::thread::sleep(Duration::from_millis(5));
    }
    check(&engine, &disk, &stuck, answers);
    stuck.release();
    drop((disk, engine));
    session.umount_and_join().unwrap();
}

#[test]
fn hung_chains_leave_reads_and_plain_fills_alone_and_end_when_the_backend_answers() {
    with_hung_chains(|engine, disk, stuck, answers| {
        let content = pattern(200_000, 42);
        let good = create(disk, "good", &content);
        for _ in 0..200 {
            let (sender, receiver) = crossbeam_channel::bounded(1);
            let done =
                move |result: std::io::Result<usize>, _| sender.send(result.unwrap()).unwrap();
            good.submit_read(
                engine.take_buffer(65_536),
                65_536,
                65_536,
                true,
                Box::new(done),
            );
            assert_eq!(
                receiver.recv_timeout(Duration::from_secs(5)).unwrap(),
                65_536
            );
        }
        assert!(
            answers.iter().all(|answer| answer.is_empty()),
            "nothing was made up"
        );
        stuck.release();
        for answer in answers {
            assert_eq!(answer.recv_timeout(PATIENCE).unwrap().unwrap(), PIECE_BYTES);
        }
        let object = disk.open("object", OpenMode::Read).unwrap();
        let mut bytes = vec![0; stuck.content.len()];
        object.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == *stuck.content);
    });
}

#[test]
fn shutdown_does_not_wait_for_hung_chains() {
    with_hung_chains(|engine, _, stuck, answers| {
        let before = Instant::now();
        engine.shutdown();
        assert!(before.elapsed() < Duration::from_secs(1));
        let cancelled = answers.iter().filter(|answer| !answer.is_empty()).count();
        assert_eq!(
            cancelled,
            PIECES as usize - CHAINS,
            "those not begun are cancelled at once"
        );
        stuck.release();
        for answer in answers {
            match answer
                .recv_timeout(PATIENCE)
                .expect("each is answered in the end")
            {
                Ok(copied) => assert_eq!(copied, PIECE_BYTES),
                Err(FillError::Destination(error)) => {
                    assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
                }
                Err(other) => panic!("{other}"),
            }
        }
    });
}
