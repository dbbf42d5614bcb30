//! Disks in memory for tests: [`SimulatedDisk`] is [`Io`](super::Io), with a volatile cache and whatever
//! faults a plan asks for, repeatable from a 64-bit seed. Nothing in the daemon uses it.
//!
//! A [`Simulation`] is one machine with any number of devices. What always holds:
//! - where no fault is planned a device behaves as a directory on ext4 does, errors included;
//! - a change is pending until a sync that covers it has succeeded: `sync_data` covers the data and
//!   size of one file, a file's `sync_all` its modification time too, `sync_directory` the names in one directory, `sync_all` everything. (A new file's
//!   name is *not* covered by syncing the file: POSIX promises no more.)
//! - [`Simulation::crash`] is a power cut: a random part of what is pending is there afterwards,
//!   each 512-byte sector old or new for itself, sizes in order, names atomic each; what was durable
//!   stays. [`Simulation::kill`] is the end of the process: nothing is lost but open files.
//! - after either, every operation of the old life answers EIO until [`Simulation::restart`], and
//!   for the old life's disks and files for ever; submitted operations still end, with EIO;
//! - with [`Simulation::deterministic`] and one thread, a seed decides everything.
//!
//! - `dice`: random numbers from a seed; `faults`: plan and rules
//! - `content`: sparse bytes; `pending`: what reached the disk of what was written
//! - `names`: the two trees of names; `inode`: a file; `device`: all of it together, without
//!   locks; `transfer`: its reads and writes
//! - `disk`, `file`: `Io` and `IoFile`; `schedule`: when submitted operations end

mod content;
mod device;
mod dice;
mod disk;
mod faults;
mod file;
mod inode;
mod names;
mod pending;
mod schedule;
#[cfg(test)]
mod tests;
mod transfer;

use device::Device;
use faults::Injector;
use parking_lot::Mutex;
use schedule::Schedule;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

pub use dice::{Dice, seed_of_this_run};
pub use disk::SimulatedDisk;
pub use faults::{Fault, FaultPlan, FaultRule};

/// The simulated clock starts in 2023 and gains a millisecond with every operation.
const EPOCH_NS: i128 = 1_700_000_000 * 1_000_000_000;
const TICK_NS: i128 = 1_000_000;

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// One machine with simulated disks. Dropped, it ends like [`Simulation::kill`]; keep it for as long as its
/// disks are to work.
pub struct Simulation {
    core: Arc<Core>,
}

struct Core {
    state: Mutex<Machine>,
    schedule: Arc<Schedule>,
}

struct Machine {
    devices: BTreeMap<String, Device>,
    faults: Injector,
    /// Counts restarts; disks and files of another life are dead.
    life: u64,
    is_on: bool,
    crash_at: Option<u64>,
}

/// What an operation means for a crash planned at it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Done, then cut: the change may have reached the disk although nobody was told.
    Change,
    /// Cut before anything was promised.
    Sync,
}

impl Simulation {
    /// A machine whose submitted reads and fills end on threads of its own.
    pub fn new(seed: u64, faults: FaultPlan) -> Self {
        Self::build(seed, faults, false)
    }

    /// A machine without threads and, at first, without faults: submitted reads and fills end in
    /// [`Self::step`] and [`Self::run_until_idle`], on the calling thread.
    pub fn deterministic(seed: u64) -> Self {
        Self::build(seed, FaultPlan::none(), true)
    }

    fn build(seed: u64, faults: FaultPlan, deterministic: bool) -> Self {
        let mut dice = Dice::new(seed);
        let schedule = Schedule::new(dice.roll(), deterministic);
        let machine = Machine {
            devices: BTreeMap::new(),
            faults: Injector::new(dice.roll(), faults),
            life: 0,
            is_on: true,
            crash_at: None,
        };
        Self {
            core: Arc::new(Core {
                state: Mutex::new(machine),
                schedule,
            }),
        }
    }

    /// From now on this goes wrong, and nothing else. Capacities change with it.
    pub fn set_faults(&self, plan: FaultPlan) {
        let mut machine = self.core.state.lock();
        for (name, device) in &mut machine.devices {
            device.capacity_bytes = plan.capacity_bytes(name);
        }
        machine.faults.plan = plan;
    }

    /// The device of this name as the present life sees it; empty when first asked for.
    pub fn device(&self, name: &str) -> Arc<SimulatedDisk> {
        let mut machine = self.core.state.lock();
        let capacity_bytes = machine.faults.plan.capacity_bytes(name);
        machine
            .devices
            .entry(name.to_owned())
            .or_insert_with(|| Device::new(name, capacity_bytes));
        Arc::new(SimulatedDisk::new(self.core.clone(), name, machine.life))
    }

