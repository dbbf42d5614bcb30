//! What is believed of a journal that is found: every frame is judged by what stands in it and around it.
//!
//! | frame of a sequence | needed (above trimmed) | at most acknowledged | decision |
//! |---|---|---|---|
//! | whole | no | - | passed over |
//! | whole | yes | - | kept |
//! | whole, in a segment whose successor begins at or before it | - | - | passed over: cut off in an earlier recovery |
//! | missing or damaged | no | - | passed over |
//! | missing or damaged | yes | no | cut: it and all behind it were never acknowledged |
//! | missing or damaged | yes | yes | lost: the journal is not opened |

use super::frame::{Progress, SegmentHeader, SegmentLife, Sequence};
use super::identity::Membership;
use super::record::{Record, decode_batch};
use super::scanning::{Depth, Frame, Scanned, read_header, scan};
use super::segments::{FOLDER, FreeSegment, Place, Segment, number_of, path_of};
use super::{JournalError, Located};
use crate::io::{Io, IoFile, OpenMode};
use std::collections::{BTreeMap, VecDeque};
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
    pub live: VecDeque<Segment>,
    pub free: Vec<FreeSegment>,
    pub next_life: SegmentLife,
    pub last: Sequence,
    pub trimmed: Sequence,
    /// Numbers of files that are there, free ones among them.
    pub numbers: Vec<u32>,
    /// Batches that were written and never acknowledged, and not whole.
    pub cut_batches: u64,
}

/// Reads what is there. Writes nothing; what it has read is durable when it returns.
pub fn recover(
    io: &dyn Io,
    membership: &Membership,
    segment_bytes: u64,
) -> Result<Recovered, JournalError> {
    let mut numbers = Vec::new();
    io.list(FOLDER, &mut |name| {
        numbers.extend(number_of(name));
        true
    })?;
    numbers.sort_unstable();
    let mut found = Vec::new();
    for number in &numbers {
        let file = io.open(&path_of(*number), OpenMode::ReadWrite)?;
        let header = read_header(&*file, membership)?;
        if header.is_some() {
            // After a SIGKILL it may be in memory only, and is to be built upon.
            file.sync_data()?;
        }
        found.push(FoundSegment { file, header });
    }
    let scan_all = |depth| scan_all(&found, membership, segment_bytes, depth);
    match scan_all(Depth::AsFarAsWhole)? {
        Some(scanned) => match judge(scanned, &numbers) {
            // It may be found behind damage.
            Err(JournalError::Lost { .. }) => {
                judge(scan_all(Depth::Everywhere)?.unwrap_or_default(), &numbers)
            }
            judged => judged,
        },
        None => judge(scan_all(Depth::Everywhere)?.unwrap_or_default(), &numbers),
    }
}

/// A file of a segment, and what its header says if that is whole.
struct FoundSegment {
    file: Arc<dyn IoFile>,
    header: Option<SegmentHeader>,
}

/// Segments by their lives, and the rest.
#[derive(Default)]
struct ScannedAll {
    scanned: Vec<Scanned>,
    free: Vec<FreeSegment>,
}

/// `None` where nothing was found at less than full depth.
fn scan_all(
    found: &[FoundSegment],
    membership: &Membership,
    segment_bytes: u64,
    depth: Depth,
) -> Result<Option<ScannedAll>, JournalError> {
    let headers: Vec<SegmentHeader> = found.iter().filter_map(|segment| segment.header).collect();
    let trimmed = headers.iter().map(|header| header.progress.trimmed).max();
    let newest = headers.iter().map(|header| header.life).max();
    let mut all = ScannedAll::default();
    for segment in found {
        let file = segment.file.clone();
        if segment
            .header
            .is_some_and(|header| is_over(&header, &headers, trimmed))
        {
            all.free.push(FreeSegment {
                file,
                is_prewritten: true,
            });
            continue;
        }
        let scan = |depth| scan(&file, segment.header, membership, segment_bytes, depth);
        let is_newest = |life| newest.is_none_or(|newest| life >= newest);
        let scanned = match scan(depth)? {
            // What was begun behind the last whole frame tells a torn end from a loss.
            Some(scanned) if is_newest(scanned.header.life) => scan(Depth::Everywhere)?,
            scanned => scanned,
        };
        match scanned {
            Some(scanned) => all.scanned.push(scanned),
            None => all.free.push(FreeSegment {
                file,
                is_prewritten: false,
            }),
        }
    }
    if all.scanned.is_empty() && depth == Depth::AsFarAsWhole {
        return Ok(None);
    }
    all.scanned.sort_by_key(|segment| segment.header.life);
    drop_what_was_cut(&mut all.scanned);
    Ok(Some(all))
}

