//! HTTP/1.1 down to the byte, for servers that have to misbehave exactly.

mod head;
mod query;
mod wire;

pub(crate) use head::{Answer, Headers, Request};
pub(crate) use query::parse_query;
pub(crate) use wire::{Body, Wire, as_chunk};
