//! A way to a server, and programs that read over it, with a clock of their own: for finding out what the control loop
//! makes of them.

use super::{Bounds, Sample, Values};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

pub const SAMPLE_SECONDS: f64 = 0.5;
pub const MIB: f64 = 1048576.0;
const SMALL_BYTES: f64 = 16384.0;
/// What the pacing of readahead has in flight at least, and times what fills the way.
const AHEAD_PIECES_MIN: usize = 4;
const GAIN: f64 = 2.0;

/// The way to the server, and the server.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub latency_s: f64,
    pub bytes_per_second: f64,
    /// Calls that the server works on at once, and how long it takes over each.
    pub server_slots: usize,
    pub service_s: f64,
    /// How much longer it takes with twice as many calls waiting as it has slots.
    pub thrashing: f64,
    /// What a piece costs this machine.
    pub piece_cost_s: f64,
}

#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub bounds: Bounds,
    pub way: Way,
    /// Readers of small records anywhere.
    pub small_readers: usize,
    /// Readers of files from front to end, or until they have seen enough.
    pub streams: usize,
    pub stream_bytes_per_second: f64,
    /// This part of them stops somewhere.
    pub stopping_part: f64,
    pub file_bytes_max: f64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Piece {
    Small {
        reader: usize,
    },
    Ahead {
        stream: usize,
        generation: u32,
        start: f64,
        bytes: f64,
    },
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Event {
    Arrives(Piece),
    /// A reader asks for its next record.
    Asks {
        reader: usize,
    },
    /// A stream has used the bytes up to its next stop.
    Used {
        stream: usize,
        generation: u32,
    },
}

#[derive(Clone, Copy, PartialEq)]
struct At(f64, u64);

impl Eq for At {}

impl PartialOrd for At {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for At {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

#[derive(Clone, Default)]
struct Stream {
    generation: u32,
    stops_at: f64,
    file_bytes: f64,
    read: f64,
    /// Read on up to here while it works.
    reading_to: f64,
    is_working: bool,
    planned: f64,
    arrived_to: f64,
    arrived: BinaryHeap<Reverse<At>>,
    arrived_bytes: f64,
    queue: VecDeque<(f64, f64)>,
}

/// What it was all worth, as `Round` counts it, but by what was really used.
#[derive(Clone, Copy, Default, Debug)]
pub struct Outcome {
    pub used_bytes: f64,
    pub wasted_bytes: f64,
    pub small_reads: u64,
    pub seconds: f64,
}

impl Outcome {
    pub fn worth(&self) -> f64 {
        let small = self.small_reads as f64 * (64.0 * 1024.0 + SMALL_BYTES);
        (self.used_bytes + small - self.wasted_bytes) / self.seconds
    }
}

pub struct World {
    load: Load,
    pub values: Values,
    now: f64,
    events: BinaryHeap<Reverse<(At, usize)>>,
    happens: Vec<Event>,
    free: Vec<usize>,
    sequence: u64,
    dice: u64,
    demand: VecDeque<usize>,
    streams: Vec<Stream>,
    turn: usize,
    in_flight: u64,
    ahead_in_flight: usize,
    ahead_bytes_in_flight: f64,
    machine_free: f64,
    slots: BinaryHeap<Reverse<At>>,
    link_free: f64,
    sample: Sample,
    pub outcome: Outcome,
}

impl World {
    pub fn new(load: Load, values: Values, seed: u64) -> Self {
        let mut world = Self {
            load,
            values,
            now: 0.0,
            events: BinaryHeap::new(),
            happens: Vec::new(),
            free: Vec::new(),
            sequence: 0,
            dice: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            demand: VecDeque::new(),
            streams: vec![Stream::default(); load.streams],
            turn: 0,
            in_flight: 0,
            ahead_in_flight: 0,
            ahead_bytes_in_flight: 0.0,
            machine_free: 0.0,
            slots: BinaryHeap::new(),
            link_free: 0.0,
            sample: Sample::default(),
            outcome: Outcome::default(),
        };
        for slot in 0..load.way.server_slots as u64 {
            world.slots.push(Reverse(At(0.0, slot)));
        }
        for reader in 0..load.small_readers {
            world.happen(0.0, Event::Asks { reader });
        }
        for stream in 0..load.streams {
            world.open(stream);
        }
        world
    }

    pub fn change_way(&mut self, way: Way) {
        self.load.way = way;
    }

    /// Between 0 and 1 (xorshift64*).
    fn chance(&mut self) -> f64 {
        self.dice ^= self.dice >> 12;
        self.dice ^= self.dice << 25;
        self.dice ^= self.dice >> 27;
        let bits = self.dice.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11;
        bits as f64 / (1u64 << 53) as f64
    }

    fn happen(&mut self, after: f64, event: Event) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.happens[slot] = event;
                slot
            }
            None => {
                self.happens.push(event);
                self.happens.len() - 1
            }
        };
        self.sequence += 1;
        let at = At(self.now + after, self.sequence);
        self.events.push(Reverse((at, slot)));
    }

    /// Goes on for so long; what was measured meanwhile.
    pub fn run(&mut self, seconds: f64) -> Sample {
        let until = self.now + seconds;
        self.depart();
        while let Some(Reverse((at, slot))) = self.events.peek().copied() {
            if at.0 > until {
                break;
            }
            self.events.pop();
            self.now = at.0;
            self.free.push(slot);
            let event = self.happens[slot];
            self.handle(event);
            self.depart();
        }
        self.now = until;
        self.outcome.seconds += seconds;
        self.sample.seconds = seconds;
        self.sample.bandwidth_bytes_per_second = self.load.way.bytes_per_second;
        std::mem::take(&mut self.sample)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Asks { reader } => self.demand.push_back(reader),
            Event::Arrives(piece) => self.arrive(piece),
            Event::Used { stream, generation } => {
                if self.streams[stream].generation == generation {
                    self.used(stream);
                }
            }
        }
    }

    fn depart(&mut self) {
        loop {
            let is_ready = !self.demand.is_empty() || self.ahead_is_ready();
            if self.in_flight >= self.values.pieces_in_flight {
                self.sample.crowded_pieces += u64::from(is_ready);
                return;
            }
            if let Some(reader) = self.demand.pop_front() {
                self.send(Piece::Small { reader }, SMALL_BYTES);
            } else if self.ahead_is_ready() {
                self.send_ahead();
            } else {
                return;
            }
        }
    }

    fn ahead_is_ready(&self) -> bool {
        let way = &self.load.way;
        let fills = GAIN * way.bytes_per_second * (way.latency_s + way.service_s);
        let has_room =
            self.ahead_in_flight < AHEAD_PIECES_MIN || self.ahead_bytes_in_flight < fills;
        has_room && self.streams.iter().any(|stream| !stream.queue.is_empty())
    }

    fn send_ahead(&mut self) {
        let count = self.streams.len();
        let turns = (0..count).map(|turn| (self.turn + turn) % count);
        let next = turns
            .into_iter()
            .find(|next| !self.streams[*next].queue.is_empty());
        let stream = next.expect("one is ready");
        self.turn = stream + 1;
        let (start, bytes) = self.streams[stream]
            .queue
            .pop_front()
            .expect("it is not empty");
        let generation = self.streams[stream].generation;
        self.ahead_in_flight += 1;
        self.ahead_bytes_in_flight += bytes;
        self.send(
            Piece::Ahead {
                stream,
                generation,
                start,
                bytes,
            },
            bytes,
        );
    }

    fn send(&mut self, piece: Piece, bytes: f64) {
        let way = self.load.way;
        self.in_flight += 1;
        self.machine_free = self.machine_free.max(self.now) + way.piece_cost_s;
        let at_server = self.machine_free + way.latency_s / 2.0;
        let Reverse(slot) = self.slots.pop().expect("a server has a slot");
        let begins = slot.0.max(at_server);
        let crowd = (self.in_flight as f64 / way.server_slots as f64 - 1.0).max(0.0);
        let jitter = 0.5 + self.chance();
        let service = way.service_s * jitter * (1.0 + way.thrashing * crowd);
        let done = begins + service;
        self.slots.push(Reverse(At(done, slot.1)));
        self.link_free = self.link_free.max(done) + bytes / way.bytes_per_second;
        let arrives = self.link_free + way.latency_s / 2.0;
        self.happen(arrives - self.now, Event::Arrives(piece));
    }

    fn arrive(&mut self, piece: Piece) {
        self.in_flight -= 1;
        self.sample.pieces += 1;
        match piece {
            Piece::Small { reader } => {
                self.sample.bytes += SMALL_BYTES as u64;
                self.sample.demand_pieces += 1;
                self.outcome.small_reads += 1;
                let thinks = 0.002 * self.chance();
                self.happen(thinks, Event::Asks { reader });
            }
            Piece::Ahead {
                stream,
                generation,
                start,
                bytes,
            } => {
                self.ahead_in_flight -= 1;
                self.ahead_bytes_in_flight -= bytes;
                self.sample.bytes += bytes as u64;
                let is_full = bytes as u64 >= self.values.piece_bytes;
                self.sample.full_pieces += u64::from(is_full);
                if self.streams[stream].generation != generation {
                    return self.waste(bytes);
                }
                let state = &mut self.streams[stream];
                state.arrived_bytes += bytes;
                state.arrived.push(Reverse(At(start, bytes as u64)));
                while let Some(Reverse(first)) = state.arrived.peek().copied()
                    && first.0 <= state.arrived_to
                {
                    state.arrived_to = first.0 + first.1 as f64;
                    state.arrived.pop();
                }
                self.read_on(stream);
            }
        }
    }

    fn waste(&mut self, bytes: f64) {
        self.sample.wasted_bytes += bytes as u64;
        self.outcome.wasted_bytes += bytes;
    }

    fn open(&mut self, stream: usize) {
        let file_bytes = (self.load.file_bytes_max * (0.1 + 0.9 * self.chance())).round();
        let part = 0.1 + 0.8 * self.chance();
        let stops = self.chance() < self.load.stopping_part;
        let state = &mut self.streams[stream];
        *state = Stream {
            generation: state.generation + 1,
            stops_at: if stops {
                (file_bytes * part).round()
            } else {
                file_bytes
            },
            file_bytes,
            ..Stream::default()
        };
        self.plan(stream);
    }

    /// Looks ahead as far as it may.
    fn plan(&mut self, stream: usize) {
        let piece = self.values.piece_bytes as f64;
        let window = self.values.window_bytes as f64;
        let state = &mut self.streams[stream];
        let end = (state.read + window).min(state.file_bytes);
        while state.planned < end {
            let to = ((state.planned / piece).floor() * piece + piece).min(state.file_bytes);
            state.queue.push_back((state.planned, to - state.planned));
            state.planned = to;
        }
    }

    fn read_on(&mut self, stream: usize) {
        let rate = self.load.stream_bytes_per_second;
        let state = &mut self.streams[stream];
        if state.is_working {
            return;
        }
        let to = state.arrived_to.min(state.read + MIB).min(state.stops_at);
        if to <= state.read {
            return;
        }
        state.is_working = true;
        state.reading_to = to;
        let (bytes, generation) = (to - state.read, state.generation);
        self.happen(bytes / rate, Event::Used { stream, generation });
    }

    fn used(&mut self, stream: usize) {
        let state = &mut self.streams[stream];
        self.outcome.used_bytes += state.reading_to - state.read;
        state.read = state.reading_to;
        state.is_working = false;
        if state.read >= state.stops_at {
            let unread = state.arrived_bytes - state.read;
            self.waste(unread.max(0.0));
            return self.open(stream);
        }
        if state.arrived_to <= state.read && state.planned < state.file_bytes {
            self.sample.bounded_windows += 1;
        }
        self.plan(stream);
        self.read_on(stream);
    }
}