/// Whether another segment begins where all before it is trimmed.
fn is_over(header: &SegmentHeader, all: &[SegmentHeader], trimmed: Option<Sequence>) -> bool {
    let later = all.iter().filter(|other| other.life > header.life);
    let next = later.min_by_key(|other| other.life);
    next.zip(trimmed)
        .is_some_and(|(next, trimmed)| next.first <= trimmed.next())
}

/// What an earlier recovery cut off is still there, before a segment that begins at its sequence.
fn drop_what_was_cut(scanned: &mut [Scanned]) {
    let mut successor_first = None;
    for segment in scanned.iter_mut().rev() {
        if let Some(first) = successor_first {
            segment.frames.split_off(&first);
        }
        successor_first = Some(
            successor_first.map_or(segment.header.first, |first: Sequence| {
                first.min(segment.header.first)
            }),
        );
    }
}

fn judge(all: ScannedAll, numbers: &[u32]) -> Result<Recovered, JournalError> {
    let ScannedAll { scanned, mut free } = all;
    let mut progress = Progress::default();
    for segment in &scanned {
        progress.raise(segment.progress);
    }
    let found: BTreeMap<Sequence, usize> = scanned
        .iter()
        .enumerate()
        .flat_map(|(index, segment)| {
            segment
                .frames
                .keys()
                .map(move |sequence| (*sequence, index))
        })
        .collect();
    let last_found = found.keys().next_back().copied().unwrap_or_default();
    let last = last_believed(&found, last_found.max(progress.acknowledged), progress)?;
    let damaged: u64 = scanned.iter().map(|segment| segment.damaged).sum();
    let behind = found.range(last.next()..).count() as u64;
    let next_life = scanned
        .last()
        .map_or(1, |segment| segment.header.life.0 + 1);
    let (mut live, mut places, mut records) = (VecDeque::new(), VecDeque::new(), Vec::new());
    for mut segment in scanned {
        segment
            .frames
            .retain(|sequence, _| *sequence > progress.trimmed && *sequence <= last);
        for (sequence, frame) in &segment.frames {
            records.extend(read_batch(&segment.file, *sequence, frame)?);
            let place = Place {
                file: segment.file.clone(),
                payload_offset: frame.payload_offset,
            };
            places.push_back((*sequence, place));
        }
        match segment.frames.keys().next_back() {
            Some(last) => live.push_back(Segment {
                file: segment.file,
                life: segment.header.life,
                last: *last,
            }),
            None => free.push(FreeSegment {
                file: segment.file,
                is_prewritten: true,
            }),
        }
    }
    Ok(Recovered {
        records,
        places,
        live,
        free,
        next_life: SegmentLife(next_life),
        last,
        trimmed: progress.trimmed,
        numbers: numbers.to_vec(),
        cut_batches: damaged.max(behind),
    })
}

/// The last sequence of an unbroken row.
fn last_believed(
    found: &BTreeMap<Sequence, usize>,
    end: Sequence,
    progress: Progress,
) -> Result<Sequence, JournalError> {
    let mut last = progress.trimmed;
    while last < end {
        let sequence = last.next();
        let state = match found.contains_key(&sequence) {
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

fn read_batch(
    file: &Arc<dyn IoFile>,
    sequence: Sequence,
    frame: &Frame,
) -> Result<Vec<Located>, JournalError> {
    let payload = frame.read(&**file)?;
    let records = decode_batch(&payload).ok_or(JournalError::Strange {
        sequence: sequence.0,
    })?;
    let located = |(record, data_offset): (Record, usize)| Located {
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
