//! The control loop against the best fixed values, in the simulator.

use super::simulator::{Load, MIB, Outcome, SAMPLE_SECONDS, Way, World};
use super::{Bounds, Decision, Knob, PIECE_BYTES, Reason, Sample, Tuner, Values};
use std::collections::BTreeMap;

const SEEDS: u64 = 20;
/// While it is measured.
const DECISIONS_MAX: usize = 20;
/// A fixed setting shows its worth in so long; the loop has some minutes to find its own, and is then measured.
const FIXED_SECONDS: f64 = 20.0;
const FINDING_SECONDS: f64 = 360.0;
const MEASURED_SECONDS: f64 = 180.0;
const BOUNDS: Bounds = Bounds {
    pieces_in_flight_max: 128,
    window_bytes_max: 64 << 20,
};

/// A far server that works on so many calls at once.
fn small_reads() -> Load {
    Load {
        bounds: BOUNDS,
        way: Way {
            latency_s: 0.04,
            bytes_per_second: 1.2e9,
            server_slots: 16,
            service_s: 0.02,
            thrashing: 0.3,
            piece_cost_s: 0.00006,
        },
        small_readers: 96,
        streams: 0,
        stream_bytes_per_second: 0.0,
        stopping_part: 0.0,
        file_bytes_max: 0.0,
    }
}

/// Programs that read files from the front, and most of them not to the end.
fn streaming() -> Load {
    Load {
        bounds: BOUNDS,
        way: Way {
            latency_s: 0.03,
            bytes_per_second: 110e6,
            server_slots: 16,
            service_s: 0.001,
            thrashing: 0.2,
            piece_cost_s: 0.0002,
        },
        small_readers: 0,
        streams: 3,
        stream_bytes_per_second: 30e6,
        stopping_part: 0.8,
        file_bytes_max: 96.0 * MIB,
    }
}

/// Both on a thin link.
fn mixed() -> Load {
    Load {
        bounds: BOUNDS,
        way: Way {
            latency_s: 0.01,
            bytes_per_second: 30e6,
            server_slots: 16,
            service_s: 0.004,
            thrashing: 0.3,
            piece_cost_s: 0.0001,
        },
        small_readers: 6,
        streams: 2,
        stream_bytes_per_second: 60e6,
        stopping_part: 0.5,
        file_bytes_max: 128.0 * MIB,
    }
}

