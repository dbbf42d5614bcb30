//! The threads that bring generations to the backend: when their time has come, or at once when room is short or
//! somebody waits; again, and later each time, where it fails.

use super::WriteBack;
use super::dirty::DirtyFile;
use super::upload::UploadError;
use crate::journal::AppendError;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Each time twice as long, so often.
const RETRY_DOUBLINGS: u32 = 6;

#[derive(Default)]
pub(super) struct Uploader {
    queue: Mutex<Queue>,
    /// Something is to be uploaded sooner than before.
    sooner: Condvar,
    /// A thread has nothing to do.
    idle: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: Row,
    /// What failed: nothing makes it come sooner.
    failed: Row,
    next: u64,
    /// What waits is not to wait.
    hurries: bool,
    /// The journal is short of room.
    is_short: bool,
    running: usize,
    is_ending: bool,
}

impl Uploader {
    pub fn schedule(&self, file: &Arc<DirtyFile>, delay: Duration) {
        self.add(file, delay, |queue| &mut queue.waiting);
    }

    fn add(
        &self,
        file: &Arc<DirtyFile>,
        delay: Duration,
        row: impl FnOnce(&mut Queue) -> &mut Row,
    ) {
        let mut queue = self.queue.lock();
        let place = (Instant::now() + delay, queue.next);
        queue.next += 1;
        row(&mut queue).insert(place, file.clone());
        drop(queue);
        self.sooner.notify_one();
    }

    /// What waits now goes at once; `is_short` of room in the journal: what does not go makes some.
    pub fn hurry(&self, is_short: bool) {
        let mut queue = self.queue.lock();
        queue.hurries = true;
        queue.is_short |= is_short && !queue.failed.is_empty();
        drop(queue);
        self.sooner.notify_all();
    }

    /// The files that are meant go at once; `again`: also if they have just failed.
    pub fn send_at_once(&self, is_meant: impl Fn(&DirtyFile) -> bool, again: bool) {
        let now = Instant::now();
        let mut queue = self.queue.lock();
        let Queue {
            waiting, failed, ..
        } = &mut *queue;
        let mut meant = take_later(waiting, now, &is_meant);
        if again {
            meant.extend(take_later(failed, now, &is_meant));
        }
        waiting.extend(
            meant
                .into_iter()
                .map(|(number, file)| ((now, number), file)),
        );
        drop(queue);
        self.sooner.notify_all();
    }

    /// Threads end with what they are at.
    pub fn end(&self) {
        self.queue.lock().is_ending = true;
        self.sooner.notify_all();
    }

    /// Returns when nothing waits or is on its way but what fails, or at the deadline.
    pub fn drain(&self, deadline: Instant) {
        let mut queue = self.queue.lock();
        while !queue.waiting.is_empty() || queue.running > 0 {
            queue.hurries = true;
            self.sooner.notify_all();
            if self.idle.wait_until(&mut queue, deadline).timed_out() {
                return;
            }
        }
    }

    /// What is to be done next; `None` at the end.
    fn take(&self) -> Option<Task> {
        let mut queue = self.queue.lock();
        loop {
            if queue.is_ending {
                return None;
            }
            if std::mem::take(&mut queue.is_short) {
                return Some(Task::MakeRoom);
            }
            if let Some(file) = queue.due(Instant::now()) {
                queue.running += 1;
                return Some(Task::Upload(file));
            }
            match queue.next_due() {
                Some(due) => drop(self.sooner.wait_until(&mut queue, due)),
                None => self.sooner.wait(&mut queue),
            }
        }
    }

    fn note_done(&self) {
        self.queue.lock().running -= 1;
        self.idle.notify_all();
    }
}

type Row = BTreeMap<(Instant, u64), Arc<DirtyFile>>;

/// Takes out what is meant and not due by now, each with its number.
fn take_later(
    row: &mut Row,
    now: Instant,
    is_meant: impl Fn(&DirtyFile) -> bool,
) -> Vec<(u64, Arc<DirtyFile>)> {
    let later = row.range((now, u64::MAX)..);
    let keys: Vec<_> = later
        .filter(|(_, file)| is_meant(file))
        .map(|(key, _)| *key)
        .collect();
    let taken = keys.into_iter().map(|key| (key.1, row.remove(&key)));
    taken
        .filter_map(|(number, file)| Some((number, file?)))
        .collect()
}

enum Task {
    Upload(Arc<DirtyFile>),
    MakeRoom,
}

impl Queue {
    fn due(&mut self, now: Instant) -> Option<Arc<DirtyFile>> {
        self.hurries &= !self.waiting.is_empty();
        for (row, hurries) in [(&mut self.waiting, self.hurries), (&mut self.failed, false)] {
            if let Some(first) = row.first_entry()
                && (hurries || first.key().0 <= now)
            {
                return Some(first.remove());
            }
        }
        None
    }

    fn next_due(&self) -> Option<Instant> {
        let rows = [&self.waiting, &self.failed];
        let firsts = rows.into_iter().filter_map(|row| row.keys().next());
        firsts.map(|(due, _)| *due).min()
    }
}

impl WriteBack {
    /// What a thread for uploads does until the end.
    pub(super) fn run_uploads(self: &Arc<Self>) {
        while let Some(task) = self.uploader.take() {
            match task {
                Task::MakeRoom => self.make_room(),
                Task::Upload(file) => {
                    if let Err(error) = self.upload(&file) {
                        self.note_failure(&file, &error);
                    }
                    self.uploader.note_done();
                }
            }
        }
    }

    fn note_failure(&self, file: &Arc<DirtyFile>, error: &UploadError) {
        if matches!(error, UploadError::LosingName) {
            return self.uploader.schedule(file, RETRY_FIRST);
        }
        let (path, failures) = {
            let mut state = file.state();
            if !state.is_dirty() {
                // Removed meanwhile.
                return;
            }
            state.failures += 1;
            state.trouble = Some(error.to_string().into());
            if refuses(error) {
                state.refusal = error.to_io().raw_os_error();
            }
            (state.place.path.clone(), state.failures)
        };
        if failures == 1 {
            tracing::warn!(?path, %error, "what was written is not on the backend yet, and is tried again");
        }
        let delay = RETRY_FIRST * (1 << failures.min(RETRY_DOUBLINGS));
        self.uploader.add(file, delay, |queue| &mut queue.failed);
    }
}

/// The backend says no, rather than nothing: whoever writes is to hear of it.
fn refuses(error: &UploadError) -> bool {
    let error = match error {
        UploadError::Backend(error) => error,
        // There will be, when something else has got to the backend.
        UploadError::Journal(AppendError::Full) => return false,
        UploadError::Journal(_) | UploadError::Reading(_) | UploadError::LosingName => return true,
    };
    matches!(
        error.raw_os_error(),
        Some(
            libc::ENOSPC
                | libc::EDQUOT
                | libc::EACCES
                | libc::EPERM
                | libc::EROFS
                | libc::EFBIG
                | libc::EIO
        )
    )
}
