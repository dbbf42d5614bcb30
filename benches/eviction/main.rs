//! Hit ratios of the eviction policies on generated traces, beside those of an exact LRU.
//!
//!     cargo bench --bench eviction [-- REQUESTS]
//!
//! Prints per cent of requests that hit, those of scans left out, and the part of entries asked for once in a trace and in
//! a tenth of it, which tells how a policy is put to the test. Nothing is mounted and nothing read: the policies are the product's, the cache
//! is simulated. Writes `bench/eviction.json` into the target directory.

#[path = "../../src/cache/policy/tests/simulated.rs"]
mod simulated;
mod traces;

use nfs_cachefs::cache::policy::{self, PolicyKind};
use serde_json::{Map, Value, json};
use simulated::SimulatedCache;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use traces::Trace;

const REQUESTS: usize = 400_000;
const KINDS: [(&str, PolicyKind); 4] = [
    ("s3fifo", PolicyKind::S3Fifo),
    ("lru", PolicyKind::Lru),
    ("lfu", PolicyKind::Lfu),
    ("arc", PolicyKind::Arc),
];

fn hit_percent(trace: &Trace, kind: PolicyKind) -> f64 {
    let mut cache = SimulatedCache::new(kind.start(), trace.cache_blocks);
    trace.hit_percent(|id| cache.request(id, 1))
}

fn exact_lru_percent(trace: &Trace) -> f64 {
    let size = NonZeroUsize::new(trace.cache_blocks as usize).unwrap_or(NonZeroUsize::MIN);
    let mut cache = lru::LruCache::new(size);
    trace.hit_percent(|id| cache.put(id, ()).is_some())
}

/// The part of entries that are asked for once.
fn asked_once(ids: &[u64]) -> f64 {
    let mut counts: HashMap<u64, usize> = HashMap::new();
    for id in ids {
        *counts.entry(*id).or_default() += 1;
    }
    let once = counts.values().filter(|count| **count == 1).count();
    once as f64 / counts.len().max(1) as f64
}

fn measure(trace: &Trace) -> Value {
    let exact = exact_lru_percent(trace);
    let mut line = format!("{:<34} exact lru {exact:5.1}", trace.name);
    let mut ratios = Map::new();
    for (name, kind) in KINDS {
        let hits = hit_percent(trace, kind);
        line += &format!("  {name} {hits:5.1} ({:+5.1})", hits - exact);
        ratios.insert(name.to_owned(), json!(hits));
    }
    let once = [&trace.ids[..], &trace.ids[..trace.ids.len() / 10]].map(asked_once);
    let wanted = if trace.is_scan { "+10" } else { "-1.5" };
    println!(
        "{line}  once {:.2} / {:.2}  (s3fifo is to have {wanted} or more)",
        once[0], once[1]
    );
    json!({"exact_lru": exact, "hit_percent": ratios, "asked_once": once})
}

fn main() -> anyhow::Result<()> {
    // cargo bench passes --bench.
    let wanted = std::env::args().find_map(|word| word.parse().ok());
    let mut results = Map::new();
    for trace in traces::all(wanted.unwrap_or(REQUESTS)) {
        results.insert(trace.name.to_owned(), measure(&trace));
    }
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(3).unwrap_or(&program);
    let path = target.join("bench/eviction.json");
    std::fs::create_dir_all(path.with_file_name(""))?;
    std::fs::write(&path, serde_json::to_string_pretty(&results)?)?;
    println!("written: {}", path.display());
    Ok(())
}
