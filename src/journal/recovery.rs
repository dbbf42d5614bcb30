//! What is believed of a journal that is found: every batch is judged by what its devices have of it, and around it.
//! Whole is a batch of which there are as many sound shards, each on its own device, as it has data shards.
//!
//! | batch of a sequence | needed (above trimmed) | at most acknowledged | decision |
//! |---|---|---|---|
//! | any | no | - | passed over |
//! | whole | yes | - | kept |
//! | not whole | yes | no | cut: it and all behind it were never acknowledged |
//! | not whole | yes | yes | lost: the journal is not opened |
//!
//! | shard | counts |
//! |---|---|
//! | sound, where it belongs | yes |
//! | header or payload damaged, or cut short | no |
//! | of another device | no |
//! | written before an epoch that had cut its batch off | no |
//! | of another batch that had the same number | with those of its own batch only |

use super::found::{FoundDevice, ScannedDevice};
use super::frame::{Progress, Sequence};
use super::reading::Place;
use super::record::decode_batch;
use super::scanning::{Depth, Frame};
use super::segments::{ShardPlace, Stock};
use super::{JournalError, Located, ReadError};
use crate::io::IoFile;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What one sequence number is found to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameState {
    Whole,
    MissingOrDamaged,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    PassOver,
    Keep,
    Cut,
    Lost,
}

pub fn decide(state: FrameState, sequence: Sequence, progress: Progress) -> Decision {
    let is_needed = sequence > progress.trimmed;
    let is_acknowledged = sequence <= progress.acknowledged;
    match (state, is_needed, is_acknowledged) {
        (_, false, _) => Decision::PassOver,
        (FrameState::Whole, true, _) => Decision::Keep,
        (FrameState::MissingOrDamaged, true, false) => Decision::Cut,
        (FrameState::MissingOrDamaged, true, true) => Decision::Lost,
    }
}

/// What a journal holds that is needed.
pub struct Recovered {
    /// In the order they were written.
    pub records: Vec<Located>,
    /// Where the batches lie, from the first that is needed on.
    pub places: VecDeque<(Sequence, Place)>,
    /// What each device has.
    pub stocks: BTreeMap<u8, Stock>,
    pub last: Sequence,
    pub progress: Progress,
    /// Batches that were written and never acknowledged, and not whole.
    pub cut_batches: u64,
}

/// Judges what the devices have together, of which all up to `known` is known to have been acknowledged. A device that
/// cannot be read is the error beside it.
pub fn recover(devices: &[FoundDevice], known: Sequence) -> Result<Recovered, Unrecovered> {
    let judge = |devices, depth| judge(devices, depth, known);
    match judge(devices, Depth::AsFarAsWhole) {
        // It may be found behind damage.
        Err(Unrecovered {
            device: None,
            error: JournalError::Lost { .. },
        }) => judge(devices, Depth::Everywhere),
        Ok(recovered) if recovered.is_weak(devices) => judge(devices, Depth::Everywhere),
        judged => judged,
    }
}

/// Why nothing is believed, and which device it was, where it was one.
pub struct Unrecovered {
    pub device: Option<u8>,
    pub error: JournalError,
}

impl From<JournalError> for Unrecovered {
    fn from(error: JournalError) -> Self {
        let device = None;
        Self { device, error }
    }
}

impl Recovered {
    /// Whether a batch has fewer shards than the devices could have.
    fn is_weak(&self, devices: &[FoundDevice]) -> bool {
        let data = devices.first().map_or(0, |device| device.head.spread.data);
        let tolerated = devices.len() as i64 - i64::from(data);
        self.places
            .iter()
            .any(|(_, place)| place.strength() < tolerated)
    }
}

fn judge(devices: &[FoundDevice], depth: Depth, known: Sequence) -> Result<Recovered, Unrecovered> {
    let mut progress = Progress {
        acknowledged: known,
        ..Progress::default()
    };
    let mut all = Vec::new();
    for device in devices {
        let scanned = device.scan(depth)?;
        for segment in &scanned.scanned {
            progress.raise(segment.progress);
        }
        all.push((device, scanned));
    }
    let (mut found, begun) = collect(&all);
    let whole: BTreeSet<Sequence> = found.keys().copied().collect();
    let last_found = whole.last().copied().unwrap_or_default();
    let last = last_believed(&whole, last_found.max(progress.acknowledged), progress)?;
    let cut_batches = begun
        .into_iter()
        .filter(|sequence| *sequence > last)
        .count() as u64;
    found.retain(|sequence, _| *sequence > progress.trimmed && *sequence <= last);
    let mut records = Vec::new();
    for (sequence, place) in &found {
        records.extend(read_batch(*sequence, place)?);
    }
    let stocks = all.into_iter().map(|(device, scanned)| {
        let stock = device.stock(scanned, last, progress.trimmed);
        (device.head.device, stock)
    });
    Ok(Recovered {
        records,
        places: found.into_iter().collect(),
        stocks: stocks.collect(),
        last,
        progress,
        cut_batches,
    })
}

