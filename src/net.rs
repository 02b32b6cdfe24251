//! TCP: servers, and the connections they serve.

mod server;

mod driver;
mod handler;
mod listener;

mod acceptor;
mod connection;
mod group;
mod outcome;
mod socket;

pub use connection::{ConnectionHandle, State, TcpConnection};
pub use group::StopReport;
pub use handler::ConnectionHandler;
pub use outcome::{CloseReason, Outcome, SendError, Sent};
pub use server::{ManyLoops, TcpServer, TcpServerBuilder, ThisLoop};
