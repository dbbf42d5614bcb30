//! Opening a journal, making a new one, and its end.

use super::frame::Sequence;
use super::identity::{self, Found, Head, Membership};
use super::recovery::{self, Recovered};
use super::segments::{self, FOLDER, FreeSegment, Segments};
use super::{
    Directory, Journal, JournalError, JournalFigures, JournalSettings, Located, OpenBatch, State,
    Trims, frame_capacity,
};
use crate::io::Io;
use crate::io::buffer::BufferPool;
use hdrhistogram::Histogram;
use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::Arc;

/// The open batch, the one being written, and one for whoever comes between.
const BATCHES: usize = 3;

impl Journal {
    /// Opens the journal in a directory, or makes one in an empty directory. What it holds comes back in the order it was
    /// written. Blocks on the disk; starts one thread.
    pub fn open(
        io: Directory,
        settings: JournalSettings,
    ) -> Result<(Arc<Self>, Vec<Located>), JournalError> {
        let head = find_or_make(&*io, &settings)?;
        let mut recovered = recovery::recover(&*io, &head.membership, head.segment_bytes)?;
        let records = std::mem::take(&mut recovered.records);
        provide_segments(&*io, &settings, &head, &mut recovered)?;
        let journal = Arc::new(Self::of(settings, &head, recovered)?);
        let committing = journal.clone();
        std::thread::Builder::new()
            .name("journal-commit".to_owned())
            .spawn(move || committing.run())?;
        Ok((journal, records))
    }

    fn of(settings: JournalSettings, head: &Head, recovered: Recovered) -> io::Result<Self> {
        let last = recovered.last;
        let segments = Segments::new(
            head.membership,
            head.segment_bytes,
            recovered.live,
            recovered.free,
            recovered.next_life,
        );
        let state = State {
            open: OpenBatch {
                sequence: last.next(),
                buffer: None,
                payload_bytes: 0,
            },
            is_committing: false,
            written: last,
            durable: last,
            told: Sequence::default(),
            on_disk: Default::default(),
            trims: Trims {
                effective: recovered.trimmed,
                ..Trims::default()
            },
            places: recovered.places,
            gathering: Default::default(),
            room_batches: segments.room_batches(frame_capacity(settings.batch_bytes) as u64),
            figures: JournalFigures {
                cut_batches: recovered.cut_batches,
                ..JournalFigures::default()
            },
            latency: Histogram::new_with_max(LATENCY_MAX_US, 2).expect("these bounds make sense"),
            is_ending: false,
        };
        Ok(Self {
            pool: BufferPool::new(BATCHES, frame_capacity(settings.batch_bytes), false)?,
            segment_bytes: head.segment_bytes,
            segments: Mutex::new(segments),
            state: Mutex::new(state),
            turned: Condvar::new(),
            joined: Condvar::new(),
            due: Condvar::new(),
            settings,
        })
    }
}

fn find_or_make(io: &dyn Io, settings: &JournalSettings) -> Result<Head, JournalError> {
    let head = match identity::look_at(io)? {
        Found::Journal(head) if head.backend == settings.backend => return Ok(head),
        Found::Journal(head) => {
            return Err(JournalError::OtherBackend {
                backend: head.backend_name,
            });
        }
        Found::Empty => Head {
            membership: Membership::alone(settings.name),
            segment_bytes: settings.segment_bytes,
            backend: settings.backend.clone(),
            backend_name: settings.backend_name.clone(),
        },
    };
    io.create_directory(FOLDER)?;
    io.sync_directory(".")?;
    identity::write(io, &head)?;
    Ok(head)
}

/// As many as the size allows. Where there are more already they stay.
fn provide_segments(
    io: &dyn Io,
    settings: &JournalSettings,
    head: &Head,
    recovered: &mut Recovered,
) -> Result<(), JournalError> {
    let wanted = (settings.size_bytes / head.segment_bytes).max(SEGMENTS_MIN) as usize;
    let missing = wanted.saturating_sub(recovered.live.len() + recovered.free.len()) as u64;
    let available_bytes = io.space()?.available_bytes;
    if missing * head.segment_bytes > available_bytes {
        return Err(JournalError::NoRoom {
            needed_bytes: missing * head.segment_bytes,
            available_bytes,
        });
    }
    let mut numbers = 0..u32::MAX;
    let mut made = false;
    while recovered.live.len() + recovered.free.len() < wanted {
        let taken = &recovered.numbers;
        let number = numbers.find(|number| taken.binary_search(number).is_err());
        let number = number.ok_or(io::Error::from_raw_os_error(libc::ENOSPC))?;
        let segment: FreeSegment = segments::make(io, number, head.segment_bytes)?;
        recovered.free.push(segment);
        made = true;
    }
    if made {
        io.sync_directory(FOLDER)?;
    }
    Ok(())
}

/// A commit that takes longer is counted as this.
const LATENCY_MAX_US: u64 = 60_000_000;

/// One to write to while others wait to be trimmed, and what is kept for the records that trim them.
pub(super) const SEGMENTS_MIN: u64 = 4;
