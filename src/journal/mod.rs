//! The journal: what was written and the backend does not have yet, on stable storage of local disks. It knows nothing of
//! files beyond the records it keeps of them.
//!
//! What always holds: a batch is acknowledged only when it is on stable storage, and all before it; after a crash the
//! batches that are believed are an unbroken row that ends behind the last one acknowledged; what lies between is said
//! to be lost and never passed over; nothing is written over that is needed; after a failed write or sync nothing is
//! acknowledged any more. On several devices all of this holds as long as no more of them are lost than may be; a device
//! is given up, durably on all others, before anything is acknowledged without it.
//!
//! - `identity`: whose journal a directory holds, and which device of it; `members`: which directories make one up
//! - `frame`: headers of frames and segments; `record`: what a batch tells of; `checksum`
//! - `stripe`: how a batch is cut into shards; `erasure`: the code of their parity
//! - `segments`: the files that frames are written to; `device`: one disk and its thread; `devices`: all of them; `epochs`:
//!   who takes part
//! - `witness`: what the cache directories remember of it
//! - `opening`: opening a journal and making a new one; `mending`: batches that lack shards get them again
//! - `append`: the open batch, and what is trimmed; `commit`: who writes it; `turns`: who waits for it; `reading`: data back
//! - `scanning`: what stands in a segment that is found; `found`: in those of a device; `recovery`: what is believed of all;
//!   `error`: why nothing is

use crate::io::buffer::BufferPool;
use crate::io::{Buffer, Io};
use devices::{DeviceFigures, Devices};
use frame::{FRAME_HEADER_BYTES, FrameHeader, Progress};
use hdrhistogram::Histogram;
use parking_lot::{Condvar, Mutex};
use reading::Place;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use turns::Turns;

pub use append::Room;
pub use commit::Synced;
pub use devices::{Batch, DeviceFigures as JournalDevices, Outsider};
pub use error::JournalError;
pub use frame::Sequence;
pub use identity::HEAD_FILE;
pub use members::JournalDirectory;
pub use mending::Mending;
pub use record::{BaseSum, Beginning, Generation, Record};
pub use stripe::{Spread, Stripe};
pub use witness::{Holding, Testimony, WITNESS_FILE, Witness};

mod append;
pub mod checksum;
mod commit;
mod device;
mod devices;
mod epochs;
mod erasure;
mod error;
mod found;
mod frame;
mod identity;
mod members;
mod mending;
mod opening;
mod reading;
mod record;
mod recovery;
mod scanning;
mod segments;
mod stripe;
mod threads;
mod turns;
mod witness;
#[cfg(test)]
mod decoding_tests;
#[cfg(test)]
mod devices_tests;
#[cfg(test)]
mod hanging;
#[cfg(test)]
mod heavy_tests;
#[cfg(test)]
mod parked_tests;
#[cfg(test)]
mod tests;

/// What fsync(2) waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncMode {
    /// The sync that it begins at once.
    Immediate,
    /// A sync that those who are likely to come just now share.
    Batch,
    /// Nothing: all is synced once in an interval.
    Periodic,
    /// Nothing, and nothing is ever synced for it.
    None,
}

/// Values for [`Journal::open`].
#[derive(Clone, Debug)]
pub struct JournalSettings {
    pub mode: SyncMode,
    /// What nobody waits for is written this often, at least.
    pub interval: Duration,
    /// What the journal may take on its disk.
    pub size_bytes: u64,
    /// Of a new journal.
    pub segment_bytes: u64,
    pub batch_bytes: usize,
    pub spread: Spread,
    /// How far the journal has come is noted in the cache directories at once, but no more often than this.
    pub witness_interval: Duration,
    /// A device that takes longer while others are done is given up.
    pub device_timeout: Duration,
    /// Names a new journal: random.
    pub name: [u8; 16],
    /// The key of the backend's root.
    pub backend: Vec<u8>,
    pub backend_name: String,
}

/// A record and where it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Located {
    pub record: Record,
    pub sequence: Sequence,
    /// Where the data of a write begins in the batch.
    pub data_offset: u32,
}

/// A piece of data that the journal has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    pub sequence: Sequence,
    pub data_offset: u32,
    pub length_bytes: u32,
    checksum: u32,
}

/// Why something was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    #[error("the journal is full")]
    Full,
    #[error("the journal has failed: {0}")]
    Failed(Arc<str>),
}

/// Why a piece could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not needed any more: the backend has it.
    #[error("no longer in the journal")]
    Trimmed,
    #[error("reading the journal: {0}")]
    Disk(#[from] io::Error),
    #[error("the journal's disk gave back other bytes than were written")]
    Damaged,
}

