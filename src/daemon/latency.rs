//! How long things took, as `status` tells it.

use super::status::{LatencyBucket, LatencyStatus};
use crate::metrics::{BackendMetrics, CacheMetrics, DURATION_BOUNDS_US, Durations};

pub(super) fn latencies(backend: &BackendMetrics, cache: &CacheMetrics) -> Vec<LatencyStatus> {
    vec![
        told("backend", "metadata", &backend.metadata_calls),
        told("backend", "data", &backend.data_calls),
        told("read", "hit", &cache.disk_hits),
        told("read", "miss", &cache.misses),
    ]
}

fn told(of: &str, kind: &str, durations: &Durations) -> LatencyStatus {
    let bounds = DURATION_BOUNDS_US.into_iter().map(Some).chain([None]);
    let buckets = bounds
        .zip(durations.counts())
        .map(|(up_to_us, count)| LatencyBucket { up_to_us, count });
    LatencyStatus {
        of: of.to_owned(),
        kind: kind.to_owned(),
        total_us: durations.total_us(),
        buckets: buckets.collect(),
    }
}
