//! Opening a journal, making a new one, and its end.

use super::append::RESERVED_SEGMENTS;
use super::device::{Device, Worker};
use super::devices::{Devices, DevicesParts};
use super::found::{self, FoundDevice};
use super::frame::Sequence;
use super::identity::{self, Head};
use super::members::{Candidate, Gathered, JournalDirectory, gather, needs_witness};
use super::mending::{Sizes, recruit};
use super::recovery::{self, Recovered, Unrecovered};
use super::segments::{self, FOLDER, FileIdentity, Stock};
use super::turns::Turns;
use super::witness::{Holding, Testimony, Witness};
use super::{
    Journal, JournalError, JournalFigures, JournalSettings, Located, OpenBatch, State, Trims,
    frame_capacity,
};
use crate::io::Io;
use crate::io::buffer::BufferPool;
use hdrhistogram::Histogram;
use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::Arc;

/// The open batch, the one being written, and one for whoever comes between; devices that hang keep one each.
const BATCHES: usize = 3;

impl Journal {
    /// Opens the journal in its directories, or makes one in empty directories. What it holds comes back in the order it
    /// was written. Blocks on the disks; starts threads. `witness` remembers what the directories cannot tell by themselves.
    pub fn open(
        directories: Vec<JournalDirectory>,
        witness: Witness,
        settings: JournalSettings,
    ) -> Result<(Arc<Self>, Vec<Located>), JournalError> {
        let names: Vec<String> = directories.iter().map(|d| d.name.clone()).collect();
        let mut gathered = gather(directories, &settings, &witness)?;
        let Begun {
            head,
            files,
            mut recovered,
        } = loop {
            match begin(&gathered, &settings, &witness) {
                Ok(begun) => break begun,
                Err(Unrecovered {
                    device: Some(device),
                    error: error @ (JournalError::Io(_) | JournalError::SegmentsMissing { .. }),
                }) => gathered.lose(device, error)?,
                Err(refused) => return Err(refused.error),
            }
        };
        // The last batches may be here by luck: nobody was told that they are.
        let acknowledged = recovered.progress.acknowledged;
        let begun = (&head, files);
        begin_to_note(&witness, begun, acknowledged, names.join(":"))?;
        let witness = Arc::new(witness);
        let records = std::mem::take(&mut recovered.records);
        let devices = make_devices(&settings, head, &mut recovered, gathered, witness.clone())?;
        let journal = Arc::new(Self::of(settings, devices, recovered, witness)?);
        journal.mend_the_end();
        let (committing, noting) = (journal.clone(), journal.clone());
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        thread("journal-commit").spawn(move || committing.run())?;
        thread("journal-witness").spawn(move || noting.note_acknowledged())?;
        journal.mend_in_background();
        Ok((journal, records))
    }

    fn of(
        settings: JournalSettings,
        mut devices: Devices,
        recovered: Recovered,
        witness: Arc<Witness>,
    ) -> io::Result<Self> {
        let last = recovered.last;
        let state = State {
            open: OpenBatch {
                sequence: last.next(),
                buffer: None,
                payload_bytes: 0,
            },
            is_committing: false,
            written: last,
            durable: last,
            wanted: last,
            told: Sequence::default(),
            on_disk: Default::default(),
            trims: Trims {
                effective: recovered.progress.trimmed,
                ..Trims::default()
            },
            places: recovered.places,
            gathering: Default::default(),
            parked: Vec::new(),
            room_batches: devices.room_batches()?,
            figures: JournalFigures {
                cut_batches: recovered.cut_batches,
                devices: devices.figures(),
                ..JournalFigures::default()
            },
            latency: Histogram::new_with_max(LATENCY_MAX_US, 2).expect("these bounds make sense"),
            is_ending: false,
        };
        let batches = BATCHES + usize::from(settings.spread.parity);
        Ok(Self {
            pool: BufferPool::new(batches, frame_capacity(settings.batch_bytes), false)?,
            segment_bytes: devices.segment_bytes(),
            name: devices.journal(),
            acknowledged_before: recovered.progress.acknowledged,
            devices: Mutex::new(devices),
            state: Mutex::new(state),
            turns: Turns::default(),
            turned: Condvar::new(),
            closed: Condvar::new(),
            joined: Condvar::new(),
            due: Condvar::new(),
            acknowledged: Condvar::new(),
            ended: Condvar::new(),
            witness,
            mending: Mutex::default(),
            settings,
        })
    }
}

/// From now on the journal is known, by this epoch. Where its devices can do without the cache directories they do.
fn begin_to_note(
    witness: &Witness,
    (head, files): (&Head, Vec<(u8, FileIdentity)>),
    acknowledged: Sequence,
    directories: String,
) -> io::Result<()> {
    let noted = witness.begin(Testimony {
        journal: head.membership.journal,
        backend: head.backend.clone(),
        backend_name: head.backend_name.clone(),
        epoch: head.membership.epoch,
        acknowledged,
        holding: Holding::Unknown,
        directories,
        files,
    });
    match noted {
        Err(error) if !needs_witness(head.spread) => {
            tracing::warn!("noting the journal in the cache directory: {error}");
            Ok(())
        }
        outcome => outcome,
    }
}

/// An epoch that is durable on all members, in these files, and what they had.
struct Begun {
    head: Head,
    files: Vec<(u8, FileIdentity)>,
    recovered: Recovered,
}

