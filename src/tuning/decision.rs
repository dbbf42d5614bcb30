//! What was decided, and why, in words.

use crate::types::bytes_in_words;
use std::fmt::{self, Display};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Knob {
    PiecesInFlight,
    PieceBytes,
    Window,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Reason {
    /// Others had to wait for a place.
    Crowded,
    /// Streams had to wait for their bytes.
    StreamsWait,
    /// Much was fetched ahead in vain.
    Waste,
    /// Whether fewer carry as much.
    FewerMayDo,
    /// It is worth so many times what it was before the trial.
    Better(f64),
    NotBetter(f64),
    NoWorse(f64),
    Worse(f64),
    /// A piece takes so long at this bandwidth.
    PieceTakes {
        seconds: f64,
    },
}

/// A value that is set; the same as before where a trial has shown that it is to stay.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Decision {
    pub knob: Knob,
    pub from: u64,
    pub to: u64,
    pub reason: Reason,
}

impl Decision {
    /// The value has moved, and stays there for now.
    pub fn is_for_good(&self) -> bool {
        match self.reason {
            Reason::Better(_) | Reason::NoWorse(_) | Reason::PieceTakes { .. } => true,
            Reason::Crowded
            | Reason::StreamsWait
            | Reason::Waste
            | Reason::FewerMayDo
            | Reason::NotBetter(_)
            | Reason::Worse(_) => false,
        }
    }
}

impl Knob {
    fn shown(self, value: u64) -> String {
        match self {
            Self::PiecesInFlight => value.to_string(),
            Self::PieceBytes | Self::Window => bytes_in_words(value),
        }
    }
}

impl Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PiecesInFlight => "pieces at once",
            Self::PieceBytes => "piece size",
            Self::Window => "readahead",
        })
    }
}

impl Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let change = |ratio: &f64| (ratio - 1.0) * 100.0;
        match self {
            Self::Crowded => f.write_str("tried, as others wait for a place"),
            Self::StreamsWait => f.write_str("tried, as streams wait for their bytes"),
            Self::Waste => f.write_str("tried, as much is fetched ahead in vain"),
            Self::FewerMayDo => f.write_str("tried, as fewer may carry as much"),
            Self::Better(ratio) => write!(f, "kept: {:+.0} %", change(ratio)),
            Self::NoWorse(ratio) => write!(f, "kept, as it does as well: {:+.0} %", change(ratio)),
            Self::NotBetter(ratio) => {
                write!(f, "back, as it is not better: {:+.0} %", change(ratio))
            }
            Self::Worse(ratio) => write!(f, "back, as it is worse: {:+.0} %", change(ratio)),
            Self::PieceTakes { seconds } => write!(
                f,
                "such a piece takes {:.1} ms on this way",
                seconds * 1000.0
            ),
        }
    }
}

impl Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (knob, to) = (self.knob, self.knob.shown(self.to));
        match self.from == self.to {
            true => write!(f, "{knob} {to}: {}", self.reason),
            false => {
                let from = self.knob.shown(self.from);
                write!(f, "{knob} {from} -> {to}: {}", self.reason)
            }
        }
    }
}