/// What `status` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalFigures {
    pub appended_records: u64,
    pub commits: u64,
    pub syncs: u64,
    /// Who asked for something to be on stable storage.
    pub waits: u64,
    /// How long a commit with its sync took: half of them, and all but one in a hundred.
    pub commit_p50: Duration,
    pub commit_p99: Duration,
    pub dirty_batches: u64,
    pub cut_batches: u64,
    pub failure: Option<Arc<str>>,
    pub devices: DeviceFigures,
    /// How many more devices may be lost.
    pub tolerated: u64,
    /// Batches that lack shards which the devices could have.
    pub weak_batches: u64,
    pub mending: Mending,
}

/// See the module. `Devices` is locked by whoever commits, across what it writes; `state` for moments.
pub struct Journal {
    settings: JournalSettings,
    segment_bytes: u64,
    pool: BufferPool,
    devices: Mutex<Devices>,
    state: Mutex<State>,
    /// For those who wait for a commit of what they wrote.
    turns: Turns,
    /// A commit has ended, or something has failed, or is to end.
    turned: Condvar,
    /// The open batch is on its way to the disk, for those who found no room in it; or a commit has ended.
    closed: Condvar,
    /// For whoever gathers those that share a sync.
    joined: Condvar,
    /// For the thread that commits what nobody waits for.
    due: Condvar,
    /// More has become durable, and the thread that notes how far the journal has come waits for that.
    acknowledged: Condvar,
    /// The end, for the same thread.
    ended: Condvar,
    witness: Arc<Witness>,
    /// By which the witness knows it.
    name: [u8; 16],
    /// What found headers said: later batches are known to have been acknowledged by being there.
    acknowledged_before: Sequence,
    mending: Mutex<Mending>,
}

struct State {
    open: OpenBatch,
    is_committing: bool,
    written: Sequence,
    durable: Sequence,
    /// Up to this somebody waits, or waited, on a thread of his own for it to be durable.
    wanted: Sequence,
    /// The last batch that has records.
    told: Sequence,
    /// What the last durable header says.
    on_disk: Progress,
    trims: Trims,
    places: VecDeque<(Sequence, Place)>,
    gathering: commit::Gathering,
    /// To be called once what they want is durable.
    parked: Vec<commit::Parked>,
    /// How many batches of any size are sure to find room.
    room_batches: u64,
    figures: JournalFigures,
    /// Of commits with a sync, in microseconds.
    latency: Histogram<u64>,
    is_ending: bool,
}

/// The batch that records are added to.
struct OpenBatch {
    sequence: Sequence,
    buffer: Option<Buffer>,
    payload_bytes: usize,
}

/// What is not needed any more, as far as a crash would find it so.
#[derive(Default)]
struct Trims {
    effective: Sequence,
    /// What is said to be trimmed, once the records up to the second are durable: they say why.
    waiting: VecDeque<(Sequence, Sequence)>,
}

impl Trims {
    fn ask(&mut self, through: Sequence, told: Sequence) {
        self.waiting.push_back((through, told));
    }

    fn settle(&mut self, durable: Sequence) {
        while let Some((through, told)) = self.waiting.front()
            && *told <= durable
        {
            self.effective = self.effective.max(*through);
            self.waiting.pop_front();
        }
    }
}

impl State {
    fn progress(&mut self) -> Progress {
        self.trims.settle(self.durable);
        // Its segments may be written over before anybody commits again.
        self.forget_trimmed();
        Progress {
            acknowledged: self.durable,
            trimmed: self.trims.effective,
        }
    }

    fn fail(&mut self, error: &io::Error) {
        if self.figures.failure.is_none() {
            tracing::error!("the journal's disk: {error}; nothing more is acknowledged");
            self.figures.failure = Some(error.to_string().into());
        }
    }

    fn check(&self) -> Result<(), AppendError> {
        match &self.figures.failure {
            Some(failure) => Err(AppendError::Failed(failure.clone())),
            None => Ok(()),
        }
    }
}

/// Frames, headers included, are no longer than this.
fn frame_capacity(batch_bytes: usize) -> usize {
    FrameHeader::frame_bytes(batch_bytes) as usize
}

/// Records of this many bytes fit beside nothing else.
fn payload_capacity(buffer: &Buffer) -> usize {
    buffer.len() - FRAME_HEADER_BYTES
}

impl Journal {
    pub fn figures(&self) -> JournalFigures {
        let mending = self.mending();
        let state = self.state.lock();
        let (weak_batches, weakest) = state.weakness();
        let took = |quantile| Duration::from_micros(state.latency.value_at_quantile(quantile));
        JournalFigures {
            commit_p50: took(0.5),
            commit_p99: took(0.99),
            dirty_batches: state.places.len() as u64,
            weak_batches,
            tolerated: weakest,
            mending,
            ..state.figures.clone()
        }
    }
}

/// A journal's directory as its parts take it.
type Directory = Arc<dyn Io>;
