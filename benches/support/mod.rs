//! What the benchmarks share.
//!
//! - `subject`: who is measured: mounts and daemons, unmounted when dropped
//! - `slow_server`: a simulated slow server (the `faultfs` example)
//! - `measure`: time, CPU, disk and memory counters, medians
//! - `report`: the table and the JSON

// Every benchmark compiles all of this and uses its share.
#![allow(dead_code)]

pub mod measure;
pub mod report;
pub mod slow_server;
pub mod subject;
