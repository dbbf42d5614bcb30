//! What `status` and `journal status` say of a journal's disks.

use super::journal_status::JournalStatus;
use crate::journal::{JournalFigures, Outsider};
use crate::types::printable::one_line;
use serde::{Deserialize, Serialize};

/// One directory of a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    pub path: String,
    /// "ok", or why it does not take part.
    pub state: String,
}

impl JournalStatus {
    /// What concerns its devices, and nothing else.
    pub(super) fn of_devices(journal: &JournalFigures) -> Self {
        let (devices, mending) = (&journal.devices, &journal.mending);
        // With a lone one it is known which one has failed.
        let failure = journal.failure.as_ref();
        let failure = failure.filter(|_| devices.members.len() == 1);
        let member = |path: &String| DeviceStatus {
            path: path.clone(),
            state: failure.map_or("ok", |failure| failure).to_owned(),
        };
        let outsider = |outsider: &Outsider| DeviceStatus {
            path: outsider.name.clone(),
            state: outsider.why.clone(),
        };
        let members = devices.members.iter().map(member);
        let outsiders = devices.outsiders.iter().map(outsider);
        let wanted = u64::from(devices.data_shards) + u64::from(devices.parity_shards);
        Self {
            degraded_devices: wanted - devices.members.len() as u64 + u64::from(failure.is_some()),
            erasure: format!("{}+{}", devices.data_shards, devices.parity_shards),
            devices: members.chain(outsiders).collect(),
            tolerated_losses: journal.tolerated,
            weak_batches: journal.weak_batches,
            is_at_work: mending.is_mending || mending.is_scrubbing,
            checked_shards: mending.checked_shards,
            damaged_shards: mending.damaged_shards,
            mended_batches: mending.mended_batches,
            lost_batches: mending.lost_batches,
            ..Self::default()
        }
    }

    pub(super) fn present_devices(&self) -> u64 {
        let present = self.devices.iter().filter(|device| device.state == "ok");
        present.count() as u64
    }

    /// Whether less may be lost than could be.
    pub fn is_weak(&self) -> bool {
        self.degraded_devices > 0 || self.weak_batches > 0 || self.lost_batches > 0
    }

    /// "ok" only where all is there.
    pub(super) fn condition(&self) -> String {
        if self.state != "ok" {
            return self.state.clone();
        }
        if self.lost_batches > 0 {
            return format!("{} batches lost", self.lost_batches);
        }
        if self.degraded_devices > 0 {
            let wanted = self.present_devices() + self.degraded_devices;
            return format!(
                "degraded: {} of {wanted} disks missing",
                self.degraded_devices
            );
        }
        match self.weak_batches {
            0 => self.state.clone(),
            batches => format!("degraded: {batches} batches lack shards"),
        }
    }

    /// What `journal status` prints.
    pub fn devices_in_words(&self) -> String {
        let mut text = format!(
            "erasure {}, {}; {} more disks may be lost\n",
            self.erasure,
            self.condition(),
            self.tolerated_losses
        );
        for device in &self.devices {
            let line = format!("  {}: {}", device.path, device.state);
            text.push_str(&(one_line(&line) + "\n"));
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
}

const UNVOUCHED: &str = "the journal did not end well, and as many of its disks are away as could have gone on by themselves: that \
                         nothing is missing of what was acknowledged in the last 2 s before the end, only the others could tell";

fn without_parity(data_shards: u8) -> String {
    match data_shards {
        1 => "write_mode=back without a second journal directory: what is not on the backend yet is lost with its disk".to_owned(),
        _ => format!(
            "write_mode=back with erasure={data_shards}+0: none of the journal's disks may be lost; what is not on the backend yet is lost with any of them"
        ),
    }
}

/// What the operator should know of them, a sentence each.
pub(super) fn device_warnings(journal: &JournalFigures) -> Vec<String> {
    let devices = &journal.devices;
    let mut warnings = Vec::new();
    if devices.parity_shards == 0 {
        warnings.push(without_parity(devices.data_shards));
    } else if journal.tolerated < u64::from(devices.parity_shards) {
        warnings.push(format!(
            "the journal survives the loss of {} more disks, not of {}; `nfs-cachefs journal` tells and mends",
            journal.tolerated, devices.parity_shards
        ));
    }
    for Outsider { name, why } in &devices.outsiders {
        warnings.push(format!("the journal goes without {name}: {why}"));
    }
    if devices.is_unvouched {
        warnings.push(UNVOUCHED.to_owned());
    }
    if journal.mending.lost_batches > 0 {
        warnings.push(format!(
            "{} batches of the journal have lost more shards than may be: reading what they hold is EIO",
            journal.mending.lost_batches
        ));
    }
    warnings
}
