//! Requests about locks.
//!
//! - `abi`: their structures
//! - `decode`: bytes to a [`LockCall`], pure
//! - `dispatch`: to its verb of `Operations`, and the reply

pub mod abi;
pub mod decode;
mod dispatch;

pub use decode::LockCall;
