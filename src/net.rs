//! TCP: servers, and the connections they serve.

mod acceptor;
mod connection;
mod group;
mod handler;
mod server;
mod socket;

pub use connection::{ConnectionHandle, State, TcpConnection};
pub use group::StopReport;
pub use handler::{CloseReason, ConnectionHandler, Outcome, SendError, Sent};
pub use server::{ManyLoops, TcpServer, TcpServerBuilder, ThisLoop};