/// The whole batches, each as the stripe of which most is there, and the numbers of all that were begun.
fn collect(
    all: &[(&FoundDevice, ScannedDevice)],
) -> (BTreeMap<Sequence, Place>, BTreeSet<Sequence>) {
    let mut stripes: BTreeMap<Sequence, Vec<(u64, Place)>> = BTreeMap::new();
    let mut begun = BTreeSet::new();
    for (device, scanned) in all {
        for segment in &scanned.scanned {
            begun.extend(segment.frames.keys().chain(&segment.damaged));
            for (sequence, frame) in &segment.frames {
                let of_sequence = stripes.entry(*sequence).or_default();
                add_shard(of_sequence, frame, device.head.device, &segment.file);
            }
        }
    }
    let best = |of_sequence: Vec<(u64, Place)>| {
        let whole = of_sequence
            .into_iter()
            .filter(|(_, place)| place.strength() >= 0);
        whole.max_by_key(|(epoch, place)| (place.strength(), *epoch))
    };
    let whole = stripes
        .into_iter()
        .filter_map(|(sequence, of_sequence)| Some((sequence, best(of_sequence)?.1)));
    (whole.collect(), begun)
}

/// A later copy of a device's shard goes before an earlier one.
fn add_shard(stripes: &mut Vec<(u64, Place)>, frame: &Frame, device: u8, file: &Arc<dyn IoFile>) {
    let header = &frame.header;
    let shard = ShardPlace {
        device,
        index: header.index,
        file: file.clone(),
        payload_offset: frame.payload_offset,
        checksum: header.payload_checksum,
    };
    let epoch = header.membership.epoch;
    let known = stripes
        .iter_mut()
        .find(|(_, place)| place.stripe == header.stripe);
    match known {
        Some((newest, place)) => {
            *newest = epoch.max(*newest);
            place.shards.retain(|other| other.device != device);
            place.shards.push(shard);
        }
        None => stripes.push((
            epoch,
            Place {
                stripe: header.stripe,
                shards: vec![shard],
            },
        )),
    }
}

/// The last sequence of an unbroken row.
fn last_believed(
    found: &BTreeSet<Sequence>,
    end: Sequence,
    progress: Progress,
) -> Result<Sequence, JournalError> {
    let mut last = progress.trimmed;
    while last < end {
        let sequence = last.next();
        let state = match found.contains(&sequence) {
            true => FrameState::Whole,
            false => FrameState::MissingOrDamaged,
        };
        match decide(state, sequence, progress) {
            Decision::Keep | Decision::PassOver => last = sequence,
            Decision::Cut => break,
            Decision::Lost => {
                return Err(JournalError::Lost {
                    first: sequence.0,
                    acknowledged: progress.acknowledged.0,
                });
            }
        }
    }
    Ok(last)
}

fn read_batch(sequence: Sequence, place: &Place) -> Result<Vec<Located>, JournalError> {
    let payload = place.read_batch().map_err(|error| match error {
        ReadError::Disk(error) => JournalError::Io(error),
        _ => JournalError::Io(std::io::Error::other(error)),
    })?;
    let records = decode_batch(&payload).ok_or(JournalError::Strange {
        sequence: sequence.0,
    })?;
    let located = |(record, data_offset): (_, usize)| Located {
        record,
        sequence,
        data_offset: data_offset as u32,
    };
    Ok(records.into_iter().map(located).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_decided_as_it_says() {
        let progress = Progress {
            acknowledged: Sequence(20),
            trimmed: Sequence(10),
        };
        let rows = [
            (FrameState::Whole, 10, Decision::PassOver),
            (FrameState::Whole, 11, Decision::Keep),
            (FrameState::Whole, 20, Decision::Keep),
            (FrameState::Whole, 21, Decision::Keep),
            (FrameState::MissingOrDamaged, 10, Decision::PassOver),
            (FrameState::MissingOrDamaged, 11, Decision::Lost),
            (FrameState::MissingOrDamaged, 20, Decision::Lost),
            (FrameState::MissingOrDamaged, 21, Decision::Cut),
        ];
        for (state, sequence, decision) in rows {
            let decided = decide(state, Sequence(sequence), progress);
            assert_eq!(decided, decision, "{state:?} {sequence}");
        }
    }
}
