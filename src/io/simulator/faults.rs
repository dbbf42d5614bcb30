//! What is to go wrong: a plan of rules, and the injector that asks it at every operation.

use super::dice::Dice;
use std::mem::discriminant;
use std::ops::Range;
use std::time::Duration;

/// One way to go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A read answers EIO. In a fill: the destination is not concerned, use the source for that.
    ReadError,
    /// A write, fill or change of size answers EIO; of the data an unknown part was written.
    WriteError,
    /// A sync answers EIO. What was pending is dropped from the cache as clean, an unknown part of
    /// it on the disk; the next sync of the same file succeeds (the kernel behaves so: "fsyncgate").
    SyncError,
    /// Every operation of the device answers EIO and does nothing: a disk that is gone. Once the rule
    /// is, it comes back as it was. Path prefixes do not narrow it.
    DeviceGone,
    /// Opening, creating, removing, renaming or listing answers EIO and does nothing.
    NameError,
    /// `read_at` and `read_cached` move at least one byte but fewer than asked, as pread(2) may.
    ShortRead,
    /// The data of a write lands at another place of the same file when it reaches the disk.
    MisdirectedWrite,
    /// The data of a write is acknowledged, synced, and never on the disk.
    LostWrite,
    /// A read finds one durable bit of its range flipped, for good.
    BitFlip,
    /// A submitted read or fill ends up to this much later than others. In deterministic mode it is
    /// overtaken by others instead of by time.
    Delay { at_most: Duration },
}

/// A fault, and which operations it strikes: all of them, unless narrowed.
#[derive(Clone, Debug)]
pub struct FaultRule {
    fault: Fault,
    probability: f64,
    device: Option<String>,
    path_prefix: String,
    operations: Range<u64>,
    strikes_left: u64,
}

impl FaultRule {
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            probability: 1.0,
            device: None,
            path_prefix: String::new(),
            operations: 0..u64::MAX,
            strikes_left: u64::MAX,
        }
    }

    /// Strikes each operation with this probability, 0.0 to 1.0.
    pub fn with_probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    /// Only on this device.
    pub fn on_device(mut self, name: &str) -> Self {
        self.device = Some(name.to_owned());
        self
    }

    /// Only files and directories whose present path begins so.
    pub fn under(mut self, path_prefix: &str) -> Self {
        self.path_prefix = path_prefix.to_owned();
        self
    }

    /// Only operations with these numbers (see [`super::Simulation::operations`]).
    pub fn during(mut self, operations: Range<u64>) -> Self {
        self.operations = operations;
        self
    }

    /// At most this often.
    pub fn at_most(mut self, strikes: u64) -> Self {
        self.strikes_left = strikes;
        self
    }

    fn concerns(&self, fault: Fault, device: &str, path: &str, operation: u64) -> bool {
        self.strikes_left > 0
            && discriminant(&self.fault) == discriminant(&fault)
            && self.device.as_deref().is_none_or(|only| only == device)
            && (fault == Fault::DeviceGone || path.starts_with(&self.path_prefix))
            && self.operations.contains(&operation)
    }
}

/// Everything that is to go wrong. The default plan is a perfect disk of 1 TiB.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    rules: Vec<FaultRule>,
    capacities: Vec<(Option<String>, u64)>,
}

impl FaultPlan {
    pub fn none() -> Self {
        Self::default()
    }

    pub fn with(mut self, rule: FaultRule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Every device holds this many bytes, counted in 4 KiB blocks of file data; then ENOSPC.
    pub fn with_capacity_bytes(mut self, capacity_bytes: u64) -> Self {
        self.capacities.push((None, capacity_bytes));
        self
    }

    /// One device holds this many bytes.
    pub fn with_device_capacity_bytes(mut self, device: &str, capacity_bytes: u64) -> Self {
        self.capacities
            .push((Some(device.to_owned()), capacity_bytes));
        self
    }

    /// A capacity given for the device by name goes before one given for all.
    pub(super) fn capacity_bytes(&self, device: &str) -> u64 {
        const UNPLANNED_BYTES: u64 = 1 << 40;
        let named = |wanted: Option<&str>| {
            let mut found = self.capacities.iter().rev();
            found
                .find(|(name, _)| name.as_deref() == wanted)
                .map(|(_, bytes)| *bytes)
        };
        named(Some(device))
            .or_else(|| named(None))
            .unwrap_or(UNPLANNED_BYTES)
    }
}

/// Asks the plan, rolls the dice, counts. A plan without a rule for a fault rolls nothing for it, so
/// that adding a rule of another kind leaves a seed's other decisions alone as far as can be.
pub(super) struct Injector {
    pub plan: FaultPlan,
    pub dice: Dice,
    /// The number of the operation under way, counted from 1 over all devices.
    pub operation: u64,
    pub strikes: u64,
}

impl Injector {
    pub fn new(seed: u64, plan: FaultPlan) -> Self {
        Self {
            plan,
            dice: Dice::new(seed),
            operation: 0,
            strikes: 0,
        }
    }

    /// The planned fault of this kind that strikes the operation under way, if one does.
    pub fn strike(&mut self, fault: Fault, device: &str, path: &str) -> Option<Fault> {
        for rule in &mut self.plan.rules {
            if rule.concerns(fault, device, path, self.operation)
                && self.dice.chance(rule.probability)
            {
                rule.strikes_left -= 1;
                self.strikes += 1;
                return Some(rule.fault);
            }
        }
        None
    }

    pub fn strikes(&mut self, fault: Fault, device: &str, path: &str) -> bool {
        self.strike(fault, device, path).is_some()
    }
}
