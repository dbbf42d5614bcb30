//! The parity of large batches at 4+2, beside ISA-L's, on one thread.

use std::time::Instant;

use anyhow::{Context, ensure};
use nfs_cachefs::journal::{Spread, Stripe};

use crate::Arguments;
use crate::isal::IsaL;
use crate::support::measure::{Meter, Work};
use crate::support::report::Report;

pub const OURS: &str = "journal";
pub const ISA_L: &str = "isa-l";
pub const SHARD_KIB: [usize; 2] = [64, 1024];
/// 4+2.
const DATA: usize = 4;
const PARITY: usize = 2;

pub fn workload(shard_kib: usize) -> String {
    format!("encode-{shard_kib}k")
}

pub fn run(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let mut isa_l = IsaL::find(DATA, PARITY);
    if isa_l.is_none() {
        println!("parity: nothing to compare with (apt-get install libisal2)");
    }
    for shard_kib in SHARD_KIB {
        let name = workload(shard_kib);
        if !arguments.wants(&name) {
            continue;
        }
        report.set_baseline(&name, ISA_L);
        let mut shards = Shards::of(shard_kib << 10);
        if let Some(isa_l) = &mut isa_l {
            shards.check(isa_l)?;
        }
        for _ in 0..arguments.rounds {
            if let Some(isa_l) = &mut isa_l {
                shards.measure(arguments, &name, ISA_L, report, |s| s.encode_by(isa_l))?;
            }
            shards.measure(arguments, &name, OURS, report, Shards::encode)?;
        }
        report.print_workload(&name);
    }
    Ok(())
}

/// A batch whose shards are full, and room for its parity.
struct Shards {
    stripe: Stripe,
    batch: Vec<u8>,
    parity: Vec<Vec<u8>>,
}

impl Shards {
    fn of(shard_bytes: usize) -> Self {
        let byte = |at: usize| (at.wrapping_mul(0x9e37_79b9) >> 16) as u8;
        let batch: Vec<u8> = (0..DATA * shard_bytes).map(byte).collect();
        let spread = Spread {
            data: DATA as u8,
            parity: PARITY as u8,
        };
        Self {
            stripe: spread.stripe(&batch),
            batch,
            parity: vec![vec![0; shard_bytes]; PARITY],
        }
    }

    fn encode(&mut self) {
        for (row, parity) in self.parity.iter_mut().enumerate() {
            self.stripe.fill((DATA + row) as u8, &self.batch, parity);
        }
    }

    fn encode_by(&mut self, isa_l: &mut IsaL) {
        let shard_bytes = self.batch.len() / DATA;
        let mut data: Vec<&mut [u8]> = self.batch.chunks_mut(shard_bytes).collect();
        isa_l.encode(&mut data, &mut self.parity);
    }

    fn check(&mut self, isa_l: &mut IsaL) -> anyhow::Result<()> {
        self.encode();
        let ours = self.parity.clone();
        self.encode_by(isa_l);
        ensure!(ours == self.parity, "the parity is not that of ISA-L");
        Ok(())
    }

    fn measure(
        &mut self,
        arguments: &Arguments,
        name: &str,
        subject: &'static str,
        report: &mut Report,
        mut encode: impl FnMut(&mut Self),
    ) -> anyhow::Result<()> {
        let meter = Meter::start(None, None)?;
        let end = Instant::now() + arguments.period() / 4;
        let mut operations = 0;
        while Instant::now() < end {
            encode(self);
            operations += 1;
        }
        let bytes = operations * self.batch.len() as u64;
        let work = Work {
            operations,
            bytes,
            latencies: None,
        };
        report.add(name, subject, meter.stop(&work).context("the counters")?);
        Ok(())
    }
}
