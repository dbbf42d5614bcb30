//! Where things lie in a cache directory, and the mark that says it is one of ours.
//!
//! ```text
//! cachefs.format      "nfs-cachefs cache\nformat 1\n"
//! index.redb          the index
//! objects/XX/ID       one sparse file per cached version, XX = low byte of the id
//! ```

use super::record::ObjectId;
use crate::io::{Io, OpenMode};
use std::io;

pub const FORMAT_FILE: &str = "cachefs.format";
const FORMAT_FILE_NEW: &str = "cachefs.format.new";
pub const INDEX_FILE: &str = "index.redb";
pub const OBJECTS: &str = "objects";
/// The format this program writes, and the only one it reads.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: &str = "nfs-cachefs cache";

/// Why a directory cannot be used as a cache.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error(
        "written by a newer nfs-cachefs (format {found}, this program knows {FORMAT_VERSION}); it was left untouched: \
         upgrade nfs-cachefs or choose another cache_dir"
    )]
    NewerFormat { found: u32 },
    #[error(
        "not an nfs-cachefs cache, and not empty ({found:?} is there); it was left untouched: choose an empty directory as cache_dir"
    )]
    Foreign { found: String },
    #[error(
        "its {FORMAT_FILE} is unreadable ({text:?}); it was left untouched: restore that file, or empty the directory"
    )]
    Damaged { text: String },
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The path of an object file.
pub fn object_path(object: ObjectId) -> String {
    format!("{OBJECTS}/{:02x}/{:016x}", object.0 & 0xff, object.0)
}

/// Ids are counted from 1 and never come near this.
const OBJECT_ID_MAX: u64 = 1 << 62;

/// The id in an object file's name; `None` for a name that is not ours.
pub fn object_of_name(name: &str) -> Option<ObjectId> {
    if name.len() != 16 {
        return None;
    }
    let id = u64::from_str_radix(name, 16).ok()?;
    (id <= OBJECT_ID_MAX).then_some(ObjectId(id))
}

/// What a directory is, as far as it may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    Cache,
    /// Nothing but what a mount leaves that got no further.
    Empty,
}

/// Looks at the mark, and in a directory without one for what is not ours. Changes nothing.
pub fn check(io: &dyn Io) -> Result<Layout, LayoutError> {
    match io.open(FORMAT_FILE, OpenMode::Read) {
        Ok(file) => {
            let mut bytes = [0; 256];
            let length = file.read_at(&mut bytes, 0)?;
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            check_mark(&text)?;
            Ok(Layout::Cache)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut foreign = None;
            io.list(".", &mut |name| {
                // A mark written halfway leaves only its own temporary file; a fresh ext4 has lost+found; the
                // lock and the disk probes come before the mark.
                let ours = ["lost+found", FORMAT_FILE_NEW, "lock"].contains(&name);
                if !ours && !name.starts_with(".probe-") {
                    foreign = Some(name.to_owned());
                }
                foreign.is_none()
            })?;
            match foreign {
                Some(found) => Err(LayoutError::Foreign { found }),
                None => Ok(Layout::Empty),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Checks the mark, or writes it into an empty directory. Durable when it returns.
pub fn prepare(io: &dyn Io) -> Result<(), LayoutError> {
    if check(io)? == Layout::Empty {
        let _ = io.remove_file(FORMAT_FILE_NEW);
        let file = io.open(FORMAT_FILE_NEW, OpenMode::CreateNew)?;
        file.write_all_at(format!("{MAGIC}\nformat {FORMAT_VERSION}\n").as_bytes(), 0)?;
        file.sync_data()?;
        drop(file);
        io.rename(FORMAT_FILE_NEW, FORMAT_FILE)?;
        io.sync_directory(".")?;
    }
    io.create_directory(OBJECTS)?;
    for low in 0..=0xff {
        io.create_directory(&format!("{OBJECTS}/{low:02x}"))?;
    }
    io.sync_directory(OBJECTS)?;
    io.sync_directory(".")?;
    Ok(())
}

fn check_mark(text: &str) -> Result<(), LayoutError> {
    let damaged = || LayoutError::Damaged {
        text: text.chars().take(80).collect(),
    };
    let rest = text.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let found: u32 = rest
        .lines()
        .find_map(|line| line.strip_prefix("format "))
        .and_then(|number| number.trim().parse().ok())
        .ok_or_else(damaged)?;
    match found {
        FORMAT_VERSION => Ok(()),
        newer if newer > FORMAT_VERSION => Err(LayoutError::NewerFormat { found: newer }),
        _ => Err(damaged()),
    }
}
