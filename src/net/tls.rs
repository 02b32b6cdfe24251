//! TLS as a [`Filter`](super::Filter), with rustls.
//!
//! The filter uses rustls's unbuffered interface: records are decrypted in place in the loop's
//! input buffer, and encrypted directly into the output, so an idle connection holds no buffer.

mod certificates;
mod client;
mod client_builder;
mod connection;
mod error;
mod filter;
mod handshake_step;
mod info;
mod pem;
mod server;
mod server_builder;
mod session;

pub use self::client::ClientTls;
pub use self::client_builder::ClientTlsBuilder;
pub use self::connection::StartTls;
pub use self::error::TlsError;
pub use self::info::TlsInfo;
pub use self::server::ServerTls;
pub use self::server_builder::{ClientCertificates, ServerTlsBuilder};
