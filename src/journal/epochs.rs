//! Who takes part: the end of a device, and a new one, each the beginning of an epoch.

use super::device::Device;
use super::devices::{Devices, Member, Outsider};
use super::identity::{self, Head};
use super::mending::{Sizes, recruit};
use super::segments::{self, FileIdentity, Stock};
use super::witness::Testimony;
use super::{Directory, JournalError};
use std::io;

const NO_PLACE: &str = "all places are taken: no device of the journal is lost";
const NO_MEMBER: &str = "it is no device that the journal has now";
const NEEDED: &str =
    "none of the others can be done without now: have what is missing rebuilt first";
const ALONE: &str = "a journal on one directory (erasure=1+0) has nothing that another could be made from: have everything sent \
                     (`nfs-cachefs flush --wait`), unmount, and mount with another journal_dir";
const REPLACED: &str = "it was replaced";

impl Outsider {
    fn given_up(name: String, error: &io::Error) -> Self {
        let why = match error.kind() {
            io::ErrorKind::TimedOut => "it hangs".to_owned(),
            _ => error.to_string(),
        };
        tracing::error!("the journal gives up {name}: {why}");
        Self { name, why }
    }
}

impl Devices {
    /// Gives up the devices that failed. Returns what came of the others, and who was given up; an error where too few
    /// are left.
    pub(super) fn settle<T>(
        &mut self,
        outcomes: Vec<(u8, io::Result<T>)>,
    ) -> io::Result<(Vec<T>, Vec<u8>)> {
        let (mut well, mut failed) = (Vec::new(), Vec::new());
        for (device, outcome) in outcomes {
            match outcome {
                Ok(value) => well.push(value),
                Err(error) => failed.push((device, error)),
            }
        }
        let mut lost = Vec::new();
        while !failed.is_empty() {
            lost.extend(failed.iter().map(|(device, _)| *device));
            failed = self.give_up(failed)?;
        }
        if self.members.len() < usize::from(self.head.spread.data) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok((well, lost))
    }

    /// Begins an epoch without these. Returns those that fail at that.
    fn give_up(&mut self, failed: Vec<(u8, io::Error)>) -> io::Result<Vec<(u8, io::Error)>> {
        for (device, error) in &failed {
            let gone = self
                .members
                .extract_if(.., |member| member.device == *device);
            let outsider = |member: Member| Outsider::given_up(member.name, error);
            self.outsiders.extend(gone.map(outsider));
        }
        if self.members.len() < usize::from(self.head.spread.data) {
            let (_, error) = failed.into_iter().next().expect("somebody failed");
            return Err(error);
        }
        self.head.begin_epoch(self.present());
        Ok(self.write_heads())
    }

    /// Takes a device in where there is a place: from an epoch on that is durable when it returns. Returns who failed.
    pub fn take_in(
        &mut self,
        name: String,
        io: Directory,
        stock: Stock,
    ) -> Result<Vec<u8>, JournalError> {
        let is_free = |number: &u8| self.members.iter().all(|member| member.device != *number);
        let spread = self.head.spread;
        let number = (0..spread.devices()).find(is_free);
        let number = number.ok_or_else(|| JournalError::Unusable(NO_PLACE.to_owned()))?;
        let parts = (name.clone(), io, stock);
        let sizes = Sizes {
            segment_bytes: self.head.segment_bytes,
            frame_bytes_max: self.frame_bytes_max,
        };
        let member = recruit(spread, sizes, parts, number)?;
        self.members.push(member);
        self.outsiders.retain(|outsider| outsider.name != name);
        self.head.begin_epoch(self.present());
        self.head.joined[usize::from(number)] = self.head.membership.epoch;
        let failed = self.write_heads();
        let failed = failed
            .into_iter()
            .map(|(device, error)| (device, Err(error)));
        let (_, lost) = self.settle::<()>(failed.collect())?;
        Ok(lost)
    }

    /// Goes on without a device. Returns who else failed at that.
    pub fn dismiss(&mut self, name: &str) -> Result<Vec<u8>, JournalError> {
        if self.head.spread.devices() == 1 {
            return Err(JournalError::Unusable(ALONE.to_owned()));
        }
        if self.members.len() <= usize::from(self.head.spread.data) {
            return Err(JournalError::Unusable(NEEDED.to_owned()));
        }
        let member = self.members.iter().find(|member| member.name == name);
        let member = member.ok_or_else(|| JournalError::Unusable(NO_MEMBER.to_owned()))?;
        let replaced = io::Error::other(REPLACED);
        let (_, lost) = self.settle::<()>(vec![(member.device, Err(replaced))])?;
        Ok(lost)
    }

    /// Another one has its place.
    pub fn strike_off(&mut self, name: &str) {
        self.outsiders.retain(|outsider| outsider.name != name);
    }

    fn present(&self) -> u64 {
        let members = self.members.iter();
        members.fold(0, |set, member| set | 1 << member.device)
    }

    /// Makes the epoch durable on all members. Returns those that fail.
    fn write_heads(&mut self) -> Vec<(u8, io::Error)> {
        let head = self.head.clone();
        let outcomes = self.on_each(|device| {
            let mut head = Head {
                device,
                ..head.clone()
            };
            move |device: &mut Device| {
                head.segments = segments::in_a_head(device.segments.count());
                identity::write(&*device.io, &head)?;
                segments::first_file(&*device.io)
            }
        });
        let (mut files, mut failed) = (Vec::new(), Vec::new());
        for (device, outcome) in outcomes {
            match outcome {
                Ok(file) => files.push((device, file)),
                Err(error) => failed.push((device, error)),
            }
        }
        // An epoch that is on no device never was.
        if !files.is_empty() {
            self.note_epoch(files);
        }
        failed
    }

    fn note_epoch(&self, files: Vec<(u8, FileIdentity)>) {
        let membership = &self.head.membership;
        let note = |own: &mut Testimony| {
            own.epoch = membership.epoch;
            own.files = files;
        };
        if let Err(error) = self.witness.note(&membership.journal, note) {
            tracing::warn!("noting the journal's epoch in the cache directory: {error}");
        }
    }
}