/// Reads what there is, and begins an epoch that goes on from there, durable on all members. Nothing of what there was is
/// touched before all of it is understood.
fn begin(
    gathered: &Gathered,
    settings: &JournalSettings,
    witness: &Witness,
) -> Result<Begun, Unrecovered> {
    let found: Vec<FoundDevice> = on_members(gathered, |member| {
        if gathered.head.membership.epoch == 0 {
            member.io.create_directory(FOLDER)?;
            member.io.sync_directory(".")?;
        }
        let head = Head {
            device: member.device,
            segments: member.segments,
            ..gathered.head.clone()
        };
        found::look_at(&*member.io, head)
    })?;
    let mut recovered = recovery::recover(&found, gathered.known_acknowledged())?;
    gathered.check_files(witness)?;
    on_members(gathered, |member| {
        let stock = recovered.stocks.entry(member.device).or_default();
        provide_segments(&*member.io, settings, gathered.head.segment_bytes, stock)
    })?;
    let mut head = gathered.head.clone();
    let set = gathered
        .members
        .iter()
        .fold(0, |set, member| set | 1 << member.device);
    head.open_epoch(set, recovered.last, recovered.progress.trimmed);
    let files = on_members(gathered, |member| {
        let stock = recovered.stocks.get(&member.device);
        let head = Head {
            device: member.device,
            segments: segments::in_a_head(stock.map_or(0, Stock::count)),
            ..head.clone()
        };
        identity::write(&*member.io, &head)?;
        Ok((member.device, segments::first_file(&*member.io)?))
    })?;
    Ok(Begun {
        head,
        files,
        recovered,
    })
}

/// One after the other; the error says whose it is.
fn on_members<T>(
    gathered: &Gathered,
    mut work: impl FnMut(&Candidate) -> Result<T, JournalError>,
) -> Result<Vec<T>, Unrecovered> {
    let members = gathered.members.iter();
    members
        .map(|member| {
            work(member).map_err(|error| Unrecovered {
                device: Some(member.device),
                error,
            })
        })
        .collect()
}

fn make_devices(
    settings: &JournalSettings,
    head: Head,
    recovered: &mut Recovered,
    gathered: Gathered,
    witness: Arc<Witness>,
) -> io::Result<Devices> {
    let frame_bytes_max = frame_capacity(settings.batch_bytes) as u64;
    let is_unvouched = gathered.is_unvouched();
    let mut members = Vec::new();
    for Candidate {
        name, io, device, ..
    } in gathered.members
    {
        let stock = recovered.stocks.remove(&device).unwrap_or_default();
        let sizes = Sizes {
            segment_bytes: head.segment_bytes,
            frame_bytes_max,
        };
        members.push(recruit(head.spread, sizes, (name, io, stock), device)?);
    }
    Ok(Devices::new(DevicesParts {
        head,
        members,
        outsiders: gathered.outsiders,
        is_unvouched,
        timeout: settings.device_timeout,
        frame_bytes_max,
        witness,
    }))
}

/// A device alone has nobody to wait for.
pub(super) fn employ(
    devices: u8,
    device: Device,
    number: u8,
    frame_bytes_max: u64,
) -> io::Result<Worker> {
    match devices {
        1 => Ok(Worker::Caller(Box::new(device))),
        _ => Worker::start(device, number, frame_bytes_max),
    }
}

/// As many as the size allows. Where there are more already they stay. Each life begins a segment: one that ends before it
/// has made room must not take the next one's from it, so there is one more then, if the disk has room for it.
pub(super) fn provide_segments(
    io: &dyn Io,
    settings: &JournalSettings,
    segment_bytes: u64,
    stock: &mut Stock,
) -> Result<(), JournalError> {
    let allowed = (settings.size_bytes / segment_bytes).max(SEGMENTS_MIN) as usize;
    let missing = allowed.saturating_sub(stock.count());
    let needed_bytes = missing as u64 * segment_bytes;
    let available_bytes = io.space()?.available_bytes;
    if needed_bytes > available_bytes {
        return Err(JournalError::NoRoom {
            needed_bytes,
            available_bytes,
        });
    }
    let room = (available_bytes / segment_bytes) as usize;
    let helpful = FREE_SEGMENTS_MIN.saturating_sub(stock.free.len());
    let wanted = stock.count() + missing.max(helpful.min(room));
    let mut numbers = 0..u32::MAX;
    let mut made = false;
    while stock.count() < wanted {
        let taken = &stock.numbers;
        let number = numbers.find(|number| taken.binary_search(number).is_err());
        let number = number.ok_or(io::Error::from_raw_os_error(libc::ENOSPC))?;
        stock.free.push(segments::make(io, number, segment_bytes)?);
        made = true;
    }
    if made {
        io.sync_directory(FOLDER)?;
    }
    Ok(())
}

/// One for what this life writes first, and those that only what makes room may begin.
const FREE_SEGMENTS_MIN: usize = 1 + RESERVED_SEGMENTS as usize;

/// A commit that takes longer is counted as this.
const LATENCY_MAX_US: u64 = 60_000_000;

/// One to write to while others wait to be trimmed, and what is kept for the records that trim them.
pub(super) const SEGMENTS_MIN: u64 = 4;
