//! Whether what the backend has is what we left there, or somebody else was there.

use super::WriteBack;
use super::dirty::{DirtyFile, Frozen};
use super::layers::Layer;
use super::sending::runs;
use super::upload::{UploadError, is_refusal};
use crate::backend::writing::WritableFile;
use crate::cache::has_bytes_of;
use crate::journal::BaseSum;
use crate::journal::checksum::crc64;
use crate::types::{Attributes, ByteRange, Version};
use std::collections::HashMap;
use std::io;

/// What is compared as a whole: an upload that was cut off may have written the one piece and not the next.
const PIECE_BYTES: u64 = 4096;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Ours,
    Foreign,
}

impl WriteBack {
    pub(super) fn judge(
        &self,
        file: &DirtyFile,
        frozen: &Frozen,
        below: &dyn WritableFile,
        present: &Attributes,
    ) -> Result<Verdict, UploadError> {
        let (expected, is_nameless) = {
            let state = file.state();
            (state.expected(&frozen.layer), state.is_nameless)
        };
        // One without a name nobody else gets at.
        if is_nameless || expected == Some(present.version()) {
            return Ok(Verdict::Ours);
        }
        let (from, to) = (expected.as_ref(), present.version());
        if let Some(from) = from
            && has_bytes_of(from, &to)
            && self.is_explained(file, from, present)?
        {
            return Ok(Verdict::Ours);
        }
        let touched = frozen.layer.touched.zip(from);
        if touched.is_some_and(|(touch, from)| touch.leads(from, &to)) {
            return Ok(Verdict::Ours);
        }
        let foreign = |why: &str| {
            let path = &file.state().place.path;
            tracing::info!(?path, ?expected, present = ?present.version(), why, "changed since");
            Ok(Verdict::Foreign)
        };
        let (Some(sums), Some(expected)) = (&frozen.intent, expected) else {
            return foreign("no upload was under way");
        };
        // An upload that did not come to its end.
        let layer = &frozen.layer;
        let sizes =
            layer.floor.min(expected.size_bytes)..=layer.size_bytes.max(expected.size_bytes);
        if expected.inode != present.inode || !sizes.contains(&present.size_bytes) {
            return foreign("no upload leads there");
        }
        let sums: HashMap<u64, &BaseSum> = sums.iter().map(|sum| (sum.offset, sum)).collect();
        for run in runs(layer) {
            let ours = self.read_run(layer, run)?;
            let theirs = self.read_below(file, below, run)?;
            if !run_is_ours(layer, run, &ours, &theirs, &sums) {
                return foreign(&format!("there are other bytes in {run:?}"));
            }
        }
        Ok(Verdict::Ours)
    }

    /// Whether no more than attributes have moved. Whoever writes may set the modification time back, and only the change
    /// time tells then; what else moves that can be seen: mode, owner, links and the name. What they were nobody knows
    /// after a restart, and the modification time is believed.
    fn is_explained(
        &self,
        file: &DirtyFile,
        from: &Version,
        present: &Attributes,
    ) -> io::Result<bool> {
        let (base, place) = {
            let state = file.state();
            (state.base, state.place.clone())
        };
        let Some(base) = base.filter(|base| base.version() == *from) else {
            return Ok(true);
        };
        let shape = |one: &Attributes| (one.permissions, one.uid, one.gid, one.link_count);
        if shape(&base) != shape(present) {
            return Ok(true);
        }
        Ok(!self.has_its_name(&place)?)
    }

    /// Sums of what the backend has in the pieces that a layer writes over. What cannot be read has none.
    pub(super) fn sums(
        &self,
        file: &DirtyFile,
        layer: &Layer,
        below: &dyn WritableFile,
        present: &Attributes,
    ) -> Result<Vec<BaseSum>, UploadError> {
        let seen = ByteRange::new(0, layer.floor.min(present.size_bytes));
        let mut sums = Vec::new();
        for run in runs(layer) {
            let run = run.intersection(&seen);
            if run.is_empty() {
                continue;
            }
            let theirs = match self.read_below(file, below, run) {
                Err(error) if is_refusal(&error) => continue,
                read => read?,
            };
            for piece in pieces(run) {
                let bytes = cut(&theirs, run, piece);
                sums.push(BaseSum {
                    offset: piece.start,
                    length_bytes: bytes.len() as u32,
                    checksum: crc64(bytes),
                });
            }
        }
        Ok(sums)
    }

    /// Short where the backend's file has ended.
    fn read_below(
        &self,
        file: &DirtyFile,
        below: &dyn WritableFile,
        range: ByteRange,
    ) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; range.length_bytes() as usize];
        let read = match below.is_readable() {
            true => below.read_at(&mut bytes, range.start)?,
            false => {
                let place = file.state().place.clone();
                self.inner.open(&place)?.read_at(&mut bytes, range.start)?
            }
        };
        bytes.truncate(read);
        Ok(bytes)
    }
}

fn run_is_ours(
    layer: &Layer,
    run: ByteRange,
    ours: &[u8],
    theirs: &[u8],
    sums: &HashMap<u64, &BaseSum>,
) -> bool {
    pieces(run).into_iter().all(|piece| {
        let (ours, theirs) = (cut(ours, run, piece), cut(theirs, run, piece));
        // Short where the backend's file has ended: more of it would have come.
        let is_ours = ours.starts_with(theirs);
        let is_base = sums.get(&piece.start).is_some_and(|sum| {
            sum.length_bytes as usize == theirs.len() && sum.checksum == crc64(theirs)
        });
        // Behind the lowest size there is nothing yet, or zeros.
        let is_empty = piece.end > layer.floor && theirs.iter().all(|byte| *byte == 0);
        is_ours || is_base || is_empty
    })
}

/// The whole pieces of a range, and what is left at its ends.
fn pieces(range: ByteRange) -> Vec<ByteRange> {
    let mut pieces = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let end = (at / PIECE_BYTES + 1) * PIECE_BYTES;
        pieces.push(ByteRange::new(at, end.min(range.end)));
        at = end;
    }
    pieces
}

/// The bytes of a piece among those of a range that may be short.
fn cut(bytes: &[u8], range: ByteRange, piece: ByteRange) -> &[u8] {
    let at = |offset: u64| ((offset - range.start) as usize).min(bytes.len());
    &bytes[at(piece.start)..at(piece.end)]
}
