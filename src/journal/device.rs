//! One device of a journal, and the thread that works for it: a disk that hangs takes nobody else along.

use super::Directory;
use super::frame::{FRAME_HEADER_BYTES, FrameHeader};
use super::segments::{Segments, ShardPlace};
use crate::io::Buffer;
use crate::io::buffer::BufferPool;
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::io;
use std::sync::Arc;

/// A journal directory at work.
pub struct Device {
    pub io: Directory,
    pub segments: Segments,
    /// Frames are put together here, where a batch goes to several devices.
    frame: Option<Buffer>,
}

/// What is asked of a device; says itself how it ended.
pub type Job = Box<dyn FnOnce(&mut Device) + Send>;

/// Who does the jobs of a device, one after the other.
pub enum Worker {
    /// Whoever asks: there is no other device to go on with.
    Caller(Box<Device>),
    Thread(Sender<Job>),
}

impl Device {
    pub fn new(io: Directory, segments: Segments) -> Self {
        Self {
            io,
            segments,
            frame: None,
        }
    }

    /// Writes the shard of a batch that the header names. The payload is left as it is.
    pub fn write_shard(&mut self, header: FrameHeader, payload: &[u8]) -> io::Result<ShardPlace> {
        let frame_bytes = header.bytes() as usize;
        let mut frame = match self.frame.take().filter(|frame| frame.len() >= frame_bytes) {
            Some(frame) => frame,
            None => aligned(frame_bytes.next_power_of_two())?,
        };
        let end = FRAME_HEADER_BYTES + header.stripe.shard_bytes as usize;
        let shard = &mut frame[FRAME_HEADER_BYTES..end];
        header.stripe.fill(header.index, payload, shard);
        let written = self.segments.write(header, &mut frame);
        self.frame = Some(frame);
        written
    }
}

fn aligned(length_bytes: usize) -> io::Result<Buffer> {
    let pool = BufferPool::new(1, length_bytes, false)?;
    Ok(pool.try_take().expect("nobody else has this pool"))
}

impl Worker {
    /// On a thread of its own, with memory for frames of `frame_bytes_max`, which ends when the worker is dropped, and with its last job.
    pub fn start(device: Device, number: u8, frame_bytes_max: u64) -> io::Result<Self> {
        let (sender, jobs) = unbounded();
        std::thread::Builder::new()
            .name(format!("journal-dev-{number}"))
            .spawn(move || work(device, &jobs, frame_bytes_max as usize))?;
        Ok(Self::Thread(sender))
    }

    /// Does the work, or has it done; `ended` gets what came of it.
    pub fn ask<T: Send + 'static>(
        &mut self,
        number: u8,
        work: impl FnOnce(&mut Device) -> io::Result<T> + Send + 'static,
        ended: &Sender<(u8, io::Result<T>)>,
    ) {
        match self {
            Self::Caller(device) => {
                let _ = ended.send((number, work(device)));
            }
            Self::Thread(jobs) => {
                let ended = ended.clone();
                let job = move |device: &mut Device| {
                    // Nobody listens any more to a device that was given up.
                    let _ = ended.send((number, work(device)));
                };
                // Its thread ends after all who ask.
                let _ = jobs.send(Box::new(job));
            }
        }
    }
}

fn work(mut device: Device, jobs: &Receiver<Job>, frame_bytes_max: usize) {
    let io = device.io.clone();
    let mut work = |frame| {
        device.frame = frame;
        for job in jobs {
            job(&mut device);
        }
    };
    if let Err(error) = io.as_device_thread(frame_bytes_max, &mut |frame| work(Some(frame))) {
        tracing::warn!(%error, "no memory for what a journal's device writes");
        work(None);
    }
}

/// A batch that several devices take their shards from.
pub struct Payload(pub Arc<Buffer>, pub usize);

impl Payload {
    pub fn bytes(&self) -> &[u8] {
        &self.0[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + self.1]
    }
}
