//! The example `file_server` with TLS.
//!
//! Run it with `cargo run --release -p integrations --features uring --bin tls_file_server --
//! --tls cert.pem key.pem DIRECTORY`, then request a file with the command that it prints.
//! This program selects the crypto provider; the rest is the same source.

#[path = "../file_server/main.rs"]
mod file_server;

use std::process::ExitCode;

fn main() -> ExitCode {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        unreachable!("there is no provider before");
    }
    file_server::main()
}
