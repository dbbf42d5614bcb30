//! What `status` says of the journal.

use super::status::bytes;
use serde::{Deserialize, Serialize};

/// All zero with `write_mode=through`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// What the backend does not have yet.
    pub dirty_bytes: u64,
    /// Batches written; syncs of the device; who waited for one.
    pub commits: u64,
    pub syncs: u64,
    #[serde(default)]
    pub waits: u64,
    /// Never acknowledged, and cut off at the start.
    #[serde(default)]
    pub cut_batches: u64,
    /// "ok", why nothing is taken any more, or nothing without a journal.
    #[serde(default)]
    pub state: String,
    /// Missing of those that `erasure` takes.
    pub degraded_devices: u64,
    #[serde(default)]
    pub erasure: String,
    /// Those that take part, then those that do not.
    #[serde(default)]
    pub devices: Vec<DeviceStatus>,
    /// How many more devices may be lost.
    #[serde(default)]
    pub tolerated_losses: u64,
    /// Batches that lack shards which the devices could have.
    #[serde(default)]
    pub weak_batches: u64,
    /// Shards are being checked or made.
    #[serde(default)]
    pub is_at_work: bool,
    /// By the last scrub, or the present one.
    #[serde(default)]
    pub checked_shards: u64,
    #[serde(default)]
    pub damaged_shards: u64,
    #[serde(default)]
    pub mended_batches: u64,
    /// More of their shards are gone than may be.
    #[serde(default)]
    pub lost_batches: u64,
}

/// One directory of a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    pub path: String,
    /// "ok", or why it does not take part.
    pub state: String,
}

/// All zero with `write_mode=through`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WritebackStatus {
    pub pending_files: u64,
    /// Of these, not taken by the backend when they were tried last.
    #[serde(default)]
    pub failing_files: u64,
    /// Files put beside others since the start, and the last of them.
    pub conflicts: u64,
    #[serde(default)]
    pub conflict_paths: Vec<String>,
}

impl JournalStatus {
    fn present_devices(&self) -> u64 {
        let present = self.devices.iter().filter(|device| device.state == "ok");
        present.count() as u64
    }

    /// Whether less may be lost than could be.
    pub fn is_weak(&self) -> bool {
        self.degraded_devices > 0 || self.weak_batches > 0 || self.lost_batches > 0
    }

    /// What `journal status` prints.
    pub fn devices_in_words(&self) -> String {
        let mut text = format!(
            "erasure {}, {}; {} more disks may be lost\n",
            self.erasure, self.state, self.tolerated_losses
        );
        for device in &self.devices {
            text.push_str(&format!("  {}: {}\n", device.path, device.state));
        }
        text.push_str(&format!(
            "{} batches lack shards, {} are lost; {} batches mended{}\n",
            self.weak_batches,
            self.lost_batches,
            self.mended_batches,
            if self.is_at_work { ", at work" } else { "" }
        ));
        text.push_str(&format!(
            "last scrub: {} shards, {} of them damaged\n",
            self.checked_shards, self.damaged_shards
        ));
        text
    }

    /// Nothing without a journal.
    pub(super) fn in_words(&self, writeback: &WritebackStatus) -> Option<String> {
        let is_there = !self.state.is_empty();
        is_there.then(|| {
            format!(
                "  journal   {}, {} of {} disks, {} more may be lost, {} in {} files not on the backend yet ({} failing), {} commits, {} syncs for {} waits, {} conflicts",
                self.state,
                self.present_devices(),
                self.present_devices() + self.degraded_devices,
                self.tolerated_losses,
                bytes(self.dirty_bytes),
                writeback.pending_files,
                writeback.failing_files,
                self.commits,
                self.syncs,
                self.waits,
                writeback.conflicts
            )
        })
    }
}