    /// How many operations there have been, on all devices and in all lives: everything but facts,
    /// space, `read_cached` and questions of exclusiveness. Submitted ones count when they end.
    pub fn operations(&self) -> u64 {
        self.core.state.lock().faults.operation
    }

    /// Cuts the power in the operation of this number (the next one is [`Self::operations`] + 1), which
    /// then answers EIO: a sync has made some of it durable, a change may have reached the disk.
    pub fn crash_at(&self, operation: u64) {
        self.core.state.lock().crash_at = Some(operation);
    }

    /// Whether the machine is on: false from a crash or kill to the restart.
    pub fn is_running(&self) -> bool {
        self.core.state.lock().is_on
    }

    /// How many planned faults have struck.
    pub fn strikes(&self) -> u64 {
        self.core.state.lock().faults.strikes
    }

    /// A power cut now. Without effect while the machine is off.
    pub fn crash(&self) {
        self.core.state.lock().cut_power();
    }

    /// The process dies now. Without effect while the machine is off.
    pub fn kill(&self) {
        self.core.state.lock().end_process();
    }

    /// On again, with a new life: ask [`Self::device`] for its disks. A planned crash that has not come
    /// is forgotten. On a running machine the same as [`Self::kill`] before.
    pub fn restart(&self) {
        let mut machine = self.core.state.lock();
        machine.end_process();
        machine.life += 1;
        machine.is_on = true;
        machine.crash_at = None;
    }

    /// Every device writes out and forgets its page cache, so that reads see what is on the disk. That
    /// makes nothing durable.
    pub fn drop_caches(&self) {
        let mut machine = self.core.state.lock();
        machine.devices.values_mut().for_each(Device::drop_pages);
    }

    /// Ends one submitted operation, chosen by the seed; false if none waits. For deterministic machines:
    /// where threads end them there is nothing to do, and the answer is false.
    pub fn step(&self) -> bool {
        self.core.schedule.step()
    }

    /// Ends submitted operations (with threads: waits for them) until there are none. Blocks.
    pub fn run_until_idle(&self) {
        self.core.schedule.run_until_idle();
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.kill();
        self.core.schedule.close();
    }
}

impl Machine {
    fn check_life(&self, life: u64) -> io::Result<()> {
        if self.is_on && self.life == life {
            Ok(())
        } else {
            Err(errno(libc::EIO))
        }
    }

    fn now_ns(&self) -> i128 {
        EPOCH_NS + i128::from(self.faults.operation) * TICK_NS
    }

    fn cut_power(&mut self) {
        if !self.is_on {
            return;
        }
        self.is_on = false;
        for device in self.devices.values_mut() {
            device.lose_power(&mut self.faults.dice);
        }
    }

    fn end_process(&mut self) {
        if !self.is_on {
            return;
        }
        self.is_on = false;
        self.devices.values_mut().for_each(Device::end_of_process);
    }
}

impl Core {
    /// One counted operation of a device, and the crash planned in it.
    fn operate<T>(
        &self,
        life: u64,
        device: &str,
        kind: Kind,
        operation: impl FnOnce(&mut Device, &mut Injector, i128) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut guard = self.state.lock();
        let machine = &mut *guard;
        machine.check_life(life)?;
        machine.faults.operation += 1;
        let cut = machine
            .crash_at
            .is_some_and(|number| number <= machine.faults.operation);
        if cut && kind == Kind::Sync {
            machine.cut_power();
            return Err(errno(libc::EIO));
        }
        let now_ns = machine.now_ns();
        let result = if machine.faults.strikes(Fault::DeviceGone, device, "") {
            Err(errno(libc::EIO))
        } else {
            let device = machine
                .devices
                .get_mut(device)
                .expect("a device stays once it was asked for");
            operation(device, &mut machine.faults, now_ns)
        };
        if cut {
            machine.cut_power();
            return Err(errno(libc::EIO));
        }
        result
    }

    /// Something that is not counted and never crashes.
    fn look<T>(
        &self,
        life: u64,
        device: &str,
        look: impl FnOnce(&mut Device, &mut Injector) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut guard = self.state.lock();
        let machine = &mut *guard;
        machine.check_life(life)?;
        let device = machine
            .devices
            .get_mut(device)
            .expect("a device stays once it was asked for");
        look(device, &mut machine.faults)
    }
}
