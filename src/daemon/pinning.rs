//! What the control socket tells of pins.

use super::control::{Pin, PinChange, WirePath};
use crate::fs::{FileSystem, PinReport};
use crate::types::bytes_in_words as bytes;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Waits for the backend, unless they are only to be told.
pub(super) fn change_pins(
    filesystem: &Arc<FileSystem>,
    change: PinChange,
) -> anyhow::Result<Vec<Pin>> {
    let reports = match change {
        PinChange::Pin(paths) => filesystem.pin(&paths).context("pinning")?,
        PinChange::Unpin(paths) => {
            filesystem.unpin(&paths).context("unpinning")?;
            Vec::new()
        }
        PinChange::Nothing => filesystem.pins(),
    };
    Ok(reports.into_iter().map(told).collect())
}

fn told(report: PinReport) -> Pin {
    Pin {
        path: WirePath::from(&*report.path),
        files: report.files,
        bytes: report.bytes,
        missing_files: report.missing_files,
        missing_bytes: report.missing_bytes,
        trouble: report.trouble,
    }
}

/// What is pinned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PinsStatus {
    /// Paths.
    pub pins: u64,
    /// In the cache, as of the last checkpoint.
    pub files: u64,
    pub bytes: u64,
    /// The most that can be pinned.
    pub bytes_limit: u64,
    /// Not in the cache, when they were last looked through.
    pub missing_files: u64,
}

impl PinsStatus {
    pub(super) fn in_words(&self) -> Option<String> {
        let missing = match self.missing_files {
            0 => String::new(),
            files => format!(", {files} missing (`nfs-cachefs pin --list` tells why)"),
        };
        (self.pins > 0).then(|| {
            format!(
                "  pins      {} paths, {} files in the cache, {} of {}{missing}",
                self.pins,
                self.files,
                bytes(self.bytes),
                bytes(self.bytes_limit)
            )
        })
    }
}
