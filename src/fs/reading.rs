//! Read and seek.

use super::FileSystem;
use super::error::FsError;
use super::node::Node;
use super::open_file::Handle;
use super::opening::fetch_failed;
use super::operations::{Done, ReadReply, RequestContext};
use super::order::Touch;
use super::pending::Pending;
use super::writes::FileWrites;
use super::writing::whole_file;
use crate::backend::SeekWhence;
use crate::cache::{Attempt, CachedFile, FetchError, ReadPlan, has_bytes_of};
use crate::events::Invalidation;
use crate::io::Buffer;
use crate::readahead::Read;
use crate::types::{Attributes, ByteRange, HandleId, Version};
use crate::watch::Served;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A read that finds its version gone before any byte of it was given out goes on with the newest, this often.
const VERSION_TRIES: u32 = 3;

impl FileSystem {
    pub(super) fn read_file(
        &self,
        context: RequestContext,
        id: HandleId,
        offset: u64,
        length_bytes: usize,
        done: Done<ReadReply>,
    ) {
        let Some(handle) = self.handles.get(id) else {
            return done(Err(FsError::UnknownNode));
        };
        if let Some(writes) = handle.open.changing() {
            return self.read_changing(context, handle, &writes, offset, length_bytes, done);
        }
        if let Some(writes) = handle.open.writes.load_full() {
            // The kernel may have forgotten the pages of a write that it has sent already: the bytes of before would
            // stay in their place for good.
            let range = ByteRange::at(offset, length_bytes as u64);
            let noted = handle.note_read(range);
            if writes.order.is_changing(&range) {
                noted.inspect(|noted| handle.open.reads_beside.withdraw(*noted));
                return self.read_in_turn(context, handle, &writes, range, done);
            }
        }
        let file = handle.open.file.load_full();
        if file.is_following() {
            return self.read_following(context, handle, offset, length_bytes, done);
        }
        let attempt = self.cache.try_read(&file, offset, length_bytes);
        let is_late = matches!(attempt, Attempt::Missing(_));
        let plan = self.plan(&handle, &file, offset, length_bytes, is_late);
        match attempt {
            Attempt::Done(buffer, length_bytes) => {
                if !handle.gives(&file) {
                    let pending = self.begin(context, done);
                    return self.version_gone(handle, &file, plan, pending, VERSION_TRIES);
                }
                self.count_read(&handle, true, length_bytes);
                self.watch.note(context.unique, Some(Served::Hit));
                self.cache.fetch_ahead(&file, plan.ahead);
                done(Ok(ReadReply {
                    buffer,
                    length_bytes,
                }));
            }
            Attempt::OnDisk(buffer) => {
                self.cache.fetch_ahead(&file, plan.ahead);
                self.read_on(context, handle, file, plan, buffer, true, done);
            }
            Attempt::Missing(buffer) => {
                self.read_on(context, handle, file, plan, buffer, false, done);
            }
        }
    }

    /// After the changes that came before it, of which the first may have to begin yet.
    fn read_in_turn(
        &self,
        context: RequestContext,
        handle: Arc<Handle>,
        writes: &Arc<FileWrites>,
        range: ByteRange,
        done: Done<ReadReply>,
    ) {
        let pending = self.begin(context, done);
        let (offset, length_bytes) = (range.start, range.length_bytes() as usize);
        self.in_order(writes, range, Touch::Reads, &pending, move |fs, pending| {
            handle.note_read(range);
            if let Some(writes) = handle.open.changing() {
                return fs.read_backend(handle, &writes, offset, length_bytes, &pending);
            }
            let file = handle.open.file.load_full();
            let plan = fs.plan(&handle, &file, offset, length_bytes, true);
            let buffer = fs.cache.buffer(length_bytes);
            fs.read_version(handle, file, plan, buffer, false, pending, VERSION_TRIES);
        });
    }

    fn count_read(&self, handle: &Handle, hit: bool, length_bytes: usize) {
        let counter = if hit && !handle.open.filled_for_open {
            &self.metrics.hit_bytes
        } else {
            &self.metrics.miss_bytes
        };
        counter.add(length_bytes as u64);
    }

    fn time_read(&self, hit: bool, took: Duration) {
        match hit {
            true => self.metrics.disk_hits.record(took),
            false => self.metrics.misses.record(took),
        }
    }

