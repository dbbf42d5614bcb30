//! How sure one can be of what rounds say, which differ by chance.

/// How much a round counts for the noise.
const LEARNING: f64 = 0.2;
const NOISE_FIRST: f64 = 0.1;
/// Two normal values differ by so many standard deviations on average.
const MEAN_DIFFERENCE: f64 = 1.128;
/// A mean is known when it is off by no more than this, likely.
const KNOWN_TO: f64 = 0.05;

/// The mean of some rounds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mean {
    sum: f64,
    pub rounds: u32,
}

impl Mean {
    pub fn add(&mut self, worth: f64) {
        self.sum += worth;
        self.rounds += 1;
    }

    pub fn value(&self) -> f64 {
        self.sum / f64::from(self.rounds.max(1))
    }
}

/// The standard deviation of a round, as a part of its worth.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noise {
    deviation: f64,
    last: Option<f64>,
}

impl Default for Noise {
    fn default() -> Self {
        Self {
            deviation: NOISE_FIRST,
            last: None,
        }
    }
}

impl Noise {
    /// A round like the one before it.
    pub fn add(&mut self, worth: f64) {
        if let Some(last) = self.last.replace(worth) {
            let mean = ((last + worth) / 2.0).abs().max(1.0);
            let difference = ((worth - last).abs() / mean).min(1.0);
            self.deviation += (difference / MEAN_DIFFERENCE - self.deviation) * LEARNING;
        }
    }

    /// Something is another way from here on.
    pub fn interrupt(&mut self) {
        self.last = None;
    }

    /// How many rounds make a mean that one can compare with.
    pub fn rounds_to_know(&self) -> u32 {
        ((self.deviation / KNOWN_TO).powi(2) as u32).max(1)
    }

    /// How far the quotient of two means is off by chance.
    pub fn chance(&self, one: &Mean, other: &Mean) -> f64 {
        let part = |mean: &Mean| 1.0 / f64::from(mean.rounds.max(1));
        self.deviation * (part(one) + part(other)).sqrt()
    }
}
