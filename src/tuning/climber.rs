//! A value that is found by trying: a step up or down its ladder, kept if what arrives then is worth it. Of two that do as
//! well the smaller one is taken: less stands in queues, and less is fetched in vain. A trial goes on until what it shows is
//! no chance.

use super::noise::{Mean, Noise};
use super::round::Round;
use super::{Decision, Knob, Reason};

/// A larger value has to be worth more by this.
const BETTER: f64 = 1.05;
/// A smaller one may lose this in one step, and this on all the way down.
const AS_GOOD: f64 = 0.97;
const AS_GOOD_IN_ALL: f64 = 0.95;
/// So much better, and the next step is a long one.
const MUCH_BETTER: f64 = 1.2;
/// Standard errors that are no chance.
const SURE: f64 = 2.0;
/// Rounds of a trial that shows nothing, and rounds before it that count.
const TRIAL_ROUNDS_MAX: u32 = 12;
/// Rounds between two trials that have shown nothing: more each time.
const PAUSE_ROUNDS_MIN: u32 = 8;
const PAUSE_ROUNDS_MAX: u32 = 256;
/// The load is another one when its worth differs so much from what it was when the last trial ended.
const ANOTHER_LOAD: f64 = 1.4;
/// How much a round counts for what the load is worth now.
const LEARNING: f64 = 0.25;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Direction {
    Up,
    Down,
}

impl Direction {
    fn turned(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}

/// Whether the load would feel another value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pressure {
    pub up: bool,
    pub down: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Climber {
    knob: Knob,
    ladder: Vec<u64>,
    at: usize,
    direction: Direction,
    /// Of the next trial.
    long_step: bool,
    /// Trials in a row that led nowhere; two are all there are.
    in_vain: u32,
    /// Rounds to wait.
    pause: u32,
    next_pause: u32,
    trial: Option<Trial>,
    /// Since something was changed last.
    rest: Mean,
    noise: Noise,
    /// What was lost on the way down.
    lost: f64,
    /// When it came to rest, and by now.
    worth_at_rest: Option<f64>,
    worth_now: f64,
}

#[derive(Clone, Copy, Debug)]
struct Trial {
    from: usize,
    before: Mean,
    shown: Mean,
    /// What arrives first set off before it.
    is_fresh: bool,
}

/// Powers of two, and where it is counted what lies between them.
fn ladder(knob: Knob, (min, max): (u64, u64)) -> Vec<u64> {
    let mut steps = vec![max];
    let mut value = min;
    while value < max {
        steps.push(value);
        if knob == Knob::PiecesInFlight && value * 3 / 2 < max && value > 2 {
            steps.push(value * 3 / 2);
        }
        value *= 2;
    }
    steps.sort_unstable();
    steps.dedup();
    steps
}

impl Climber {
    /// From `value` on, which is within the bounds.
    pub fn new(knob: Knob, bounds: (u64, u64), value: u64) -> Self {
        let ladder = ladder(knob, bounds);
        let at = ladder.iter().position(|step| *step >= value);
        Self {
            knob,
            at: at.unwrap_or(ladder.len() - 1),
            ladder,
            direction: Direction::Up,
            long_step: true,
            in_vain: 0,
            pause: 1,
            next_pause: PAUSE_ROUNDS_MIN,
            trial: None,
            rest: Mean::default(),
            noise: Noise::default(),
            lost: 1.0,
            worth_at_rest: None,
            worth_now: 0.0,
        }
    }

    pub fn value(&self) -> u64 {
        self.ladder[self.at]
    }

    pub fn is_trying(&self) -> bool {
        self.trial.is_some()
    }

    /// A value was changed, this one or another.
    pub fn forget_rest(&mut self) {
        self.rest = Mean::default();
        self.noise.interrupt();
        self.pause = self.pause.max(1);
    }

    /// Another value is better elsewhere: so may this one be.
    pub fn reconsider(&mut self) {
        if self.trial.is_none() {
            self.in_vain = 0;
            self.pause = 0;
        }
    }

    /// A round in which nothing was tried.
    pub fn rest(&mut self, round: &Round) {
        self.pause = self.pause.saturating_sub(1);
        let worth = round.worth();
        self.noise.add(worth);
        if self.rest.rounds == TRIAL_ROUNDS_MAX {
            self.rest = Mean::default();
        }
        self.rest.add(worth);
        self.worth_now += (worth - self.worth_now) * LEARNING;
        let Some(before) = self.worth_at_rest else {
            return self.note_rest();
        };
        let is_another =
            self.worth_now > before * ANOTHER_LOAD || self.worth_now * ANOTHER_LOAD < before;
        if is_another {
            self.begin_anew();
        }
    }

    /// What this load is worth where it came to rest.
    fn note_rest(&mut self) {
        if self.pause > 0 && self.rest.rounds >= TRIAL_ROUNDS_MAX / 2 {
            self.worth_at_rest = Some(self.rest.value());
            self.worth_now = self.rest.value();
        }
    }

