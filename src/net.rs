//! TCP and Unix sockets: servers and clients, and the connections they serve. UDP sockets.

mod client;
mod server;
mod udp;

mod connector;
mod driver;
mod handler;
mod listener;

mod acceptor;
mod address;
mod admission;
mod attempt;
mod backoff;
mod budget;
mod connection;
mod descriptors;
mod distribution;
mod group;
mod int_options;
mod lookup;
mod options;
mod origin;
mod outcome;
mod path;
mod socket;
mod target;
mod tcp_info;

pub use address::{Address, UnixAddress};
pub use admission::{AtMaximum, ServerCounters};
pub use attempt::{Attempt, ConnectError, Failure};
pub use backoff::Backoff;
pub use client::{TcpClient, TcpClientBuilder};
pub use connection::{ConnectionHandle, State, TcpConnection};
pub use distribution::Distribution;
pub use group::StopReport;
pub use handler::ConnectionHandler;
pub use options::{KeepAlive, SocketOptions};
pub use origin::PeerCredentials;
pub use outcome::{CloseReason, Outcome, SendError, Sent};
pub use server::{ManyLoops, ServerHandle, TcpServer, TcpServerBuilder, ThisLoop};
pub use target::Target;
pub use tcp_info::{TcpInfo, TcpState};
pub use udp::{
    DatagramError, DatagramHandler, UdpDestination, UdpHandle, UdpRef, UdpSocket, UdpSocketBuilder, UdpSource,
};
