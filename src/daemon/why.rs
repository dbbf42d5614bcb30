//! What `why` tells of one file.

use super::control::WirePath;
use super::journal_status::DirtyFileStatus;
use super::status::bytes;
use crate::cache::{Loss, Stored};
use crate::clock::wall_clock;
use crate::fs::{Explanation, FileSystem, Obstacle, ReadBy};
use crate::types::printable::one_line;
use crate::types::{FileKind, Version};
use crate::writeback::WriteBack;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// What the daemon knows of a file beside what `fs` tells.
pub struct Surroundings {
    /// Why the kernel has no passthrough.
    pub no_passthrough: Option<String>,
    pub has_checksums: bool,
    /// With `write_mode=back`.
    pub back: Option<Arc<WriteBack>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WhyStatus {
    /// "file", or what else it is: only files are cached.
    pub kind: String,
    pub size_bytes: u64,
    pub inode: u64,
    /// Since 1970.
    pub mtime_seconds: i64,
    pub mtime_nanoseconds: u32,
    /// False where the backend is away: it is what was known of it last.
    pub backend_was_asked: bool,
    /// The cache directory it is in, or would be; absent where it passes by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Why that directory, or any, takes nothing new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory_trouble: Option<String>,
    /// Relative to that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    pub cached_bytes: u64,
    /// Begin and end, in bytes.
    pub extents: Vec<(u64, u64)>,
    /// What is cached is of the version the backend has.
    pub is_current: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched_at_seconds: Option<i64>,
    /// Reads go past the cache: no room, or the disk refused.
    pub is_bypassed: bool,
    pub open: Vec<OpenStatus>,
    /// How the next open reads it: "passthrough" or "daemon".
    pub next_open: String,
    /// Why not by passthrough.
    pub because: Vec<String>,
    /// The path that pins it, relative to the mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_by: Option<WirePath>,
    pub is_warmed: bool,
    /// Blocks of 4 KiB that are cached; of these, with a checksum.
    pub blocks: u64,
    pub summed_blocks: u64,
    pub has_checksums: bool,
    pub write_mode: String,
    /// What the backend does not have yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty: Option<DirtyFileStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_miss: Option<MissStatus>,
    /// Why something that was cached is not any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_loss: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpenStatus {
    /// "passthrough", "daemon" or "backend".
    pub read_by: String,
    pub handles: u64,
    pub writers: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MissStatus {
    pub at_seconds: i64,
    pub offset: u64,
    pub reason: String,
}

/// Blocks on the backend, unless that is away.
pub(super) fn explain(
    filesystem: &FileSystem,
    path: &Path,
    surroundings: &Surroundings,
) -> std::io::Result<WhyStatus> {
    let explained = filesystem.explain(path)?;
    let version = explained.attributes.version();
    let told = &explained.told;
    let mut why = WhyStatus {
        kind: kind_in_words(explained.attributes.kind).to_owned(),
        size_bytes: explained.attributes.size_bytes,
        inode: explained.attributes.inode,
        mtime_seconds: explained.attributes.mtime.seconds,
        mtime_nanoseconds: explained.attributes.mtime.nanoseconds,
        backend_was_asked: explained.is_fresh,
        directory: told.directory.clone(),
        directory_trouble: told.trouble.clone(),
        pinned_by: explained.pin.as_deref().map(WirePath::from),
        has_checksums: surroundings.has_checksums,
        write_mode: write_mode(surroundings).to_owned(),
        dirty: dirty(surroundings, &explained),
        last_loss: told.last_loss.map(|loss| lost(loss).to_owned()),
        last_miss: told.last_miss.map(|miss| MissStatus {
            at_seconds: miss.at.seconds,
            offset: miss.offset,
            reason: miss.loss.map_or(NEVER_SEEN, lost).to_owned(),
        }),
        ..WhyStatus::default()
    };
    if let Some(stored) = &told.stored {
        why.take_stored(stored, &version);
    }
    why.take_opens(&explained, surroundings);
    Ok(why)
}

fn write_mode(surroundings: &Surroundings) -> &'static str {
    match surroundings.back {
        Some(_) => "back",
        None => "through",
    }
}

fn dirty(surroundings: &Surroundings, explained: &Explanation) -> Option<DirtyFileStatus> {
    let figures = surroundings.back.as_ref()?.dirty_figures(&explained.key)?;
    Some(DirtyFileStatus::of(&figures))
}

const NEVER_SEEN: &str = "it had not been fetched before, as far as is remembered";

impl WhyStatus {
    fn take_stored(&mut self, stored: &Stored, version: &Version) {
        let range = |range: &crate::types::ByteRange| (range.start, range.end);
        self.extents = stored.extents.iter().map(range).collect();
        self.cached_bytes = stored.cached_bytes();
        self.object.clone_from(&stored.object);
        self.is_current = stored.version == *version;
        self.is_bypassed = stored.is_bypassed;
        self.is_warmed = stored.is_warmed;
        self.blocks = stored.blocks;
        self.summed_blocks = stored.summed_blocks;
        self.fetched_at_seconds = (self.cached_bytes > 0).then_some(stored.filled_at_seconds);
    }

