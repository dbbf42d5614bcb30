//! Which calls a rule hits, and the calls that hang.

use crate::protocol::{Action, Operation, Rule};
use crate::schedule::Job;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What all matching rules together do to one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    pub errno: Option<i32>,
    pub hang_on_rule: Option<u64>,
    pub delay: Duration,
    pub short_bytes: Option<usize>,
    pub flip_bits: bool,
}

#[derive(Default)]
pub struct Rules {
    /// Spares the path lookup of every call while there are no rules.
    present: AtomicBool,
    state: Mutex<State>,
    hung: Mutex<Vec<(u64, Job)>>,
}

#[derive(Default)]
struct State {
    next_id: u64,
    rules: BTreeMap<u64, Active>,
    hits: BTreeMap<u64, u64>,
}

struct Active {
    rule: Rule,
    matched_calls: u64,
    hit_calls: u64,
    random: u64,
}

impl Rules {
    pub fn add(&self, rule: Rule) -> u64 {
        let mut state = self.state.lock();
        state.next_id += 1;
        let id = state.next_id;
        state.rules.insert(
            id,
            Active {
                random: rule.seed,
                rule,
                matched_calls: 0,
                hit_calls: 0,
            },
        );
        self.present.store(true, Ordering::SeqCst);
        id
    }

    pub fn remove(&self, id: u64) -> bool {
        let mut state = self.state.lock();
        let found = state.rules.remove(&id).is_some();
        self.present
            .store(!state.rules.is_empty(), Ordering::SeqCst);
        found
    }

    pub fn clear(&self) {
        let mut state = self.state.lock();
        state.rules.clear();
        self.present.store(false, Ordering::SeqCst);
    }

    pub fn decide(&self, operation: Operation, path: impl FnOnce() -> String) -> Effects {
        let mut effects = Effects::default();
        if !self.present.load(Ordering::SeqCst) {
            return effects;
        }
        let path = path();
        let mut state = self.state.lock();
        let State { rules, hits, .. } = &mut *state;
        for (id, active) in rules.iter_mut() {
            if active.hits(operation, &path) {
                *hits.entry(*id).or_default() += 1;
                effects.add(active.rule.action, *id);
            }
        }
        effects
    }

    /// Keeps a call until it is released.
    pub fn hang(&self, rule: u64, job: Job) {
        self.hung.lock().push((rule, job));
    }

    /// Takes out the calls that hang on one rule, or all.
    pub fn take_hung(&self, rule: Option<u64>) -> Vec<Job> {
        let mut hung = self.hung.lock();
        let (taken, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut *hung)
            .into_iter()
            .partition(|(id, _)| rule.is_none_or(|rule| rule == *id));
        *hung = kept;
        taken.into_iter().map(|(_, job)| job).collect()
    }

    pub fn hung_calls(&self) -> u64 {
        self.hung.lock().len() as u64
    }

    pub fn hits(&self) -> BTreeMap<u64, u64> {
        self.state.lock().hits.clone()
    }

    pub fn reset_hits(&self) {
        self.state.lock().hits.clear();
    }
}

impl Active {
    fn hits(&mut self, operation: Operation, path: &str) -> bool {
        let rule = &self.rule;
        if rule.operation.is_some_and(|wanted| wanted != operation)
            || !glob_matches(rule.path.as_bytes(), path.as_bytes())
        {
            return false;
        }
        self.matched_calls += 1;
        if self.matched_calls <= rule.skip_calls
            || rule
                .limit_calls
                .is_some_and(|limit| self.hit_calls >= limit)
        {
            return false;
        }
        if rule.probability < 1.0 && uniform(&mut self.random) >= rule.probability {
            return false;
        }
        self.hit_calls += 1;
        true
    }
}

impl Effects {
    fn add(&mut self, action: Action, rule: u64) {
        match action {
            Action::Errno(errno) => self.errno = Some(errno),
            Action::Hang => self.hang_on_rule = Some(rule),
            Action::DelayMs(delay_ms) => self.delay += Duration::from_millis(delay_ms),
            Action::ShortBytes(bytes) => {
                self.short_bytes = Some(self.short_bytes.map_or(bytes, |old| old.min(bytes)));
            }
            Action::FlipBits => self.flip_bits = true,
        }
    }

    /// How many of `wanted_bytes` a transfer may move.
    pub fn cut(&self, wanted_bytes: usize) -> usize {
        self.short_bytes
            .map_or(wanted_bytes, |limit| wanted_bytes.min(limit))
    }

    /// Spoils bytes read at `offset`, always the same ones.
    pub fn spoil(&self, offset: u64, bytes: &mut [u8]) {
        if self.flip_bits {
            let first = (4096 - offset % 4096) % 4096;
            for byte in bytes.iter_mut().skip(first as usize).step_by(4096) {
                *byte ^= 0x10;
            }
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014), as a number in 0..1.
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}

/// `*` is any run of bytes, `?` any one. Goes back to the last star only, so it is linear in practice.
fn glob_matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at_pattern, mut at_text) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at_text < text.len() {
        match pattern.get(at_pattern) {
            Some(b'*') => {
                star = Some((at_pattern, at_text));
                at_pattern += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[at_text] => {
                at_pattern += 1;
                at_text += 1;
            }
            _ => match star {
                Some((star_pattern, star_text)) => {
                    at_pattern = star_pattern + 1;
                    at_text = star_text + 1;
                    star = Some((star_pattern, at_text));
                }
                None => return false,
            },
        }
    }
    pattern[at_pattern..].iter().all(|byte| *byte == b'*')
}
