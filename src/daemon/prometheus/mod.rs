//! What a mount tells Prometheus, and its status page, over HTTP on a loopback port or a unix socket.
//!
//! What always holds: every number of `status --json` is a row of the table, or is said there not to be one; a
//! scrape reads the status once, waits for no backend, and no request of a program waits for it.
//!
//! - `table`: each metric with its place in the status, name, kind and help; `metrics_markdown` prints it;
//!   `mount_rows`, `cache_rows`: the rows
//! - `text`: the exposition format
//! - `http`: the server
//! - `page`: the status page (`page.html`) and what it shows; `history`: what the numbers were before

mod cache_rows;
mod history;
mod http;
mod mount_rows;
mod page;
mod table;
mod text;

pub use http::{MetricsServer, StatusSource};
pub use page::MapSource;
pub use table::metrics_markdown;
pub use text::exposition;