    fn take_opens(&mut self, explained: &Explanation, surroundings: &Surroundings) {
        self.open = explained
            .open
            .iter()
            .map(|open| OpenStatus {
                read_by: match open.read_by {
                    ReadBy::Passthrough => "passthrough",
                    ReadBy::PageCache => "daemon",
                    ReadBy::Backend => "backend",
                }
                .to_owned(),
                handles: open.handles,
                writers: open.writers,
            })
            .collect();
        let obstacles = explained.obstacles.iter();
        self.because = obstacles
            .map(|obstacle| in_the_way(*obstacle, surroundings))
            .collect();
        self.next_open = match self.because.is_empty() {
            true => "passthrough",
            false => "daemon",
        }
        .to_owned();
    }

    /// Plain words, a line for each question.
    pub fn in_words(&self) -> String {
        if self.kind != "file" {
            return format!("  is a {}: only files are cached\n", self.kind);
        }
        let mut lines = vec![
            format!("  cached     {}", self.cached_in_words()),
            format!("  version    {}", self.version_in_words()),
        ];
        for open in &self.open {
            lines.push(format!("  open now   {}", open.in_words()));
        }
        lines.push(format!("  next open  {}", self.next_open_in_words()));
        lines.push(format!("  stays      {}", self.stay_in_words()));
        lines.push(format!("  checked    {}", self.sums_in_words()));
        lines.push(format!("  changes    {}", self.changes_in_words()));
        lines.push(format!("  last miss  {}", self.miss_in_words()));
        lines.iter().map(|line| one_line(line) + "\n").collect()
    }

    fn cached_in_words(&self) -> String {
        let is_complete = self.cached_bytes == self.size_bytes;
        match &self.directory_trouble {
            Some(trouble) if !is_complete => format!("{}; {trouble}", self.stored_in_words()),
            Some(_) | None => self.stored_in_words(),
        }
    }

    fn stored_in_words(&self) -> String {
        let Some(directory) = &self.directory else {
            return "no: it passes by the cache (smaller than min_cache_file_size, or no cache directory is in use)".to_owned();
        };
        let bypassed = match self.is_bypassed {
            true => "; reads go past the cache now: it has no room, or its disk refused",
            false => "",
        };
        if self.cached_bytes == 0 {
            let before = self.last_loss.as_ref();
            let before = before.map_or_else(String::new, |loss| format!(": {loss}"));
            return format!("nothing{before}{bypassed}");
        }
        let amount = match self.cached_bytes == self.size_bytes {
            true => format!("all of it, {}", bytes(self.size_bytes)),
            false => format!(
                "{} of {}, in {} ranges: {}",
                bytes(self.cached_bytes),
                bytes(self.size_bytes),
                self.extents.len(),
                self.extents_in_words()
            ),
        };
        let object = self.object.as_deref().unwrap_or("no object yet");
        format!("{amount}; {directory}/{object}{bypassed}")
    }

    fn extents_in_words(&self) -> String {
        const SHOWN_MAX: usize = 8;
        let shown = self.extents.iter().take(SHOWN_MAX);
        let mut words: Vec<String> = shown.map(|(begin, end)| format!("{begin}-{end}")).collect();
        if self.extents.len() > SHOWN_MAX {
            words.push("... (--json shows all)".to_owned());
        }
        words.join(", ")
    }

