//! The devices of a journal as one: what a batch is written to, and what becomes of those that fail.
//!
//! What always holds: nothing is acknowledged without a member, before an epoch without it is durable on all others
//! (`epochs`); a device that was given up is never asked again before it is taken in anew; fewer members than data shards
//! is the end.

use super::device::{Device, Payload, Worker};
use super::frame::{FRAME_HEADER_BYTES, FrameHeader, Progress, SegmentLife, Sequence};
use super::identity::Head;
use super::reading::Place;
use super::segments::ShardPlace;
use super::stripe::Stripe;
use super::witness::Witness;
use crate::io::Buffer;
use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is to be written: the payload with room for a header before it.
pub struct Batch {
    pub sequence: Sequence,
    pub buffer: Buffer,
    pub payload_bytes: usize,
}

/// One that takes part.
pub struct Member {
    pub device: u8,
    /// For messages.
    pub name: String,
    pub worker: Worker,
}

/// One that does not take part, or not any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outsider {
    pub name: String,
    pub why: String,
}

/// What [`Devices`] are made of.
pub struct DevicesParts {
    /// Of an epoch that is durable on all members.
    pub head: Head,
    pub members: Vec<Member>,
    pub outsiders: Vec<Outsider>,
    pub is_unvouched: bool,
    pub timeout: Duration,
    pub frame_bytes_max: u64,
    pub witness: Arc<Witness>,
}

/// What a device has written of a batch, and how much room it has.
type Written = (u8, io::Result<(Option<ShardPlace>, u64)>);

/// See the module.
pub struct Devices {
    /// As of the present epoch; each device has it with its own number.
    pub(super) head: Head,
    pub(super) members: Vec<Member>,
    pub(super) outsiders: Vec<Outsider>,
    is_unvouched: bool,
    /// Who takes longer than all others is given up.
    timeout: Duration,
    /// Frames are no longer.
    pub(super) frame_bytes_max: u64,
    /// Keeps the epoch where the members alone cannot tell that they are not the last.
    pub(super) witness: Arc<Witness>,
    /// What the last header says, and the last one that is durable.
    said: Progress,
    on_disk: Progress,
}

/// What of the devices anybody may know.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct DeviceFigures {
    pub members: Vec<String>,
    pub outsiders: Vec<Outsider>,
    /// An earlier life ended without a word, and nobody else knows whether its last batches are all here.
    pub is_unvouched: bool,
    pub data_shards: u8,
    pub parity_shards: u8,
    pub epoch: u64,
    /// So many more may be lost, as far as every batch has all its shards.
    pub tolerated: u64,
}

/// What a commit has come to.
pub struct Committed {
    pub place: Option<(Sequence, Place)>,
    /// What the last durable header says.
    pub on_disk: Progress,
    pub room_batches: u64,
    /// Given up meanwhile.
    pub lost: Vec<u8>,
}

impl Batch {
    fn payload(&self) -> &[u8] {
        &self.buffer[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + self.payload_bytes]
    }
}

impl Devices {
    pub fn new(parts: DevicesParts) -> Self {
        Self {
            head: parts.head,
            members: parts.members,
            outsiders: parts.outsiders,
            is_unvouched: parts.is_unvouched,
            timeout: parts.timeout,
            frame_bytes_max: parts.frame_bytes_max,
            witness: parts.witness,
            said: Progress::default(),
            on_disk: Progress::default(),
        }
    }

    pub fn journal(&self) -> [u8; 16] {
        self.head.membership.journal
    }

    pub fn segment_bytes(&self) -> u64 {
        self.head.segment_bytes
    }

    pub fn figures(&self) -> DeviceFigures {
        let spread = self.head.spread;
        DeviceFigures {
            members: self
                .members
                .iter()
                .map(|member| member.name.clone())
                .collect(),
            outsiders: self.outsiders.clone(),
            is_unvouched: self.is_unvouched,
            data_shards: spread.data,
            parity_shards: spread.parity,
            epoch: self.head.membership.epoch,
            tolerated: self.members.len().saturating_sub(usize::from(spread.data)) as u64,
        }
    }

    /// Writes a batch, if there is one, and syncs, if that is asked for. Blocks on the disks, on one that hangs no longer
    /// than the timeout. What is not needed any more, as durable headers say, is given back.
    pub fn commit(
        &mut self,
        batch: Option<Batch>,
        progress: Progress,
        synced: bool,
    ) -> io::Result<Committed> {
        let (about, outcomes) = match batch {
            Some(batch) => {
                self.said = progress;
                let stripe = self.head.spread.stripe(batch.payload());
                let about = (batch.sequence, stripe);
                (Some(about), self.write(batch, stripe, progress, synced))
            }
            None => (None, self.sync_all(synced)),
        };
        let (ended, mut lost) = self.settle(outcomes)?;
        let (shards, mut rooms): (Vec<_>, Vec<_>) = ended.into_iter().unzip();
        if synced {
            let is_release = self.said.trimmed > self.on_disk.trimmed;
            self.on_disk = self.said;
            if is_release {
                let (released, failed) = self.release()?;
                rooms = released;
                lost.extend(failed);
            }
        }
        let place = |(sequence, stripe)| {
            let mut shards: Vec<ShardPlace> = shards.into_iter().flatten().collect();
            // Copies of a batch are read in this order.
            shards.sort_by_key(|shard| shard.index);
            (sequence, Place { stripe, shards })
        };
        Ok(Committed {
            place: about.map(place),
            on_disk: self.on_disk,
            room_batches: rooms.into_iter().min().unwrap_or(0),
            lost,
        })
    }

