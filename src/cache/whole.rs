//! Small files come whole, in one go: open, read, stat on one backend thread.

use super::Cache;
use super::fetch::FetchError;
use super::file::CachedFile;
use super::pieces::Woken;
use super::record::occupied;
use crate::types::ByteRange;
use std::sync::Arc;

impl Cache {
    /// Brings a small file whole, then calls `woken`. Does not block.
    pub fn fetch_whole(self: &Arc<Self>, file: &Arc<CachedFile>, woken: Woken) {
        let range = ByteRange::new(0, file.size_bytes());
        let mut state = file.state.lock();
        if let Some(error) = file.refusal(&state) {
            drop(state);
            return woken(Err(error));
        }
        if state.extents.contains(range) {
            drop(state);
            return woken(Ok(()));
        }
        state.pieces.wait_for(range, woken);
        if std::mem::replace(&mut state.pieces.whole, true) {
            return;
        }
        drop(state);
        let (cache, settled) = (self.clone(), file.clone());
        self.after_settling(file, move || cache.fetch_whole_now(&settled, range));
    }

    fn fetch_whole_now(self: &Arc<Self>, file: &Arc<CachedFile>, range: ByteRange) {
        let (cache, fetched) = (self.clone(), file.clone());
        let submitted = self.demand_lane.submit(move || {
            let outcome = cache.copy_whole(&fetched);
            fetched.state.lock().pieces.whole = false;
            match outcome {
                Ok(()) => cache.publish(&fetched, &[range]),
                Err(FetchError::Changed) => cache.discard(&fetched),
                Err(error) => cache.fail_fetch(&fetched, &error),
            }
            cache.rest(&fetched);
        });
        if submitted.is_err() {
            file.state.lock().pieces.whole = false;
            self.fail_fetch(file, &FetchError::Overloaded);
        }
    }

    /// On success the file's bytes are in its object, reserved and verified.
    fn copy_whole(&self, file: &Arc<CachedFile>) -> Result<(), FetchError> {
        let source = self.open_backend(file)?;
        if file.may_be_written(&*source) {
            return Err(FetchError::Bypass);
        }
        let size = file.size_bytes() as usize;
        let mut buffer = (self.take_buffer)(size + 1);
        // One byte more than expected is asked for: a file that grew is another version.
        let length = source
            .read_at(&mut buffer[..size + 1], 0)
            .map_err(FetchError::of_backend)?;
        let attributes = source.attributes().map_err(FetchError::of_backend)?;
        if length != size || attributes.version() != file.version {
            return Err(FetchError::Changed);
        }
        drop(source);
        let Some(directory) = &file.directory else {
            return Err(FetchError::Bypass);
        };
        let bytes = occupied(ByteRange::new(0, size as u64));
        if !directory.takes_more() || !directory.space.reserve(bytes) {
            self.reclaim.wake();
            return Err(FetchError::Bypass);
        }
        let written = file.ensure_object().and_then(|object| match object {
            Some(object) => object.write_all_at(&buffer[..size], 0).map(|()| true),
            None => Ok(false),
        });
        match written {
            Ok(true) => Ok(()),
            Ok(false) => {
                directory.space.cancel(bytes);
                Err(FetchError::Bypass)
            }
            Err(error) => {
                directory.space.cancel(bytes);
                directory.report_disk_error("filling an object", &error);
                self.reclaim.wake();
                Err(FetchError::Bypass)
            }
        }
    }
}