    fn version_in_words(&self) -> String {
        let changed = ago(self.mtime_seconds);
        let state = match (self.cached_bytes, self.is_current, self.backend_was_asked) {
            _ if self.dirty.is_some() => {
                "as programs here left it; the backend has what was there before until it is sent"
            }
            (_, _, false) => "the backend is away: this is what was known last",
            (0, _, _) => "as the backend has it now",
            (_, true, _) => "what is cached is what the backend has now",
            (_, false, _) => "what is cached is of another version, and goes at the next open",
        };
        format!(
            "{} bytes, changed {changed}, inode {}: {state}",
            self.size_bytes, self.inode
        )
    }

    fn next_open_in_words(&self) -> String {
        match self.because.is_empty() {
            true => "by passthrough: the kernel reads the cache disk by itself".to_owned(),
            false => format!("through the daemon: {}", self.because.join("; ")),
        }
    }

    fn stay_in_words(&self) -> String {
        match (&self.pinned_by, self.is_warmed) {
            (Some(path), _) => {
                let path = std::path::PathBuf::from(path.clone());
                let shown = match path.as_os_str().is_empty() {
                    true => "the whole mount".to_owned(),
                    false => path.display().to_string(),
                };
                format!("pinned by {shown}")
            }
            (None, true) => {
                "as long as there is room; warmed up, it goes after all else".to_owned()
            }
            (None, false) => "as long as there is room".to_owned(),
        }
    }

    fn sums_in_words(&self) -> String {
        match (self.has_checksums, self.blocks) {
            (false, _) => "no: mounted with checksum=none".to_owned(),
            (true, blocks) => format!("{} of {blocks} blocks have a checksum", self.summed_blocks),
        }
    }

    fn changes_in_words(&self) -> String {
        let writers: u64 = self.open.iter().map(|open| open.writers).sum();
        let waiting = match &self.dirty {
            Some(dirty) => dirty.in_words(),
            None => format!("none wait here (write_mode={})", self.write_mode),
        };
        match writers {
            0 => waiting,
            _ => format!("{waiting}; {writers} handles are open for writing"),
        }
    }

    fn miss_in_words(&self) -> String {
        match &self.last_miss {
            None => "none that is remembered".to_owned(),
            Some(miss) => format!(
                "{}, at byte {}: {}",
                ago(miss.at_seconds),
                miss.offset,
                miss.reason
            ),
        }
    }
}

impl OpenStatus {
    fn in_words(&self) -> String {
        let how = match self.read_by.as_str() {
            "passthrough" => "by passthrough",
            "backend" => "through the daemon, from the backend, while it is written to",
            _ => "through the daemon, as decided when it was opened first",
        };
        format!(
            "{how}; {} handles, {} for writing",
            self.handles, self.writers
        )
    }
}

fn kind_in_words(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symbolic link",
        FileKind::Fifo => "pipe",
        FileKind::Socket => "socket",
        FileKind::CharDevice | FileKind::BlockDevice => "device",
    }
}

fn in_the_way(obstacle: Obstacle, surroundings: &Surroundings) -> String {
    match obstacle {
        Obstacle::DirectIo => "direct_io sends every read to the daemon".to_owned(),
        Obstacle::SwitchedOff => "passthrough=off, or checksum=read".to_owned(),
        Obstacle::Unavailable => {
            let reason = surroundings.no_passthrough.as_deref();
            format!(
                "no passthrough here: {}",
                reason.unwrap_or("not negotiated")
            )
        }
        Obstacle::SmallFile { limit_bytes } => format!(
            "it is no larger than small_file_size ({})",
            bytes(limit_bytes)
        ),
        Obstacle::NotComplete => "not all of it is cached".to_owned(),
        Obstacle::Written => "it is being written to here, or was a moment ago".to_owned(),
        Obstacle::Locked => "programs lock it".to_owned(),
    }
}

fn lost(loss: Loss) -> &'static str {
    match loss {
        Loss::Evicted => "it was evicted",
        Loss::Trimmed => "parts of it were given up to make room while it was in use",
        Loss::Replaced => "the file changed",
        Loss::Expired => "what was cached was older than ttl",
        Loss::Doubted => "the object in the cache was not believed",
    }
}

fn ago(seconds: i64) -> String {
    match wall_clock().seconds - seconds {
        ..0 => "in the future".to_owned(),
        passed @ 0..120 => format!("{passed} s ago"),
        passed @ 120..7200 => format!("{} min ago", passed / 60),
        passed @ 7200..172_800 => format!("{} h ago", passed / 3600),
        passed => format!("{} days ago", passed / 86_400),
    }
}