    fn sync_all(&mut self, synced: bool) -> Vec<Written> {
        let frame_bytes = self.frame_bytes_max;
        self.on_each(|_| {
            move |device: &mut Device| {
                if synced {
                    device.segments.sync()?;
                }
                Ok((None, device.segments.room_frames(frame_bytes)))
            }
        })
    }

    fn write(
        &mut self,
        batch: Batch,
        stripe: Stripe,
        progress: Progress,
        synced: bool,
    ) -> Vec<Written> {
        let (sequence, spread) = (batch.sequence, self.head.spread);
        let header = FrameHeader {
            membership: self.head.membership,
            index: 0,
            stripe,
            life: SegmentLife(0),
            sequence,
            progress,
            payload_checksum: 0,
        };
        if spread.devices() == 1 {
            return self.write_alone(batch, header, synced);
        }
        let numbers: Vec<u8> = self.members.iter().map(|member| member.device).collect();
        let chosen = spread.chosen(&stripe, sequence.0, &numbers);
        let (payload_bytes, batch) = (batch.payload_bytes, Arc::new(batch.buffer));
        let frame_bytes = self.frame_bytes_max;
        self.on_each(|number| {
            let is_chosen = chosen.contains(&number);
            let payload = is_chosen.then(|| Payload(batch.clone(), payload_bytes));
            let index = spread.shard_of(&stripe, sequence.0, number);
            move |device: &mut Device| {
                let header = FrameHeader { index, ..header };
                let shard = payload.map(|payload| device.write_shard(header, payload.bytes()));
                let shard = shard.transpose()?;
                if synced {
                    device.segments.sync()?;
                }
                Ok((shard, device.segments.room_frames(frame_bytes)))
            }
        })
    }

    /// Without a copy, and on this thread.
    fn write_alone(&mut self, batch: Batch, header: FrameHeader, synced: bool) -> Vec<Written> {
        let mut batch = Some(batch.buffer);
        let frame_bytes = self.frame_bytes_max;
        self.on_each(|_| {
            let batch = batch.take();
            move |device: &mut Device| {
                let mut frame = batch.expect("there is one device");
                let shard = device.segments.write(header, &mut frame)?;
                if synced {
                    device.segments.sync()?;
                }
                Ok((Some(shard), device.segments.room_frames(frame_bytes)))
            }
        })
    }

    /// Gives back what is not needed. Returns how much room each device has, and who failed.
    fn release(&mut self) -> io::Result<(Vec<u64>, Vec<u8>)> {
        let (trimmed, frame_bytes) = (self.on_disk.trimmed, self.frame_bytes_max);
        let outcomes = self.on_each(|_| {
            move |device: &mut Device| {
                device.segments.release(trimmed);
                Ok(device.segments.room_frames(frame_bytes))
            }
        });
        self.settle(outcomes)
    }

    /// How many batches of any size are sure to find room.
    pub fn room_batches(&mut self) -> io::Result<u64> {
        let (rooms, _) = self.release()?;
        Ok(rooms.into_iter().min().unwrap_or(0))
    }

    /// Prepares a piece of a segment on each device. Returns whether there was anything to do, and who failed.
    pub fn prewrite_some(&mut self) -> io::Result<(bool, Vec<u8>)> {
        let outcomes = self.on_each(|_| |device: &mut Device| device.segments.prewrite_some());
        let (begun, lost) = self.settle(outcomes)?;
        Ok((begun.contains(&true), lost))
    }

    /// Has every member do something at once. Those who hang while enough others are done come back as timed out.
    pub(super) fn on_each<T: Send + 'static, W>(
        &mut self,
        mut make: impl FnMut(u8) -> W,
    ) -> Vec<(u8, io::Result<T>)>
    where
        W: FnOnce(&mut Device) -> io::Result<T> + Send + 'static,
    {
        let (sender, ended) = unbounded();
        for member in &mut self.members {
            let work = make(member.device);
            member.worker.ask(member.device, work, &sender);
        }
        drop(sender);
        self.gather(&ended)
    }

    fn gather<T>(&self, ended: &Receiver<(u8, io::Result<T>)>) -> Vec<(u8, io::Result<T>)> {
        let deadline = Instant::now() + self.timeout;
        let mut outcomes = Vec::with_capacity(self.members.len());
        while outcomes.len() < self.members.len() {
            match ended.recv_deadline(deadline) {
                Ok(outcome) => outcomes.push(outcome),
                Err(RecvTimeoutError::Timeout) if !self.is_enough(&outcomes) => {
                    // Without it there is nothing to go on with.
                    outcomes.extend(ended.recv());
                }
                Err(_) => break,
            }
        }
        let told: Vec<u8> = outcomes.iter().map(|(device, _)| *device).collect();
        let silent = self
            .members
            .iter()
            .filter(|member| !told.contains(&member.device));
        let timed_out = |member: &Member| (member.device, Err(io::ErrorKind::TimedOut.into()));
        outcomes.extend(silent.map(timed_out).collect::<Vec<_>>());
        outcomes
    }

    fn is_enough<T>(&self, outcomes: &[(u8, io::Result<T>)]) -> bool {
        let well = outcomes.iter().filter(|(_, outcome)| outcome.is_ok());
        well.count() >= usize::from(self.head.spread.data)
    }
}
