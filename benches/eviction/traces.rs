//! Traces as sequences of entries asked for, generated: the shapes that policies differ on.

pub struct Trace {
    pub name: &'static str,
    /// Something is read once while something else is in use.
    pub is_scan: bool,
    /// The size of a cache that the trace is hard for; all entries have one block.
    pub cache_blocks: u64,
    pub ids: Vec<u64>,
}

impl Trace {
    /// Per cent of the requests that `hit`. What a scan asks for does not count: it is in the trace for what it does to the rest.
    pub fn hit_percent(&self, mut hit: impl FnMut(u64) -> bool) -> f64 {
        let (mut hits, mut counted) = (0, 0);
        for id in &self.ids {
            let is_hit = hit(*id);
            if !self.is_scan || *id < SCANNED {
                counted += 1;
                hits += u64::from(is_hit);
            }
        }
        100.0 * hits as f64 / f64::from(counted.max(1))
    }
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn shuffle(&mut self, ids: &mut [u64]) {
        for last in (1..ids.len()).rev() {
            ids.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

/// Ranks with probability proportional to 1 / rank^exponent.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(ranks: usize, exponent: f64) -> Self {
        let mut total = 0.0;
        let weights = (1..=ranks).map(|rank| {
            total += (rank as f64).powf(-exponent);
            total
        });
        Self(weights.collect())
    }

    fn draw(&self, dice: &mut Dice) -> u64 {
        let at = dice.unit() * self.0.last().copied().unwrap_or(0.0);
        self.0.partition_point(|sum| *sum <= at) as u64
    }
}

/// What is never asked for outside scans begins here.
const SCANNED: u64 = 1 << 40;
const POPULATION: usize = 20_000;
const CACHE_BLOCKS: u64 = 2000;

/// All traces, of about so many requests each.
pub fn all(requests: usize) -> Vec<Trace> {
    vec![
        scans("zipf with one-hit scans", requests, false),
        scans("zipf with scans that touch twice", requests, true),
        trace("zipf 0.9", zipf(requests)),
        trace("popularity shift", shift(requests)),
        epochs(requests),
        block_volume("as the MSR volumes", requests, &MSR),
        block_volume("as Tencent's block storage", requests, &TENCENT),
    ]
}

fn trace(name: &'static str, ids: Vec<u64>) -> Trace {
    Trace {
        name,
        is_scan: false,
        cache_blocks: CACHE_BLOCKS,
        ids,
    }
}

/// Between two scans of twice the cache as many requests of popular entries. What is touched twice is so at once, or a
/// few entries later.
fn scans(name: &'static str, requests: usize, twice: bool) -> Trace {
    const SCAN: u64 = 2 * CACHE_BLOCKS;
    let (mut dice, zipf) = (Dice(1), Zipf::new(POPULATION, 1.0));
    let (mut ids, mut scanned) = (Vec::new(), SCANNED);
    while ids.len() < requests {
        ids.extend((0..SCAN).map(|_| zipf.draw(&mut dice)));
        for id in scanned..scanned + SCAN {
            ids.push(id);
            if twice {
                ids.push(id - dice.below(8).min(id - scanned));
            }
        }
        scanned += SCAN;
    }
    Trace {
        is_scan: true,
        ..trace(name, ids)
    }
}

fn zipf(requests: usize) -> Vec<u64> {
    let (mut dice, zipf) = (Dice(2), Zipf::new(POPULATION, 0.9));
    (0..requests).map(|_| zipf.draw(&mut dice)).collect()
}

/// What is popular changes, a tenth of the population further, whenever twenty times the cache was asked for.
fn shift(requests: usize) -> Vec<u64> {
    let (mut dice, zipf) = (Dice(3), Zipf::new(POPULATION, 0.9));
    let draw = |number: usize| {
        let moved = number as u64 / (20 * CACHE_BLOCKS) * POPULATION as u64 / 10;
        (zipf.draw(&mut dice) + moved) % POPULATION as u64
    };
    (0..requests).map(draw).collect()
}

/// A training run: all of the data set in every epoch, each time in another order; half of it fits.
fn epochs(requests: usize) -> Trace {
    let mut dice = Dice(4);
    let mut order: Vec<u64> = (0..2 * CACHE_BLOCKS).collect();
    let mut ids = Vec::new();
    while ids.len() < requests {
        dice.shuffle(&mut order);
        ids.extend(&order);
    }
    trace("shuffled epochs", ids)
}

/// A block volume: popular blocks, runs of new ones, and what was asked for lately asked for again.
struct Volume {
    exponent: f64,
    /// Of the requests.
    new_part: f64,
    again_part: f64,
    /// Median distance of what is asked for again, in requests; the distances are log-normal.
    again_distance: f64,
    /// Requests for each of the popular blocks.
    requests_each: usize,
    run_length: u64,
}

/// The share of entries asked for once in a whole trace, and in a tenth of it, is as published for the two collections
/// (Yang and others, SOSP 2023, table 1): 0.56 and 0.74 for MSR Cambridge, 0.25 and 0.73 for Tencent CBS.
const MSR: Volume = Volume {
    exponent: 0.8,
    new_part: 0.14,
    again_part: 0.05,
    again_distance: 300.0,
    requests_each: 9,
    run_length: 64,
};
const TENCENT: Volume = Volume {
    exponent: 0.6,
    new_part: 0.025,
    again_part: 0.02,
    again_distance: 400.0,
    requests_each: 5,
    run_length: 16,
};

fn block_volume(name: &'static str, requests: usize, volume: &Volume) -> Trace {
    let population = requests / volume.requests_each;
    let (mut dice, zipf) = (Dice(5), Zipf::new(population, volume.exponent));
    let (mut ids, mut new): (Vec<u64>, u64) = (Vec::new(), SCANNED);
    while ids.len() < requests {
        let kind = dice.unit();
        // A run brings many requests at once.
        let new_runs = volume.new_part / volume.run_length as f64;
        if kind < new_runs {
            ids.extend(new..new + volume.run_length);
            new += volume.run_length;
        } else if kind < new_runs + volume.again_part && !ids.is_empty() {
            let distance = volume.again_distance * (1.5 * normal(&mut dice)).exp();
            let back = (distance as usize).clamp(1, ids.len());
            ids.push(ids[ids.len() - back]);
        } else {
            ids.push(zipf.draw(&mut dice));
        }
    }
    Trace {
        cache_blocks: population as u64 / 10,
        ..trace(name, ids)
    }
}

/// Standard normal, by the central limit.
fn normal(dice: &mut Dice) -> f64 {
    (0..12).map(|_| dice.unit()).sum::<f64>() - 6.0
}
