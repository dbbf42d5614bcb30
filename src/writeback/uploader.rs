//! The threads that bring generations to the backend: when their time has come, or at once when room is short or
//! somebody waits; again, and later each time, where it fails.

use super::WriteBack;
use super::dirty::DirtyFile;
use super::upload::UploadError;
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
    waiting: BTreeMap<(Instant, u64), Arc<DirtyFile>>,
    /// What failed: nothing makes it come sooner.
    failed: BTreeMap<(Instant, u64), Arc<DirtyFile>>,
    next: u64,
    /// What waits is not to wait.
    hurries: bool,
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
        row: impl FnOnce(&mut Queue) -> &mut BTreeMap<(Instant, u64), Arc<DirtyFile>>,
    ) {
        let mut queue = self.queue.lock();
        let place = (Instant::now() + delay, queue.next);
        queue.next += 1;
        row(&mut queue).insert(place, file.clone());
        drop(queue);
        self.sooner.notify_one();
    }

    /// What waits now goes at once.
    pub fn hurry(&self) {
        self.queue.lock().hurries = true;
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

    /// The next file to upload; `None` at the end.
    fn take(&self) -> Option<Arc<DirtyFile>> {
        let mut queue = self.queue.lock();
        loop {
            if queue.is_ending {
                return None;
            }
            let now = Instant::now();
            if let Some(file) = queue.due(now) {
                queue.running += 1;
                return Some(file);
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
        while let Some(file) = self.uploader.take() {
            if let Err(error) = self.upload(&file) {
                self.note_failure(&file, &error);
            }
            self.uploader.note_done();
        }
    }

    fn note_failure(&self, file: &Arc<DirtyFile>, error: &UploadError) {
        let (path, failures) = {
            let mut state = file.state();
            if !state.is_dirty() {
                // Removed meanwhile.
                return;
            }
            state.failures += 1;
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
    let UploadError::Backend(error) = error else {
        return true;
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
