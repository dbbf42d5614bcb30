//! What the file semantics are made of, and the values they work with.

use super::callers::Identity;
use super::operations::BackingRegistry;
use super::written::KeepWritten;
use crate::backend::deadline::Timers;
use crate::backend::health::Health;
use crate::backend::lanes::Lane;
use crate::backend::{Backend, Place};
use crate::cache::Cache;
use crate::cache::names::Names;
use crate::events::InvalidationQueue;
use crate::metrics::CacheMetrics;
use crate::readahead;
use crate::types::Attributes;
use crate::watch::Watch;
use std::sync::Arc;
use std::time::Duration;

/// Which lookups the kernel may remember (nfs(5), lookupcache).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LookupCache {
    All,
    Positive,
    None,
}

/// Values the file semantics work with.
#[derive(Clone, Debug)]
pub struct FsSettings {
    pub attributes_min: Duration,
    pub attributes_max: Duration,
    pub directory_min: Duration,
    pub directory_max: Duration,
    pub lookup_cache: LookupCache,
    /// Open asks the backend (close-to-open); else only when attributes have timed out.
    pub close_to_open: bool,
    pub revalidate_timeout: Duration,
    pub backend_timeout: Duration,
    /// How long an absence of the backend may last for what is known to stand in for it.
    pub stale: Duration,
    /// Files up to this size are filled whole before open replies, and never passed through.
    pub small_file_bytes: u64,
    pub passthrough: bool,
    /// Every open bypasses the kernel's page cache.
    pub direct_io: bool,
    pub readahead: readahead::Limits,
    /// Every change is EROFS.
    pub read_only: bool,
    /// The backend takes changes of bytes without waiting for its server.
    pub write_back: bool,
    pub keep_written: KeepWritten,
    /// A changed name is on stable storage before it is answered.
    pub sync_names: bool,
    /// Descriptors the daemon may have.
    pub descriptors_max: usize,
}

/// The backend's root.
#[derive(Clone, Debug)]
pub struct KnownRoot {
    pub place: Place,
    pub attributes: Attributes,
    /// As it is now; else as an earlier life has known it.
    pub is_fresh: bool,
}

/// What the file semantics are made of.
pub struct FsParts {
    pub settings: FsSettings,
    pub backend: Arc<dyn Backend>,
    pub identity: Identity,
    /// Lookups, attributes, listings.
    pub metadata_lane: Arc<Lane>,
    /// Changes of bytes.
    pub write_lane: Arc<Lane>,
    pub locks_lane: Arc<Lane>,
    /// Changes of names and attributes.
    pub changes_lane: Arc<Lane>,
    /// What nobody waits for yet.
    pub ahead_lane: Arc<Lane>,
    /// What somebody wants to have for later.
    pub warm_lane: Arc<Lane>,
    /// Work on the local disk only: never waits for the backend.
    pub local_lane: Arc<Lane>,
    pub health: Arc<Health>,
    pub timers: Arc<Timers>,
    pub cache: Arc<Cache>,
    pub names: Arc<Names>,
    pub root: KnownRoot,
    pub metrics: Arc<CacheMetrics>,
    pub invalidations: InvalidationQueue,
    pub watch: Arc<Watch>,
    /// `None`: the kernel or our privileges do not allow passthrough.
    pub registry: Option<Arc<dyn BackingRegistry>>,
}
