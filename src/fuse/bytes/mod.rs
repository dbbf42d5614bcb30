//! Requests that change bytes, and what surrounds them: creating, flushing, syncing.
//!
//! - `abi`: their structures
//! - `decode`: bytes to a [`ByteRequest`], pure
//! - `dispatch`: to its verb of `Operations`, and the reply

mod abi;
pub mod decode;
mod dispatch;

pub use decode::ByteRequest;
