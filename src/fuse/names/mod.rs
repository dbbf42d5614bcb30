//! Requests that change names and attributes.
//!
//! - `abi`: their structures
//! - `decode`: bytes to a [`NameRequest`], pure
//! - `dispatch`: to its verb of `Operations`, and the reply

pub mod abi;
pub mod decode;
mod dispatch;

pub use decode::NameRequest;
