//! What an earlier life has left in the journal becomes layers again.

use super::WriteBack;
use super::dirty::Frozen;
use super::layers::{Layer, Touch};
use crate::backend::{FilesystemIndex, Place};
use crate::journal::{BaseSum, Beginning, Generation, Located, Record};
use crate::types::{Timestamp, Version};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// A generation as it comes together.
struct Replayed {
    beginning: Beginning,
    layer: Layer,
    intent: Option<Vec<BaseSum>>,
    changes: u32,
}

/// All generations that are not done, in the order they began, and what those that are have led to.
#[derive(Default)]
struct Replay {
    generations: BTreeMap<Generation, Replayed>,
    led_to: HashMap<Generation, Option<Version>>,
    /// Of these, copies that nothing says yet to be whole.
    copies: HashSet<Generation>,
    forgotten: HashSet<Generation>,
    /// Their file was about to lose what may be its last name.
    losing: HashSet<Generation>,
    /// What stands for a generation since it was moved.
    moved: HashMap<Generation, Generation>,
    last: u64,
}

impl Replay {
    fn take(&mut self, located: Located) {
        let generation = located.record.generation();
        self.last = self.last.max(generation.0);
        let piece = located.piece();
        match located.record {
            Record::Begin(beginning) => self.begin(beginning, located.sequence),
            Record::Done { version, .. } => {
                // Its beginning may be trimmed, while one that follows it is needed.
                self.led_to.insert(generation, version);
                self.generations.remove(&generation);
            }
            Record::Forget { .. } => {
                self.forgotten.insert(generation);
                self.generations.remove(&generation);
                self.generations.remove(&self.present(generation));
            }
            Record::Losing { .. } => {
                self.losing.insert(self.present(generation));
            }
            Record::Kept { .. } => {
                self.losing.remove(&self.present(generation));
            }
            Record::Moved { pairs } => pairs.into_iter().for_each(|pair| self.take_move(pair)),
            record => {
                // What is not begun is done: its beginning was trimmed.
                if let Some(replayed) = self.generations.get_mut(&generation) {
                    replayed.take(record, piece);
                }
            }
        }
    }

    /// A copy of what was forgotten while it was made is forgotten, too.
    fn take_move(&mut self, (from, to): (Generation, Generation)) {
        self.generations.remove(&from);
        self.moved.insert(from, to);
        if self.losing.remove(&from) {
            self.losing.insert(to);
        }
        if !self.forgotten.contains(&from) {
            self.copies.remove(&to);
        }
    }

    fn present(&self, generation: Generation) -> Generation {
        *self.moved.get(&generation).unwrap_or(&generation)
    }

    fn begin(&mut self, beginning: Beginning, first: crate::journal::Sequence) {
        if beginning.is_copy {
            self.copies.insert(beginning.generation);
        }
        let layer = Layer::new(
            beginning.generation,
            first,
            beginning.base,
            beginning.size_bytes,
            Timestamp::default(),
        );
        let replayed = Replayed {
            layer,
            intent: None,
            changes: 0,
            beginning,
        };
        self.generations
            .insert(replayed.beginning.generation, replayed);
    }
}

impl Replayed {
    fn take(&mut self, record: Record, piece: Option<crate::journal::Piece>) {
        match record {
            Record::Write { offset, stamp, .. } => {
                if let Some(piece) = piece {
                    self.layer.write(offset, &[piece], stamp);
                    self.changes += 1;
                }
            }
            Record::Size {
                size_bytes, stamp, ..
            } => {
                self.layer.set_size(size_bytes, stamp);
                self.changes += 1;
            }
            Record::Intent { base, .. } => {
                self.intent.get_or_insert_default().extend(base);
            }
            Record::Touch { modify_time, .. } => {
                self.layer.touched = Some(Touch { modify_time });
                if let Some(time) = modify_time {
                    // Whether it was made is not known; that it was asked for is.
                    self.layer.set_size(self.layer.size_bytes, time);
                }
            }
            Record::Base { version, .. } => {
                self.layer.base = Some(version);
                self.layer.touched = None;
            }
            Record::Begin(_)
            | Record::Done { .. }
            | Record::Forget { .. }
            | Record::Losing { .. }
            | Record::Kept { .. }
            | Record::Moved { .. } => {}
        }
    }
}

const NO_VERSION: Version = Version {
    inode: 0,
    size_bytes: 0,
    mtime: NO_TIME,
    ctime: NO_TIME,
};
const NO_TIME: Timestamp = Timestamp {
    seconds: 0,
    nanoseconds: 0,
};

impl WriteBack {
    /// Takes over what was found; the number that generations go on from.
    pub(super) fn replay(self: &Arc<Self>, found: Vec<Located>) {
        let mut replay = Replay::default();
        for located in found {
            replay.take(located);
        }
        self.next_generation
            .store(replay.last + 1, std::sync::atomic::Ordering::Relaxed);
        for (generation, replayed) in replay.generations {
            if replay.copies.contains(&generation) || replayed.beginning.is_nameless {
                continue;
            }
            let is_losing = replay.losing.contains(&generation);
            let before = replayed.beginning.follows;
            let led_to = before.and_then(|before| replay.led_to.get(&before).copied().flatten());
            self.table.restored(generation, replayed.layer.first);
            self.restore(replayed, led_to, is_losing);
        }
    }

    fn restore(&self, replayed: Replayed, led_to: Option<Version>, is_losing: bool) {
        let Replayed {
            beginning,
            mut layer,
            intent,
            changes,
        } = replayed;
        let place = Place {
            filesystem: self
                .inner
                .filesystem_of(&beginning.key)
                .unwrap_or(FilesystemIndex(0)),
            key: beginning.key,
            inode: beginning.inode,
            path: beginning.path,
            held: None,
            caller: None,
            only_caller: false,
        };
        let file = self.table.restore(place, beginning.opener);
        let mut state = file.state();
        state.was_losing |= is_losing;
        // Nobody knows what the earlier life has cached of it.
        state.has_read_below = true;
        state.changes = state.changes.wrapping_add(changes);
        self.pressure.add(layer.extents.total_bytes());
        match &state.frozen {
            None => {
                // Without either nobody can say what was there.
                let base = layer.base.or(led_to);
                state.ctime = base.map(|base| base.ctime);
                if let Some(base) = base.filter(|_| layer.changes_nothing()) {
                    layer.stamp = base.mtime;
                }
                layer.base = base.or(Some(NO_VERSION));
                state.frozen = Some(Frozen {
                    layer: Arc::new(layer),
                    intent: intent.map(Arc::new),
                });
            }
            Some(below) => {
                if layer.changes_nothing() {
                    layer.stamp = below.layer.stamp;
                }
                state.open = Some(layer);
            }
        }
        drop(state);
        self.uploader.schedule(&file, Duration::ZERO);
    }
}