fn loads() -> [(&'static str, Load); 3] {
    [
        ("small reads on a far server", small_reads()),
        ("streaming", streaming()),
        ("mixed", mixed()),
    ]
}

fn grid(load: &Load) -> Vec<Values> {
    let windows: &[u64] = match load.streams {
        0 => &[65536],
        _ => &[1024, 2048, 4096, 8192, 16384, 32768, 65536],
    };
    let mut all = Vec::new();
    for pieces_in_flight in [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128] {
        for piece_bytes in [128 << 10, 256 << 10, 512 << 10, 1 << 20] {
            for window in windows {
                all.push(Values {
                    pieces_in_flight,
                    piece_bytes,
                    window_bytes: window << 10,
                });
            }
        }
    }
    all
}

fn fixed_worth(load: &Load, values: Values, seed: u64) -> f64 {
    let mut world = World::new(*load, values, seed);
    world.run(FIXED_SECONDS / 4.0);
    world.outcome = Outcome::default();
    world.run(FIXED_SECONDS);
    world.outcome.worth()
}

/// The best fixed setting and the worst one, with the worth of the best.
fn sweep(load: &Load, seed: u64) -> (Values, f64, Values) {
    let mut worths: Vec<(Values, f64)> = grid(load)
        .into_iter()
        .map(|values| (values, fixed_worth(load, values, seed)))
        .collect();
    worths.sort_by(|one, other| one.1.total_cmp(&other.1));
    let (worst, _) = worths[0];
    let (best, worth) = worths[worths.len() - 1];
    (best, worth, worst)
}

#[derive(Default)]
struct Tuned {
    worth: f64,
    /// Seconds spent with each value, while it was measured.
    times: BTreeMap<(&'static str, u64), f64>,
    decisions: usize,
    shown: Vec<String>,
}

fn tuned(load: &Load, from: Values, seed: u64) -> Tuned {
    let mut tuner = Tuner::beginning_at(load.bounds, from);
    let mut world = World::new(*load, tuner.values(), seed + 1000);
    let mut tuned = Tuned::default();
    let mut now = 0.0;
    while now < FINDING_SECONDS + MEASURED_SECONDS {
        let sample = world.run(SAMPLE_SECONDS);
        now += SAMPLE_SECONDS;
        let decision = tuner.on_sample(&sample);
        world.values = tuner.values();
        expect_bounds(load.bounds, world.values);
        if let Some(decision) = decision {
            tuned.shown.push(format!("{now:.1} {decision}"));
        }
        if now <= FINDING_SECONDS {
            world.outcome = Outcome::default();
            continue;
        }
        tuned.decisions += usize::from(decision.is_some());
        for (name, value) in named(world.values) {
            *tuned.times.entry((name, value)).or_default() += SAMPLE_SECONDS;
        }
    }
    tuned.worth = world.outcome.worth();
    tuned
}

fn named(values: Values) -> [(&'static str, u64); 3] {
    [
        ("pieces", values.pieces_in_flight),
        ("size", values.piece_bytes),
        ("window", values.window_bytes),
    ]
}

fn expect_bounds(bounds: Bounds, values: Values) {
    assert!((2..=bounds.pieces_in_flight_max).contains(&values.pieces_in_flight));
    assert!(PIECE_BYTES.contains(&values.piece_bytes));
    assert!(values.window_bytes <= bounds.window_bytes_max);
}

/// The part of the time that each value stood where it stood most.
fn steadiness(tuned: &Tuned) -> f64 {
    let of = |name: &str| {
        let times = tuned.times.iter().filter(|((knob, _), _)| *knob == name);
        times.map(|(_, seconds)| *seconds).fold(0.0, f64::max) / MEASURED_SECONDS
    };
    ["pieces", "size", "window"]
        .into_iter()
        .map(of)
        .fold(1.0, f64::min)
}

/// All seeds with CACHEFS_LONG=1.
fn seeds() -> std::ops::RangeInclusive<u64> {
    match std::env::var_os("CACHEFS_LONG").is_some_and(|value| value == "1") {
        true => 1..=SEEDS,
        false => 1..=SEEDS / 5,
    }
}

#[test]
fn from_the_worst_setting_it_comes_near_the_best_and_stays_there() {
    for (name, load) in loads() {
        for seed in seeds() {
            let (best, worth, worst) = sweep(&load, seed);
            let tuned = tuned(&load, worst, seed);
            let (part, steady) = (tuned.worth / worth, steadiness(&tuned));
            println!(
                "{name}, seed {seed}: {part:.3} of the best, steady {steady:.2}, {} decisions",
                tuned.decisions
            );
            assert!(
                part >= 0.9 && steady >= 0.7 && tuned.decisions <= DECISIONS_MAX,
                "{name}, seed {seed}: {part:.3} from {worst:?}, steady {steady:.2}, {best:?} is best\n{}",
                tuned.shown.join("\n")
            );
        }
    }
}

#[test]
fn a_load_that_touches_no_limit_is_left_alone() {
    let mut load = small_reads();
    load.small_readers = 4;
    let mut tuner = Tuner::new(load.bounds);
    let mut world = World::new(load, tuner.values(), 1);
    for _ in 0..200 {
        let sample = world.run(SAMPLE_SECONDS);
        assert_eq!(tuner.on_sample(&sample), None);
    }
    assert_eq!(tuner.values(), Tuner::new(load.bounds).values());
}

#[test]
fn another_load_is_found_out_and_tuned_for() {
    let slow = Way {
        service_s: 0.1,
        ..small_reads().way
    };
    let mut tuner = Tuner::new(BOUNDS);
    let load = Load {
        small_readers: 200,
        ..small_reads()
    };
    let mut world = World::new(load, tuner.values(), 1);
    let mut settled = Vec::new();
    for way in [small_reads().way, slow, small_reads().way] {
        world.change_way(way);
        for _ in 0..600 {
            let sample = world.run(SAMPLE_SECONDS);
            tuner.on_sample(&sample);
            world.values = tuner.values();
        }
        settled.push(tuner.values().pieces_in_flight);
    }
    // Four times the time at the server: four times as few do.
    assert!(settled[1] * 2 <= settled[0], "{settled:?}");
    assert!(settled[2] >= settled[1] * 2, "{settled:?}");
}

#[test]
fn nothing_is_tried_without_readahead_or_with_one_value_to_choose() {
    let bounds = Bounds {
        pieces_in_flight_max: 1,
        window_bytes_max: 0,
    };
    let mut tuner = Tuner::new(bounds);
    let sample = Sample {
        seconds: 1.0,
        pieces: 100,
        bytes: 100 << 20,
        wasted_bytes: 50 << 20,
        crowded_pieces: 100,
        bounded_windows: 10,
        bandwidth_bytes_per_second: 1e9,
        ..Sample::default()
    };
    for _ in 0..100 {
        assert_eq!(tuner.on_sample(&sample), None);
    }
    assert_eq!(tuner.values(), bounds.values());
}

#[test]
fn a_piece_is_small_on_a_thin_way_and_stays_where_the_bandwidth_decides_for_neither() {
    let mut tuner = Tuner::new(BOUNDS);
    let mut sizes = Vec::new();
    for megabytes_per_second in [1000.0, 4.0, 30.0, 20.0, 28.0, 200.0] {
        let sample = Sample {
            seconds: 1.0,
            pieces: 100,
            bytes: 10 << 20,
            full_pieces: 100,
            bandwidth_bytes_per_second: megabytes_per_second * 1e6,
            ..Sample::default()
        };
        (0..4).for_each(|_| drop(tuner.on_sample(&sample)));
        sizes.push(tuner.values().piece_bytes >> 10);
    }
    assert_eq!(sizes, [1024, 128, 128, 128, 128, 1024]);
}

#[test]
fn decisions_are_told_in_words() {
    let tried = Decision {
        knob: Knob::Window,
        from: 64 << 20,
        to: 16 << 20,
        reason: Reason::Waste,
    };
    assert_eq!(
        tried.to_string(),
        "readahead 64.0 MiB -> 16.0 MiB: tried, as much is fetched ahead in vain"
    );
    let kept = Decision {
        knob: Knob::PiecesInFlight,
        from: 12,
        to: 12,
        reason: Reason::Better(1.14),
    };
    assert_eq!(kept.to_string(), "pieces at once 12: kept: +14 %");
}
