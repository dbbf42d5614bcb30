//! What an upload reads from the journal and writes to the backend: the disk, the backend and this machine work side by
//! side.

use super::WriteBack;
use super::dirty::DirtyFile;
use super::layers::Layer;
use super::upload::UploadError;
use crate::backend::writing::{Durability, WritableFile};
use crate::journal::ReadError;
use crate::types::{Attributes, ByteRange};
use std::io;
use std::time::Instant;

/// The backend is written to in so much at a time.
pub(super) const CHUNK_BYTES: u64 = 1 << 20;
/// After so much it is begun to be sent: else it would all be sent by the sync that ends an upload, while nothing is read.
const BEGUN_BYTES: u64 = 4 * CHUNK_BYTES;
/// Less is read while it is waited for.
const EXPECTED_BYTES_MIN: u64 = CHUNK_BYTES / 4;

/// What was written and is not begun to be sent.
#[derive(Default)]
struct Unsent {
    range: Option<ByteRange>,
    bytes: u64,
}

impl Unsent {
    /// One more was written. What is to be begun to be sent now.
    fn add(&mut self, run: ByteRange) -> Option<ByteRange> {
        let whole = self.range.map_or(run, |range| range.covering(&run));
        self.bytes += run.length_bytes();
        if self.bytes < BEGUN_BYTES {
            self.range = Some(whole);
            return None;
        }
        *self = Self::default();
        Some(whole)
    }
}

impl WriteBack {
    pub(super) fn send(
        &self,
        file: &DirtyFile,
        layer: &Layer,
        below: &dyn WritableFile,
        present: &Attributes,
        is_paced: bool,
    ) -> Result<(), UploadError> {
        let mut size_bytes = present.size_bytes;
        if layer.floor < size_bytes {
            below.set_size(layer.floor)?;
            size_bytes = layer.floor;
        }
        let runs = runs(layer);
        let mut unsent = Unsent::default();
        for (number, run) in runs.iter().enumerate() {
            if is_paced {
                self.keep_rate(run.length_bytes());
            }
            if let Some(next) = runs.get(number + 1) {
                self.expect_run(layer, *next);
            }
            let data = self.read_run(layer, *run)?;
            write_all(below, &data, run.start)?;
            if let Some(range) = unsent.add(*run) {
                below.begin_sync(range)?;
            }
            self.sent_bytes.add(run.length_bytes());
            size_bytes = size_bytes.max(run.end);
        }
        if layer.size_bytes != size_bytes {
            below.set_size(layer.size_bytes)?;
        }
        self.set_time(file, layer, below);
        Ok(below.sync(false)?)
    }

    fn keep_rate(&self, bytes: u64) {
        let wait = self.rate.spend(bytes, Instant::now());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
    }

    /// It is read next.
    fn expect_run(&self, layer: &Layer, run: ByteRange) {
        if run.length_bytes() >= EXPECTED_BYTES_MIN {
            for (_, part) in layer.extents.within(run) {
                self.journal.expect(&part.piece);
            }
        }
    }

    pub(super) fn read_run(&self, layer: &Layer, run: ByteRange) -> Result<Vec<u8>, ReadError> {
        let mut data = vec![0; run.length_bytes() as usize];
        for (range, part) in layer.extents.within(run) {
            let start = (range.start - run.start) as usize;
            let end = (range.end - run.start) as usize;
            self.journal
                .read(&part.piece, part.skip, &mut data[start..end])?;
        }
        Ok(data)
    }

    /// The time that programs saw: what was made of a file after it was written stays younger than it. Some servers
    /// refuse it; then it is the time of the upload.
    fn set_time(&self, file: &DirtyFile, layer: &Layer, below: &dyn WritableFile) {
        let opener = file.state().opener.clone();
        let set = |who| below.set_modify_time(layer.stamp, who);
        if let Err(error) = set(&opener).or_else(|_| set(&self.own)) {
            let path = &file.state().place.path;
            tracing::debug!(?path, %error, "the time of the last change could not be set");
        }
    }
}

/// Ranges to be written, in order: what lies side by side goes together.
pub(super) fn runs(layer: &Layer) -> Vec<ByteRange> {
    let mut runs: Vec<ByteRange> = Vec::new();
    for (range, _) in layer.extents.iter() {
        match runs.last_mut() {
            Some(last) if last.end == range.start && range.end - last.start <= CHUNK_BYTES => {
                last.end = range.end;
            }
            _ => runs.push(range),
        }
    }
    runs
}

pub(super) fn write_all(below: &dyn WritableFile, data: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < data.len() {
        let at = offset + done as u64;
        match below.write_at(&data[done..], at, Durability::Accepted, None)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => done += written,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_much_is_begun_to_be_sent_and_little_is_left_to_the_sync() {
        let mut unsent = Unsent::default();
        let chunk = |number| ByteRange::at(number * CHUNK_BYTES, CHUNK_BYTES);
        let begun: Vec<_> = (0..9)
            .filter_map(|number| unsent.add(chunk(number)))
            .collect();
        let two = [
            ByteRange::new(0, BEGUN_BYTES),
            ByteRange::new(BEGUN_BYTES, 2 * BEGUN_BYTES),
        ];
        assert_eq!(begun, two);
        // Small ones far apart: the range has more than was written.
        let mut unsent = Unsent::default();
        let far = |number: u64| ByteRange::at(number << 30, 4096);
        assert!((0..1000).all(|number| unsent.add(far(number)).is_none()));
    }
}
