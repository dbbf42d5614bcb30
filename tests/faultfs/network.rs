//! When a reply is delivered: see [`Network`].

use crate::protocol::Network;
use parking_lot::Mutex;
use std::time::{Duration, Instant};

#[derive(Default)]
pub struct Link {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    network: Network,
    /// The link has carried everything it was given by then.
    free_at: Option<Instant>,
}

impl Link {
    pub fn set(&self, network: Network) {
        *self.state.lock() = State {
            network,
            free_at: None,
        };
    }

    /// When the reply to a call made at `called` arrives, given that `data_bytes` go over the link.
    pub fn delivery(&self, called: Instant, data_bytes: u64) -> Instant {
        let mut state = self.state.lock();
        let after_latency = called + Duration::from_micros(state.network.latency_us);
        let Some(bandwidth) = state
            .network
            .bandwidth_bytes_per_s
            .filter(|_| data_bytes > 0)
        else {
            return after_latency;
        };
        let carrying = Duration::from_secs_f64(data_bytes as f64 / bandwidth.max(1) as f64);
        let begins = state.free_at.map_or(called, |free_at| free_at.max(called));
        let carried = begins + carrying;
        state.free_at = Some(carried);
        after_latency.max(carried)
    }
}
