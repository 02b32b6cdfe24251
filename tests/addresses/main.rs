//! Socket addresses as text, IPv6 prefixes, and the kinds of errors.

#[path = "../support/mod.rs"]
mod support;

mod error_kinds;
mod ipv6_prefixes;
mod texts;