    fn plan(
        &self,
        handle: &Handle,
        file: &CachedFile,
        offset: u64,
        length_bytes: usize,
        is_late: bool,
    ) -> ReadPlan {
        let size = file.size_bytes();
        let read = Read {
            range: ByteRange::at(offset, length_bytes as u64)
                .intersection(&ByteRange::new(0, size)),
            file_size_bytes: size,
            is_late,
        };
        let mut reads = handle.open.reads.lock();
        let planned = reads.on_read(read, &self.readahead_limits());
        drop(reads);
        self.metrics
            .bounded_windows
            .add(u64::from(planned.is_bounded));
        ReadPlan {
            offset,
            length_bytes,
            block_bytes: planned.block_bytes,
            ahead: planned.ahead,
            random: planned.random,
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn read_on(
        &self,
        context: RequestContext,
        handle: Arc<Handle>,
        file: Arc<CachedFile>,
        plan: ReadPlan,
        buffer: Buffer,
        hit: bool,
        done: Done<ReadReply>,
    ) {
        let pending = self.begin(context, done);
        if hit {
            self.read_version(handle, file, plan, buffer, hit, pending, VERSION_TRIES);
        } else if self.is_away_and_unsent(&file) {
            self.read_unsent(handle, file, plan, buffer, pending);
        } else {
            self.read_missing(handle, file, plan, buffer, pending);
        }
    }

    pub(super) fn read_missing(
        &self,
        handle: Arc<Handle>,
        file: Arc<CachedFile>,
        plan: ReadPlan,
        buffer: Buffer,
        pending: Arc<Pending<ReadReply>>,
    ) {
        if self.may_wait_for_backend(&pending) {
            self.read_version(handle, file, plan, buffer, false, pending, VERSION_TRIES);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn read_version(
        &self,
        handle: Arc<Handle>,
        file: Arc<CachedFile>,
        plan: ReadPlan,
        buffer: Buffer,
        hit: bool,
        pending: Arc<Pending<ReadReply>>,
        tries: u32,
    ) {
        let (this, reader) = (self.this(), file.clone());
        let asked = Instant::now();
        self.cache.read(
            &file,
            plan,
            buffer,
            Box::new(move |outcome| match outcome {
                Ok(_) if !handle.gives(&reader) => {
                    this.version_gone(handle, &reader, plan, pending, tries);
                }
                Ok((buffer, length_bytes)) => {
                    this.count_read(&handle, hit, length_bytes);
                    this.time_read(hit, asked.elapsed());
                    pending.note(match (hit, reader.is_bypassed()) {
                        (true, _) => Served::Hit,
                        (false, false) => Served::Fill,
                        (false, true) => Served::Backend,
                    });
                    pending.finish(Ok(ReadReply {
                        buffer,
                        length_bytes,
                    }));
                }
                Err(FetchError::Changed) => match handle.open.writes.load_full() {
                    Some(writes) => {
                        this.changed_beside_writers(handle, writes, reader, plan, pending, tries)
                    }
                    None => this.version_gone(handle, &reader, plan, pending, tries),
                },
                Err(error) => {
                    pending.finish(Err(fetch_failed(error)));
                }
            }),
        );
    }

    /// The bytes asked for are gone because a change of ours has begun, if it is not for somebody else's.
    fn changed_beside_writers(
        &self,
        handle: Arc<Handle>,
        writes: Arc<FileWrites>,
        gone: Arc<CachedFile>,
        plan: ReadPlan,
        pending: Arc<Pending<ReadReply>>,
        tries: u32,
    ) {
        let range = ByteRange::at(plan.offset, plan.length_bytes as u64);
        let attached = writes.clone();
        self.in_order(
            &writes,
            range,
            Touch::Reads,
            &pending,
            move |fs, pending| {
                // Until then the cache may have given the file up, and the writers not be told.
                drop(attached.turning.lock());
                let present = handle.open.file.load_full();
                match handle.open.changing() {
                    Some(writes) => {
                        fs.read_backend(handle, &writes, plan.offset, plan.length_bytes, &pending)
                    }
                    None if tries > 0 && !Arc::ptr_eq(&present, &gone) => {
                        let buffer = fs.cache.buffer(plan.length_bytes);
                        fs.read_version(handle, present, plan, buffer, false, pending, tries - 1);
                    }
                    None => fs.version_gone(handle, &gone, plan, pending, tries),
                }
            },
        );
    }

    /// The bytes asked for are gone with their version. The kernel asks for attributes before the next read(2), and
    /// the node moves on then, and not before: a read(2) that has some bytes of the old version already must not get
    /// some of the new one, neither from this request nor from the one that the kernel makes again for a page of it.
    /// So this one fails, unless nobody was given any, or only attributes or names are others: a file loses a name, say, or an upload of
    /// it has ended.
    fn version_gone(
        &self,
        handle: Arc<Handle>,
        gone: &Arc<CachedFile>,
        plan: ReadPlan,
        pending: Arc<Pending<ReadReply>>,
        tries: u32,
    ) {
        let present = handle.open.file.load_full();
        let has_moved_on = !Arc::ptr_eq(&present, gone);
        if handle.open.passthrough.is_some() || tries == 0 && !has_moved_on {
            self.doubt_version(&handle);
            pending.finish(Err(FsError::Stale));
            return;
        }
        if has_moved_on && tries == 0 {
            return self.read_between_changes(handle, plan, pending);
        }
        if has_moved_on {
            let buffer = self.cache.buffer(plan.length_bytes);
            return self.read_version(handle, present, plan, buffer, false, pending, tries - 1);
        }
        self.doubt_version(&handle);
        let refusal = handle.open.refuse(gone);
        let untouched = refusal.is_some() || handle.direct_io;
        let gone = gone.clone();
        self.on_backend(&pending, move |fs, pending| {
            let asked = Instant::now();
            let place = handle.node.place_for(&handle.open.reader);
            let fresh = match fs.backend.attributes(&place) {
                Ok(fresh) => fresh,
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {
                    pending.finish(Err(FsError::Stale));
                    return;
                }
                Err(error) => {
                    pending.finish(Err(FsError::Backend(error)));
                    return;
                }
            };
            let (had, has) = (gone.version(), fresh.version());
            let is_same = had == has
                || is_explained(&handle.node, &had, &fresh)
                || fs.backend.has_become(&handle.node.key, &had, &has);
            if !untouched && !is_same {
                pending.finish(Err(FsError::Stale));
                return;
            }
            fs.take_attributes(&handle.node, fresh, asked);
            drop(refusal);
            let file = handle.open.file.load_full();
            if Arc::ptr_eq(&file, &gone) {
                pending.finish(Err(FsError::Stale));
                return;
            }
            let buffer = fs.cache.buffer(plan.length_bytes);
            fs.read_version(handle, file, plan, buffer, false, pending, tries - 1);
        });
    }

    /// Each version was gone before its bytes were there: past the cache, while no change of ours can make another.
    fn read_between_changes(
        &self,
        handle: Arc<Handle>,
        plan: ReadPlan,
        pending: Arc<Pending<ReadReply>>,
    ) {
        let writes = self.writes.of(&handle.node.key);
        let whole = whole_file();
        let (offset, length_bytes) = (plan.offset, plan.length_bytes);
        self.in_order(
            &writes,
            whole,
            Touch::Reads,
            &pending,
            move |fs, pending| {
                if let Some(writes) = handle.open.changing() {
                    return fs.read_backend(handle, &writes, offset, length_bytes, &pending);
                }
                pending.note(Served::Backend);
                // What a writer that is gone has led to may still be taken over meanwhile.
                let read = (0..VERSION_TRIES).find_map(|_| fs.read_present_version(&handle, &plan));
                pending.finish(read.unwrap_or_else(|| {
                    fs.doubt_version(&handle);
                    Err(FsError::Stale)
                }));
            },
        );
    }

    /// Past the cache; `None` where the file was of another version meanwhile. Blocks on the backend.
    fn read_present_version(
        &self,
        handle: &Handle,
        plan: &ReadPlan,
    ) -> Option<Result<ReadReply, FsError>> {
        let file = handle.open.file.load_full();
        let read = self
            .cache
            .read_unkept(&file, plan.offset, plan.length_bytes);
        match read {
            Ok((buffer, length_bytes)) => handle.gives(&file).then_some(Ok(ReadReply {
                buffer,
                length_bytes,
            })),
            Err(FetchError::Changed) => None,
            Err(error) => Some(Err(fetch_failed(error))),
        }
    }

    /// Whoever asks for attributes next is told those of the backend.
    fn doubt_version(&self, handle: &Handle) {
        handle.node.state.lock().set_validated(None);
        self.invalidations
            .push(Invalidation::Attributes(handle.node.id));
    }

    /// A file with a writer is read from the backend, after the changes before it that concern the same bytes.
    fn read_changing(
        &self,
        context: RequestContext,
        handle: Arc<Handle>,
        writes: &Arc<FileWrites>,
        offset: u64,
        length_bytes: usize,
        done: Done<ReadReply>,
    ) {
        let pending = self.begin(context, done);
        self.read_backend(handle, writes, offset, length_bytes, &pending);
    }

    fn read_backend(
        &self,
        handle: Arc<Handle>,
        writes: &Arc<FileWrites>,
        offset: u64,
        length_bytes: usize,
        pending: &Arc<Pending<ReadReply>>,
    ) {
        let range = ByteRange::at(offset, length_bytes as u64);
        let held = writes.clone();
        self.in_order(writes, range, Touch::Reads, pending, move |fs, pending| {
            handle.note_read(range);
            let mut buffer = fs.cache.buffer(length_bytes);
            let buffer_part = &mut buffer[..length_bytes];
            if let Some(length_bytes) = fs.read_kept(&handle.node, &held, buffer_part, offset) {
                fs.count_read(&handle, true, length_bytes);
                pending.note(Served::Hit);
                pending.finish(Ok(ReadReply {
                    buffer,
                    length_bytes,
                }));
                return;
            }
            let read = fs.read_present(&handle, &held, buffer_part, offset);
            pending.finish(match read {
                Ok(length_bytes) => {
                    fs.metrics.bypass_bytes.add(length_bytes as u64);
                    Ok(ReadReply {
                        buffer,
                        length_bytes,
                    })
                }
                Err(error) => Err(FsError::Backend(error)),
            });
        });
    }

    /// By a descriptor that a program holds where there is one: it may read where the daemon may not, and goes on
    /// when the file has lost its name.
    pub(super) fn read_present(
        &self,
        handle: &Handle,
        writes: &FileWrites,
        buffer: &mut [u8],
        offset: u64,
    ) -> io::Result<usize> {
        if let Some(writer) = writes.readable_writer() {
            return writer.file.read_at(buffer, offset);
        }
        let place = handle.node.place_for(&handle.open.reader);
        let source = writes.source(|| self.backend.open(&place))?;
        source.read_at(buffer, offset)
    }

    /// The kernel reads the object by itself, but for O_DIRECT: the same bytes for both.
    fn read_following(
        &self,
        context: RequestContext,
        handle: Arc<Handle>,
        offset: u64,
        length_bytes: usize,
        done: Done<ReadReply>,
    ) {
        let (this, pending) = (self.this(), self.begin(context, done));
        let refused = pending.clone();
        let submitted = self.local_lane.submit(move || {
            let mut buffer = this.cache.buffer(length_bytes);
            let file = handle.open.file.load_full();
            let read = file.read_following(&mut buffer[..length_bytes], offset);
            pending.note(Served::Hit);
            pending.finish(match read {
                Ok(length_bytes) => Ok(ReadReply {
                    buffer,
                    length_bytes,
                }),
                Err(error) => Err(FsError::Disk(error)),
            });
        });
        if submitted.is_err() {
            refused.finish(Err(FsError::BackendTimeout));
        }
    }

    pub(super) fn seek_file(
        &self,
        context: RequestContext,
        id: HandleId,
        offset: u64,
        whence: i32,
        done: Done<u64>,
    ) {
        let Some(handle) = self.handles.get(id) else {
            return done(Err(FsError::UnknownNode));
        };
        let whence = match whence {
            libc::SEEK_DATA => SeekWhence::Data,
            libc::SEEK_HOLE => SeekWhence::Hole,
            _ => return done(Err(FsError::Invalid("lseek whence"))),
        };
        if let Some(writes) = handle.open.changing() {
            return self.seek_changing(context, handle, writes, offset, whence, done);
        }
        let file = handle.open.file.load_full();
        let size = file.size_bytes();
        if offset >= size {
            return done(Err(FsError::NoSuchOffset));
        }
        let pending = self.begin(context, done);
        // lseek(2): to take a whole file for data, with a hole at its end, is always right.
        if self.or_known(&pending, move |_, pending| {
            pending.finish(Ok(match whence {
                SeekWhence::Data => offset,
                SeekWhence::Hole => size,
            }))
        }) {
            return;
        }
        self.on_backend(&pending, move |fs, pending| {
            let outcome = fs.cache.seek_backend(&file, offset, whence);
            pending.finish(match outcome {
                Err(FetchError::Backend(error)) if error.raw_os_error() == Some(libc::ENXIO) => {
                    Err(FsError::NoSuchOffset)
                }
                other => other.map(|found| found.min(size)).map_err(fetch_failed),
            });
        });
    }

    fn seek_changing(
        &self,
        context: RequestContext,
        handle: Arc<Handle>,
        writes: Arc<FileWrites>,
        offset: u64,
        whence: SeekWhence,
        done: Done<u64>,
    ) {
        let pending = self.begin(context, done);
        self.on_backend(&pending, move |fs, pending| {
            let place = handle.node.place_for(&handle.open.reader);
            let found = match writes.writers().first() {
                Some(writer) => writer.file.seek(offset, whence),
                None => writes
                    .source(|| fs.backend.open(&place))
                    .and_then(|source| source.seek(offset, whence)),
            };
            pending.finish(found.map_err(|error| match error.raw_os_error() {
                Some(libc::ENXIO) => FsError::NoSuchOffset,
                _ => FsError::Backend(error),
            }));
        });
    }
}

/// The version is another one because of attributes or names that are others; its bytes are the same.
fn is_explained(node: &Node, gone: &Version, fresh: &Attributes) -> bool {
    let known = node.attributes(&node.state.lock());
    let shape = |one: &Attributes| (one.link_count, one.permissions, one.uid, one.gid);
    has_bytes_of(gone, &fresh.version()) && shape(&known) != shape(fresh)
}
