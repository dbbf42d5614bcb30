//! The control loop over how files are fetched: how many pieces are on their way at once, how large they are, and how far
//! readahead goes. Pure: fed with what was measured, answers with what to set and why; no clock, threads or files.
//!
//! What always holds: each value stays within its bounds; one is tried at a time, and goes back where it was unless what
//! arrives then shows that it is better there; a limit that the load does not touch is left alone; on a steady load trials
//! become rare.
//!
//! - `climber`: a value that is found by trying; `piece_size`: the one that follows from the bandwidth
//! - `round`: what was measured, put together until it tells something; `noise`: how sure one can be of that

mod climber;
mod decision;
mod noise;
mod piece_size;
mod round;
#[cfg(test)]
mod simulator;
#[cfg(test)]
mod tests;

use climber::{Climber, Pressure};
pub use decision::{Decision, Knob, Reason};
use piece_size::PieceSize;
use round::Round;
pub use round::Sample;

/// Smallest and largest piece that a fill is cut into.
pub const PIECE_BYTES: std::ops::RangeInclusive<u64> = 128 << 10..=1 << 20;
const PIECES_MIN: u64 = 2;
/// More of them have to prove that they carry more.
const PIECES_FIRST: u64 = 32;
/// A piece under way while another is read.
const WINDOW_BYTES_MIN: u64 = 1 << 20;

/// What the administrator allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    pub pieces_in_flight_max: u64,
    /// Zero: no readahead.
    pub window_bytes_max: u64,
}

/// What is in effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Values {
    pub pieces_in_flight: u64,
    pub piece_bytes: u64,
    pub window_bytes: u64,
}

impl Bounds {
    /// What holds without tuning.
    pub fn values(&self) -> Values {
        Values {
            pieces_in_flight: self.pieces_in_flight_max,
            piece_bytes: *PIECE_BYTES.end(),
            window_bytes: self.window_bytes_max,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Tuner {
    pieces: Climber,
    window: Climber,
    piece_size: PieceSize,
    round: Round,
    /// Whose trial is next, if both want one.
    window_is_next: bool,
}

impl Tuner {
    pub fn new(bounds: Bounds) -> Self {
        let most = bounds.values();
        let first = Values {
            pieces_in_flight: most.pieces_in_flight.min(PIECES_FIRST),
            ..most
        };
        Self::beginning_at(bounds, first)
    }

    fn beginning_at(bounds: Bounds, values: Values) -> Self {
        let pieces = (PIECES_MIN, bounds.pieces_in_flight_max);
        let window = (WINDOW_BYTES_MIN, bounds.window_bytes_max);
        Self {
            pieces: Climber::new(Knob::PiecesInFlight, pieces, values.pieces_in_flight),
            window: Climber::new(Knob::Window, window, values.window_bytes),
            piece_size: PieceSize::new(values.piece_bytes),
            round: Round::default(),
            window_is_next: false,
        }
    }

    pub fn values(&self) -> Values {
        Values {
            pieces_in_flight: self.pieces.value(),
            piece_bytes: self.piece_size.bytes(),
            window_bytes: self.window.value(),
        }
    }

    /// What to change after what was measured since the last time, if anything.
    pub fn on_sample(&mut self, sample: &Sample) -> Option<Decision> {
        self.round.add(sample);
        if !self.round.is_telling() {
            return None;
        }
        let round = std::mem::take(&mut self.round);
        let decision = match (self.pieces.is_trying(), self.window.is_trying()) {
            (true, _) => self.pieces.judge(&round),
            (_, true) => self.window.judge(&round),
            (false, false) => self.decide(&round),
        };
        if let Some(decision) = decision {
            self.note(&decision);
        }
        decision
    }

    fn note(&mut self, decision: &Decision) {
        if decision.is_for_good() && decision.knob != Knob::PiecesInFlight {
            self.pieces.reconsider();
        }
        if decision.is_for_good() && decision.knob != Knob::Window {
            self.window.reconsider();
        }
        self.pieces.forget_rest();
        self.window.forget_rest();
    }

    fn decide(&mut self, round: &Round) -> Option<Decision> {
        let resized = self.piece_size.on_round(round);
        self.pieces.rest(round);
        self.window.rest(round);
        if resized.is_some() {
            return resized;
        }
        let crowded = Pressure {
            up: round.is_crowded(),
            down: round.is_crowded(),
        };
        let windows = Pressure {
            up: round.has_bounded_windows(),
            down: round.has_waste(),
        };
        let (pieces, window) = (&mut self.pieces, &mut self.window);
        let decision = match self.window_is_next {
            true => window.start(windows).or_else(|| pieces.start(crowded)),
            false => pieces.start(crowded).or_else(|| window.start(windows)),
        }?;
        self.window_is_next = decision.knob == Knob::PiecesInFlight;
        Some(decision)
    }
}
