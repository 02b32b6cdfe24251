//! TCP and Unix sockets: servers and clients, and the connections they serve. UDP sockets.

mod address;
mod client;
mod connection;
pub(crate) mod disposal;
mod group;
mod options;
mod result;
mod server;
mod sys;
mod target;
mod udp;

pub use address::{Address, UnixAddress};
pub use client::attempt::{Attempt, ConnectError, Failure};
pub use client::backoff::Backoff;
pub use client::{TcpClient, TcpClientBuilder};
pub use connection::handler::ConnectionHandler;
pub use connection::{ConnectionHandle, State, TcpConnection};
pub use group::StopReport;
pub use group::admission::{AtMaximum, ServerCounters};
pub use group::peer_key::PeerCredentials;
pub use options::{KeepAlive, SocketOptions};
pub use result::{CloseReason, Outcome, SendError, Sent};
pub use server::balancer::Distribution;
pub use server::{ManyLoops, ServerHandle, TcpServer, TcpServerBuilder, ThisLoop};
pub use sys::tcp_info::{TcpInfo, TcpState};
pub use target::Target;
pub use udp::{
    DatagramError, DatagramHandler, UdpDestination, UdpHandle, UdpRef, UdpSocket, UdpSocketBuilder, UdpSource,
};