    fn begin_anew(&mut self) {
        self.worth_at_rest = None;
        self.lost = 1.0;
        self.in_vain = 0;
        self.long_step = true;
        self.pause = 0;
        self.next_pause = PAUSE_ROUNDS_MIN;
    }

    /// Begins a trial, if it is time and the load would feel it.
    pub fn start(&mut self, pressure: Pressure) -> Option<Decision> {
        if self.pause > 0 || self.rest.rounds < self.noise.rounds_to_know().min(TRIAL_ROUNDS_MAX) {
            return None;
        }
        let to = match self.next_step(self.direction, pressure) {
            Some(to) => to,
            None if self.in_vain > 0 => {
                self.come_to_rest();
                return None;
            }
            None => {
                let turned = self.direction.turned();
                let to = self.next_step(turned, pressure)?;
                self.direction = turned;
                to
            }
        };
        let from = std::mem::replace(&mut self.at, to);
        self.trial = Some(Trial {
            from,
            before: self.rest,
            shown: Mean::default(),
            is_fresh: true,
        });
        Some(self.decision(from, self.reason_to_try()))
    }

    fn next_step(&self, direction: Direction, pressure: Pressure) -> Option<usize> {
        let step = if self.long_step { 2 } else { 1 };
        let last = self.ladder.len() - 1;
        match direction {
            Direction::Up if pressure.up && self.at < last => Some((self.at + step).min(last)),
            Direction::Down if pressure.down => {
                let below = self.at.checked_sub(1)?;
                Some(below.saturating_sub(step - 1))
            }
            Direction::Up | Direction::Down => None,
        }
    }

    fn reason_to_try(&self) -> Reason {
        match (self.knob, self.direction) {
            (Knob::Window, Direction::Up) => Reason::StreamsWait,
            (Knob::Window, Direction::Down) => Reason::Waste,
            (Knob::PiecesInFlight | Knob::PieceBytes, Direction::Up) => Reason::Crowded,
            (Knob::PiecesInFlight | Knob::PieceBytes, Direction::Down) => Reason::FewerMayDo,
        }
    }

    fn decision(&self, from: usize, reason: Reason) -> Decision {
        Decision {
            knob: self.knob,
            from: self.ladder[from],
            to: self.value(),
            reason,
        }
    }

    /// A round of a trial.
    pub fn judge(&mut self, round: &Round) -> Option<Decision> {
        let mut trial = self.trial.take()?;
        if std::mem::take(&mut trial.is_fresh) {
            self.trial = Some(trial);
            return None;
        }
        trial.shown.add(round.worth());
        let worth = trial.shown.value();
        let ratio = worth / trial.before.value().max(1.0);
        let wanted = match self.direction {
            Direction::Up => BETTER,
            Direction::Down => AS_GOOD,
        };
        let chance = self.noise.chance(&trial.before, &trial.shown);
        if (ratio - wanted).abs() < SURE * chance && trial.shown.rounds < TRIAL_ROUNDS_MAX {
            self.trial = Some(trial);
            return None;
        }
        let is_kept = match self.direction {
            // More has to be better, by chance or not.
            Direction::Up => ratio > wanted + chance,
            Direction::Down => ratio > wanted && ratio * self.lost > AS_GOOD_IN_ALL,
        };
        match is_kept {
            true => Some(self.keep(ratio)),
            false => Some(self.go_back(trial, ratio)),
        }
    }

    fn keep(&mut self, ratio: f64) -> Decision {
        self.long_step = ratio > MUCH_BETTER;
        // What lies behind is known.
        self.in_vain = 1;
        if self.long_step {
            self.next_pause = PAUSE_ROUNDS_MIN;
        }
        self.worth_at_rest = None;
        self.lost = (self.lost * ratio).min(1.0);
        let reason = match self.direction {
            Direction::Up => Reason::Better(ratio),
            Direction::Down => Reason::NoWorse(ratio),
        };
        self.decision(self.at, reason)
    }

    fn go_back(&mut self, trial: Trial, ratio: f64) -> Decision {
        let tried = std::mem::replace(&mut self.at, trial.from);
        let reason = match self.direction {
            Direction::Up => Reason::NotBetter(ratio),
            Direction::Down => Reason::Worse(ratio),
        };
        self.pause = 1;
        if self.long_step {
            // The same with a short step.
            self.long_step = false;
        } else {
            self.in_vain += 1;
            self.direction = self.direction.turned();
        }
        if self.in_vain >= 2 {
            self.come_to_rest();
        }
        self.decision(tried, reason)
    }

    fn come_to_rest(&mut self) {
        self.in_vain = 0;
        self.pause = self.next_pause;
        self.next_pause = (self.next_pause * 2).min(PAUSE_ROUNDS_MAX);
        self.worth_at_rest = None;
    }
}
