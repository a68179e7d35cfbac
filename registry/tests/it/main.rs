//! Integration tests of `modelship-registry`, one binary: real registries for what they can
//! show, a scripted server for faults they cannot be made to produce.
#![expect(clippy::unwrap_used, reason = "tests")]

mod auth;
mod copies;
mod deletes;
mod downgrades;
mod entra;
mod faults;
mod images;
mod leaving_tls;
mod many;
mod oci_client_defects;
mod proxied;
mod proxied_alone;
mod pulls;
mod real;
mod referrers;
mod resumed;
mod secrets;
mod server;
mod tokens;
