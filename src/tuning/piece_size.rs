//! How large the pieces of a fill are: as large as can be, since each costs some calls, but on a thin way so small that what
//! somebody waits for does not stand long behind one that is under way.

use super::round::Round;
use super::{Decision, Knob, PIECE_BYTES, Reason};

/// On the wire.
const PIECE_SECONDS_MAX: f64 = 0.01;
/// A bandwidth between two sizes decides for neither.
const CLEARLY: f64 = 1.25;
/// Rounds that agree.
const ROUNDS_ENOUGH: u32 = 2;

#[derive(Clone, Debug)]
pub(super) struct PieceSize {
    bytes: u64,
    rounds_for_another: u32,
}

impl PieceSize {
    pub fn new(bytes: u64) -> Self {
        Self {
            bytes,
            rounds_for_another: 0,
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn on_round(&mut self, round: &Round) -> Option<Decision> {
        let wanted = self.wanted(round.bandwidth_bytes_per_second());
        if !round.shows_bandwidth() || wanted == self.bytes {
            self.rounds_for_another = 0;
            return None;
        }
        self.rounds_for_another += 1;
        if self.rounds_for_another < ROUNDS_ENOUGH {
            return None;
        }
        self.rounds_for_another = 0;
        let from = std::mem::replace(&mut self.bytes, wanted);
        let seconds = from as f64 / round.bandwidth_bytes_per_second();
        Some(Decision {
            knob: Knob::PieceBytes,
            from,
            to: wanted,
            reason: Reason::PieceTakes { seconds },
        })
    }

    fn wanted(&self, bandwidth_bytes_per_second: f64) -> u64 {
        let fitting = bandwidth_bytes_per_second * PIECE_SECONDS_MAX;
        let (smallest, largest) = (*PIECE_BYTES.start(), *PIECE_BYTES.end());
        let mut wanted = self.bytes;
        while wanted < largest && (wanted * 2) as f64 * CLEARLY <= fitting {
            wanted *= 2;
        }
        while wanted > smallest && wanted as f64 > fitting * CLEARLY {
            wanted /= 2;
        }
        wanted
    }
}
