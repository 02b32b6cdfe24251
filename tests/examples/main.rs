//! The example programs, as processes.

#[path = "../support/mod.rs"]
mod support;

mod balance;
mod doorbell;
mod echo;
mod eventfd;
mod every_example;
mod file_server;
mod kvm_doorbell;
mod memcached;
mod offload;
mod redis;
mod services;
mod socks;
mod terminal;
mod udp_echo;
mod uring_cat;
mod zlib_tunnel;
