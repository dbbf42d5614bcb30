//! What an engine is asked for and what it answers. Plain data.

use serde::Serialize;
use std::time::Duration;

/// Which engine to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EngineKind {
    /// io_uring where it works, else blocking.
    #[default]
    Auto,
    /// As `Auto`; the report tells when it is not to be had.
    Uring,
    /// Threads and plain system calls.
    Blocking,
}

/// Values for [`super::engine::Engine::start`]. Out of range values are brought into range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineSettings {
    pub kind: EngineKind,
    /// Reads under way in one ring, 1 to 4096; threads of the blocking engine, at most 64.
    pub queue_depth: u32,
    /// Busily poll the device for O_DIRECT reads (IORING_SETUP_IOPOLL), where its driver can.
    pub polling: bool,
    /// Register the read buffers with the kernel: their pages stay resident.
    pub fixed_buffers: bool,
    /// A kernel thread picks submissions up and sleeps after this long without any.
    pub sq_poll_idle: Option<Duration>,
    /// Ask for transparent huge pages for the read buffers.
    pub huge_pages: bool,
    /// Run the rings' threads on the NUMA node of the first cache disk that has one.
    pub numa_aware: bool,
    /// The class of read buffers for most requests.
    pub small_buffer_bytes: usize,
    pub small_buffers: usize,
    /// The class for the largest requests.
    pub large_buffer_bytes: usize,
    pub large_buffers: usize,
    /// Pieces of fill on their way at once, 1 to 64.
    pub fill_parallelism: usize,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            kind: EngineKind::Auto,
            queue_depth: 128,
            polling: false,
            fixed_buffers: true,
            sq_poll_idle: None,
            huge_pages: false,
            numa_aware: false,
            small_buffer_bytes: 64 * 1024,
            small_buffers: 128,
            large_buffer_bytes: 1024 * 1024,
            large_buffers: 32,
            fill_parallelism: 8,
        }
    }
}

/// Which engine runs, why, and what became of each feature that was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct EngineReport {
    /// "uring" or "blocking".
    pub engine: &'static str,
    pub reason: String,
    pub features: Vec<FeatureReport>,
}

/// One feature that was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FeatureReport {
    pub name: &'static str,
    pub in_use: bool,
    /// How it is used, or why it has no effect on this machine.
    pub detail: String,
}

impl EngineReport {
    /// Sets what is known of a feature, replacing what was known before.
    pub(crate) fn set(&mut self, name: &'static str, in_use: bool, detail: impl Into<String>) {
        self.features.retain(|feature| feature.name != name);
        self.features.push(FeatureReport {
            name,
            in_use,
            detail: detail.into(),
        });
    }
}
