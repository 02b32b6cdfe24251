//! Channels: readiness of descriptors that the user owns.

#[path = "../support/mod.rs"]
mod support;

mod descriptors;
mod duplicated_descriptors;
mod eventfd_model;
mod eventfd_source;
mod events;
mod hostile_descriptors;
mod removal;
mod triggers;
